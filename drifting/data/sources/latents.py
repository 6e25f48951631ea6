"""Latents that were encoded once and for all: a cache of `drifting cache`, or files of other code."""

from pathlib import Path

from drifting.data.latents.foreign import ForeignLatents, LatentsOptions, missing_beside, written_by
from drifting.data.latents.read import CACHE_FACTS_FILE, MANIFEST_FILE, LatentSource
from drifting.data.source import check_split
from drifting.errors import InputError


def latents(
    path: str | Path,
    split: str = "train",
    *,
    image_size: int | None = None,
    image_width: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    options: LatentsOptions = LatentsOptions(),  # noqa: B008  it is frozen
) -> LatentSource | ForeignLatents:
    """Latents that `drifting cache` encoded, as moments of their posteriors, or that other code has written.

    Args:
        path: the cache's folder, or one of the formats in `drifting.data.latents.formats`.
        split: `train`; there is no other.
        image_size, image_width, channels, classes: what the images that were encoded had. A cache knows it: where they
            are given, they are compared. Files of other code do not say for which size they are; None: 8 times that of
            latents.
        options: what files of other code do not say.

    Raises:
        InputError: it holds no finished cache and no such files, a file is missing or of another size, its images are
            others, or `split` is not `train`.
    """
    check_split(split)
    if split != "train":
        raise InputError(f"path={str(path)!r}: a cache of latents has no held-out images, score against the images")
    folder = Path(path)
    found: LatentSource | ForeignLatents
    is_cache = any((folder / name).is_file() for name in (MANIFEST_FILE, CACHE_FACTS_FILE))
    if not is_cache and (files := written_by(folder)) is not None:
        found = ForeignLatents(files, folder, image_size, options)
    elif options != LatentsOptions():
        raise InputError(
            f"path={str(path)!r}: holds no files of other code, of which options.latents are: leave them out"
        )
    elif not is_cache and folder.is_dir():
        missing = missing_beside(folder.absolute())
        wrong = "holds no cache of latents, nor another form of them: docs/data.md lists what is read"
        raise InputError(f"{folder}: {missing or wrong}")
    else:
        found = LatentSource(folder)
    given = {"image_size": image_size, "image_width": image_width, "channels": channels, "classes": classes}
    for (key, value), known in zip(given.items(), (*found.shape, found.num_classes), strict=True):
        if value not in (None, known):
            raise InputError(f"{key}={value}: the images that {path} was made from have {known}; leave it None")
    return found
