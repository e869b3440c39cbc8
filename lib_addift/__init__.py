"""Train Difference LoRA: two pictures in, a LoRA of their difference out (ADDifT)."""

__version__ = "0.1.0"
TITLE = "Train Difference LoRA"  # what people read: the name of the tab and of the group of API routes
