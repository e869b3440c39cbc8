"""Hosts: where the model lives. The core sees only the protocol in `base`."""
