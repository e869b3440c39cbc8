"""The tiny world: small drawn faces, detectors for what they show, and a checkpoint trained on them."""
