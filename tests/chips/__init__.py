"""What the compilers for chips make of the step; see `make chips`."""
