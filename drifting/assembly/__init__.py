"""From settings to objects: each kind of object is made in one place."""
