"""`drifting plan`: whether a run fits its devices, and how long a step takes."""
