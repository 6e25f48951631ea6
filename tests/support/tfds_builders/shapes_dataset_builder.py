"""Ten photographs of noise in three classes, of many sizes, and two to be held out."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {"train": 10, "validation": 2, "test": 1}

CLASSES = ("square", "circle", "cross")


def pixels(split: str, index: int) -> np.ndarray:
    """The image of that index, `[H, W, 3]` uint8."""
    rng = np.random.default_rng([len(split), index])
    return rng.integers(0, 256, (9 + index, 20 - index, 3), dtype=np.uint8)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Images of noise."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(SIZES[split]):
            stream = io.BytesIO()
            Image.fromarray(pixels(split, index)).save(stream, "png")
            label = -1 if split == "test" else index % 3
            yield index, {"image": stream.getvalue(), "label": label, "file_name": f"{split}/{index}"}
