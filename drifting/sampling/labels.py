"""Which classes to draw: numbers, names, or a file of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.errors import ConfigError, require
from drifting.sampling.generator import TrainedGenerator


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """`count` labels `[count]` int32, the classes in turn: as evenly spread as can be."""
    return (np.arange(count) % num_classes).astype(np.int32)


def class_labels(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """The labels that are meant by names or numbers; None: all.

    Raises:
        ConfigError: the list is empty, or there is no such class.
    """
    if classes is None:
        return list(range(len(names)))
    if not [name for name in classes if name.strip()]:
        raise ConfigError("--classes=: give at least one class, or leave it out")
    return [_class_label(name, names) for name in classes]


def _class_label(given: str, names: Sequence[str]) -> int:
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    raise ConfigError(f"--classes={given}: use names or numbers from 0 to {len(names) - 1}, separated by commas")


def wanted_labels(
    trained: TrainedGenerator, count: int | None, classes: Sequence[str] | None = None, file: str | None = None
) -> NDArray[np.int32]:
    """The label of each image to draw, `[count]` int32: `classes` in turn, or the first of a file.

    Args:
        trained: whose classes. count: None: as many as the file has.
        classes: names or numbers; None: all. file: text, a number on each line, or `.npy`.

    Raises:
        ConfigError: there are no classes or no such, the file has too few labels or wrong ones.
    """
    names = trained.usage.class_names
    if file is None:
        if count is None:
            raise ConfigError("--num: give the number of images")
        chosen = np.asarray(class_labels(classes, names), np.int32)
        return chosen[balanced_labels(count, len(chosen))]
    require(classes is None, "--classes", classes, "--labels says which, leave one of them out")
    labels = _read_labels(file)
    wrong = labels[(labels < 0) | (labels >= len(names))]
    if len(wrong):
        raise ConfigError(f"--labels={file}: holds {wrong[0]}, labels lie in [0, {len(names) - 1}]")
    if count is not None and len(labels) < count:
        raise ConfigError(f"--labels={file}: holds {len(labels)} labels, --num={count} asks for more")
    return labels[:count].astype(np.int32)


def _read_labels(file: str) -> NDArray[np.int64]:
    try:
        if file.endswith(".npy"):
            found = np.load(file, allow_pickle=False)
        else:
            found = np.asarray([int(word) for word in Path(file).read_text(encoding="utf-8").split()], np.int64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels={file}: cannot be read as whole numbers ({error})") from error
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(f"--labels={file}: must hold one whole number for each image, has {list(found.shape)}")
    return found.astype(np.int64)
