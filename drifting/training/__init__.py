"""The loops: `generator`, `encoder` (pre-training), `latents` (`drifting cache`).

To add a training: a `course.Course`, whose feed, step and callbacks say what is trained; `loop.run_loop` does the rest.
"""
