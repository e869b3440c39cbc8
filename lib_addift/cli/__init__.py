"""The command line: one module for each command that has several options."""
