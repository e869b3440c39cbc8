"""Folders of pairs: matching files, reading addift.toml, and planning a batch."""
