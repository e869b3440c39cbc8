"""The worlds of generated pictures whose bundled checkpoints `train_world` trains, and the stages of that training."""
