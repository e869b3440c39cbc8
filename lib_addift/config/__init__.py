"""Every setting of a training run: its default, bounds, label and help, the presets, and settings as text."""
