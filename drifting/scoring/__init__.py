"""Numbers for images: scores against a reference or a run's own data, their intervals, and the diagnosis of the drift.

To add a metric: a module in `metrics` and an entry in `METRICS`. To add a feature space: a module in `image_features`
and an entry in `SCORE_ENCODERS`.
"""
