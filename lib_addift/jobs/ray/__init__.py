"""Jobs on a Ray cluster: the runner, the pool of worker processes, and what runs in them."""
