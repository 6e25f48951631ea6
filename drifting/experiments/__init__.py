"""What is done with runs once they are made: sweeps, comparisons, reports, plans, exports.

To add one: a module with one function that does it, and a command in `drifting/cli/experiments.py`.
"""
