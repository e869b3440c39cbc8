"""Evaluation of a LoRA: the round trip, the preview strip, and calibration of finished files."""
