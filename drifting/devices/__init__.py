"""Devices and processes: meshes and where arrays lie, functions in blocks of rows, who writes, how a run is stopped.

To add a way to spread arrays: a rule in `mesh.SHARDING_RULES`, or a method of `mesh.Layout`.
"""
