"""Devices and processes: meshes, who does what, and how a run ends early."""
