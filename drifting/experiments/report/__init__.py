"""One HTML page about a run or a sweep, drawn from its files, that needs nothing else."""
