"""Folders of pairs: which files belong together, what an addift.toml says, and what a batch would do."""
