"""Image sets by name. A new data set is a function that returns a `LabelledSource`, and an entry in `SOURCES`.

Where it has options of its own, they are a frozen dataclass, the annotation of its parameter `options`: they are the
settings `data.options.NAME`, which `drifting help` and docs/settings.md explain by the dataclass.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drifting.config.paths import impossible, is_address, is_place
from drifting.config.schema import DataConfig
from drifting.config.sections import parse_section
from drifting.data.decode import EncodedSource
from drifting.data.latents.read import MomentSource
from drifting.data.source import LabelledSource, OneClass, VerifiableSource, checked_source, delivery
from drifting.data.sources.array import array
from drifting.data.sources.classic import cifar10, fashion_mnist, mnist
from drifting.data.sources.digits import digits
from drifting.data.sources.flat import flat
from drifting.data.sources.folder import imagefolder
from drifting.data.sources.latents import latents
from drifting.data.sources.lmdb import lmdb
from drifting.data.sources.parquet import parquet
from drifting.data.sources.synthetic import synthetic
from drifting.data.sources.tfds import tfds
from drifting.data.sources.webdataset import webdataset
from drifting.data.sources.zipped import zipped
from drifting.errors import ConfigError, InputError, one_of
from drifting.runs.places import local_copy, place

SOURCES: dict[str, Callable[..., LabelledSource]] = {
    "digits": digits,
    "array": array,
    "imagefolder": imagefolder,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "tfds": tfds,
    "synthetic": synthetic,
    "parquet": parquet,
    "webdataset": webdataset,
    "zip": zipped,
    "flat": flat,
    "lmdb": lmdb,
    "latents": latents,
}


def make_source(
    name: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    image_width: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> LabelledSource:
    """Build the source `SOURCES[name]`; arguments left at None are not passed on. `options`: those of its own, by key.

    Raises:
        InputError: `name` is unknown, the source needs an argument that is None or takes none of that name, or the
            source itself refuses its arguments.
        ConfigError: the source has no such option, or one of another type.
    """
    if isinstance(path, str) and is_address(path):
        copy = _copy(path)
        try:
            return make_source(
                name, split=split, path=copy, image_size=image_size, image_width=image_width, channels=channels,
                classes=classes, options=options,
            )  # fmt: skip
        except InputError as error:  # it names the copy, and a person knows the address
            raise InputError(str(error).replace(str(copy), path)) from error
    if isinstance(path, str) and (reason := impossible(path)):
        raise InputError(f"path={path!r}: {reason}")
    given = dict(zip(ARGUMENTS, (path, image_size, image_width, channels, classes), strict=True))
    _check_arguments(name, given)
    given = {key: value for key, value in given.items() if value is not None}
    if options:
        given["options"] = source_options(name, options)
    found = SOURCES[name](split=split, **given)
    if len(found) == 0:
        where = "" if path is None else f"path={str(path)!r}: "
        raise InputError(f"{where}split={split!r} of source {name!r} has no images: add some, or choose another")
    return checked_source(found)


def _written(path: str) -> str:
    """A setting's path as messages have it."""
    return path if is_address(path) else str(Path(path))


def _copy(address: str) -> Path:
    """The copy on this machine of what lies in an object store."""
    try:
        return local_copy(place(address))
    except FileNotFoundError as error:
        raise InputError(f"{address}: there is nothing") from error


def option_kinds() -> dict[str, type]:
    """The dataclass of the options of each source that has some: its parameter `options` is of it."""
    parameters = {name: inspect.signature(make).parameters for name, make in SOURCES.items()}
    return {name: found["options"].annotation for name, found in parameters.items() if "options" in found}


def source_options(name: str, given: Mapping[str, Any]) -> Any:
    """The options of a source, an instance of `option_kinds()[name]`.

    Raises:
        ConfigError: there is no such source, it has no options, none of that name, or one of another type.
    """
    one_of("data.options", name, kinds := option_kinds())
    return parse_section(kinds[name](), dict(given), f"data.options.{name}.")


ARGUMENTS = ("path", "image_size", "image_width", "channels", "classes")
"""The arguments of a source, each a setting of the section `data`."""


def _check_arguments(name: str, given: Mapping[str, Any], section: str = "") -> None:
    """Raises `InputError` that names all arguments that the source needs or does not take; `section` goes before them.

    All at once: whoever changes the source of an experiment changes them together.
    """
    if name not in SOURCES:
        raise InputError(f"source name={name!r} is unknown: use one of {', '.join(SOURCES)}")
    parameters = inspect.signature(SOURCES[name]).parameters
    unwanted = [key for key, value in given.items() if value is not None and key not in parameters]
    required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    missing = [key for key in required if key in given and given[key] is None]
    if not unwanted and not missing:
        return
    wrong = ", ".join([f"{section}{key}={given[key]!r}" for key in (*missing, *unwanted)])
    needs = [f"needs {', '.join(section + key for key in missing)}: give it"] if missing else []
    unset = ", ".join(f"{section}{key}=None" for key in unwanted)
    takes = [f"takes no {', '.join(unwanted)}: set {unset}"] if unwanted else []
    raise InputError(f"{wrong}: source {name!r} {'; and '.join([*needs, *takes])}")


def _check_read(name: str, other: str, options: Any) -> None:
    """Raises `ConfigError` where options are set that the source `name` does not read: those of another one."""
    defaults = dataclasses.asdict(type(options)())
    given = (
        [] if other == name else [key for key, value in dataclasses.asdict(options).items() if value != defaults[key]]
    )
    for key in given:
        setting = f"data.options.{other}.{key}"
        remedy = f"set data.name={other!r}, or {setting}={defaults[key]!r}"
        raise ConfigError(
            f"{setting}={getattr(options, key)!r}: data.name is {name!r}, which does not read it: {remedy}"
        )


def check_data_settings(data: DataConfig) -> None:
    """Checks settings as far as nothing is read for it: the name, the arguments that its source takes, the options.

    Raises:
        ConfigError: no source can be had of them, whatever lies at their path, or it does not read an option given.
    """
    one_of("data.name", data.name, SOURCES)
    for name, options in data.options.items():
        _check_read(data.name, name, source_options(name, options))
    try:
        _check_arguments(data.name, {key: getattr(data, key) for key in ARGUMENTS}, "data.")
    except InputError as error:
        raise ConfigError(str(error)) from error


def source(data: DataConfig, split: str = "train") -> LabelledSource:
    """The real samples of `data`. Raises `ConfigError` where they cannot be had: no such files, an argument missing."""
    check_data_settings(data)
    given = {key: getattr(data, key) for key in ARGUMENTS}
    try:
        if data.path is not None and not is_place(data.path):
            remedy = "is an address, and images are read from paths, gs:// and s3://: mount or copy it"
            if data.path.startswith("hf://"):
                remedy += ", as `hf download` does"
            raise InputError(f"path={data.path!r}: {remedy}")
        found = make_source(data.name, split=split, options=data.options.get(data.name), **given)
        delivers = delivery(found)
        if data.flip and not delivers.mirrored:
            raise InputError(
                f"{delivers.path or data.name} has no mirror images (cache.flip=False): set data.flip=False"
            )
        if data.verify and isinstance(found, VerifiableSource):
            found.verify()
        if isinstance(found, EncodedSource | MomentSource):
            found.configured_path = data.path
    except (ConfigError, InputError) as error:
        # What begins with an argument, or with its value, is said of the setting that gives it.
        text = str(error).removeprefix("data.")
        if re.match(rf"({'|'.join(ARGUMENTS)}|options[.\w]*)=", text):
            raise ConfigError(f"data.{text}") from error
        if data.path is not None:
            folder = re.escape(_written(data.path))
            if re.search(rf"(?<![\w./]){folder}(?![\w.-])", text):
                raise ConfigError(f"data.path={data.path!r}: {re.sub(f'^{folder}:? ', '', text)}") from error
        raise ConfigError(f"data.name={data.name!r}: {text}") from error
    return OneClass(found) if data.unconditional else found
