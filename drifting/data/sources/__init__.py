"""Image sets by name. A new data set is a function that returns a `LabelledSource`, and an entry in `SOURCES`."""

import inspect
from collections.abc import Callable
from pathlib import Path

from drifting.config.schema import DataConfig
from drifting.data.latents.read import latents
from drifting.data.source import LabelledSource, OneClass, VerifiableSource, delivery
from drifting.data.sources.array import array
from drifting.data.sources.classic import cifar10, fashion_mnist, mnist
from drifting.data.sources.digits import digits
from drifting.data.sources.folder import imagefolder
from drifting.data.sources.synthetic import synthetic
from drifting.data.sources.tfds import tfds
from drifting.errors import ConfigError, InputError

SOURCES: dict[str, Callable[..., LabelledSource]] = {
    "digits": digits,
    "array": array,
    "imagefolder": imagefolder,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "tfds": tfds,
    "synthetic": synthetic,
    "latents": latents,
}


def make_source(
    name: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> LabelledSource:
    """Build the source `SOURCES[name]`; arguments left at None are not passed on.

    Raises:
        InputError: `name` is unknown, the source needs an argument that is None or takes none of that name, or the
            source itself refuses its arguments.
    """
    if name not in SOURCES:
        raise InputError(f"source name={name!r} is unknown: use one of {', '.join(SOURCES)}")
    given = {"path": path, "image_size": image_size, "channels": channels, "classes": classes}
    parameters = inspect.signature(SOURCES[name]).parameters
    for key, value in given.items():
        if value is None and key in parameters and parameters[key].default is inspect.Parameter.empty:
            raise InputError(f"source {name!r} needs {key}: give it")
        if value is not None and key not in parameters:
            raise InputError(f"source {name!r} takes no {key} (got {value!r}): leave it None")
    return SOURCES[name](split=split, **{key: value for key, value in given.items() if value is not None})


def source(data: DataConfig, split: str = "train") -> LabelledSource:
    """The real samples of `data`. Raises `ConfigError` where they cannot be had: no such files, an argument missing."""
    try:
        found = make_source(
            data.name,
            split=split,
            path=data.path,
            image_size=data.image_size,
            channels=data.channels,
            classes=data.classes,
        )
        delivers = delivery(found)
        if data.flip and not delivers.mirrored:
            raise InputError(
                f"{delivers.path or data.name} has no mirror images (cache.flip=False): set data.flip=False"
            )
        if data.verify and isinstance(found, VerifiableSource):
            found.verify()
    except (ConfigError, InputError) as error:
        raise ConfigError(f"data.name={data.name!r}: {error}") from error
    return OneClass(found) if data.unconditional else found
