"""One training run: the loop, what it learns from, its plan, its loss, and its end."""
