"""Facts about a source by which a run notices that its data have changed."""

import hashlib
from typing import Any

import numpy as np

from drifting.data.source import LabelledSource

PROBED_IMAGES = 32
"""Images that the checksum of a data set covers."""


def data_facts(source: LabelledSource) -> dict[str, Any]:
    """What a run depends on of its data, JSON-able: enough to use its model without them, and to tell others apart.

    The checksum covers all labels and `PROBED_IMAGES` images spread over the data: that is cheap on any size, and a
    data set that was exchanged or reordered under the same path is noticed.
    """
    images, _ = source.__getitems__(np.linspace(0, len(source) - 1, PROBED_IMAGES).astype(np.int64))
    checksum = hashlib.sha256(source.labels.tobytes() + images.tobytes()).hexdigest()
    return {
        "data": source.name,
        "samples": len(source),
        "shape": list(source.shape),
        "classes": list(source.class_names),
        "checksum": checksum,
    }
