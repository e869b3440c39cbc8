"""Train Difference LoRA: two pictures in, a LoRA of their difference out (ADDifT)."""

__version__ = "0.1.0"
