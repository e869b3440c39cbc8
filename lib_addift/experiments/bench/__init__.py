"""Speed and memory, beside the loop of the method's first implementation, in one run."""
