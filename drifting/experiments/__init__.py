"""What is done with runs: sweeps, comparisons, reports, plans, exports."""
