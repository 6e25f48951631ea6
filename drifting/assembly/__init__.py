"""From settings to objects: each kind of object is made in one place, `run.prepare` puts a run together.

What a new section of the settings describes is made in a function here, which nobody below sees.
"""
