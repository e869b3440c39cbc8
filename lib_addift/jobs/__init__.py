"""Jobs: the queue, the store on the disk, the worker thread, and the runners that do the work."""
