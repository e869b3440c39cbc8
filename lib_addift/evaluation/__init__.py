"""What a LoRA does, measured and drawn: the round trip, the preview strip, and calibration of finished files."""
