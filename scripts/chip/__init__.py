"""What there is to know of a chip: whether it computes what the CPU computes, and how fast. See `chip_report.py`."""
