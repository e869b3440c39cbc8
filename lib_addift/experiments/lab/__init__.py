"""The laboratory: methods compared with each other on the tiny world, by figures."""
