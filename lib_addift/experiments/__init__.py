"""What measures and makes, and no user needs: the laboratory, the bench, the training of the bundled model."""
