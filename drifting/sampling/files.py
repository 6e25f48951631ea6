"""Images as files for evaluators: ADM's `.npz` and folders of PNGs, written part by part and read back lazily.

The `.npz` is that of "Diffusion Models Beat GANs" (Dhariwal & Nichol 2021): `arr_0` uint8 `[N, H, W, C]`, `arr_1` the
labels. It is not compressed, so that any part of it can be read without the rest, and holds no times: the same images
give the same bytes.
"""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drifting import __version__
from drifting.devices.interrupts import interrupts
from drifting.errors import counted, require_argument
from drifting.method.space import Shape
from drifting.runs.files import atomic_path, remove_torn, write_json
from drifting.runs.progress import Progress
from drifting.runs.shared_work import Parts, Share, check_facts
from drifting.sampling.images import GeneratedImages, Pixels

logger = logging.getLogger("drifting")

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip file can hold, in place of when it was written."""

IMAGES_A_PART = 512
"""How many images a part of a file has: a process that is killed may have to draw as many again."""

PNG_CHANNELS = 4

IMAGES_METADATA = "metadata.json"

CHANGEABLE_FACTS = ("source", "software")
"""Metadata that two calls which make one file may differ in: `weights` says whose images they are."""


def write_npz(path: Path, count: int, shape: Shape, images: Iterator[Pixels], labels: NDArray[np.integer]) -> None:
    """Writes ADM's `.npz`, whole or not at all, holding one array of `images` at a time.

    Args:
        path: the file.
        count: how many images there are.
        shape: height, width and channels of each.
        images: they come in parts, uint8 `[n, H, W, C]` each, in order.
        labels: `[count]`; they are written as int64, as ADM does.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "arr_0.npy") as file:
            _header(file, (count, *shape), np.dtype(np.uint8))
            for part in images:
                file.write(np.ascontiguousarray(part).data)
        with _member(archive, "arr_1.npy") as file:
            _header(file, (count,), np.dtype("<i8"))
            file.write(labels.astype("<i8").tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, ZIP_EPOCH), "w", force_zip64=True)


def _header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def write_pngs(folder: Path, first: int, images: Pixels) -> None:
    """Writes `NNNNNN.png` for each image `[n, H, W, C]`, counting from `first`; each whole or not at all."""

    def write(number: int) -> None:
        image = images[number]
        with atomic_path(_png(folder, first + number)) as temporary:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(temporary, format="PNG")

    with ThreadPoolExecutor() as pool:  # Pillow compresses outside the interpreter's lock
        list(pool.map(write, range(len(images))))


def remove_torn_pngs(folder: Path, items: Sequence[range]) -> None:
    """Removes what `write_pngs`, killed, has left of these images; of others another process may be writing."""
    remove_torn(*(_png(folder, number) for some in items for number in some))


def _png(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def write_images(images: GeneratedImages, out: Path, share: Share | None = None, about: str = "") -> bool:
    """Draws images into ADM's `.npz`, or a folder of PNGs, going on where an earlier call stopped.

    Beside them is what is needed to draw them again: `OUT.json`, or `metadata.json` in the folder. SIGTERM and Ctrl-C
    stop it; the part under way is drawn again.

    Args:
        images: what to draw.
        out: the file, ending in .npz, or the folder.
        share: which of several processes this one is; all are given the same folder.
        about: what is told of the images before any is drawn.

    Returns:
        Whether all images are there.

    Raises:
        ArgumentError: there are other images at `out`.
    """
    share = share or Share()
    folder = out.suffix != ".npz"
    record = out / IMAGES_METADATA if folder else out.with_suffix(".json")
    parts = Parts(out.with_name(f"{out.name}.parts"), len(images), IMAGES_A_PART, ".done" if folder else ".npy", out)
    remedy = f"a PNG holds 1 to {PNG_CHANNELS} channels, of these samples each has {images.shape[2]}: write an .npz"
    require_argument(not folder or images.shape[2] <= PNG_CHANNELS, "out", out, remedy)
    facts = images.facts | {"labels": np.asarray(images.labels).tolist(), "software": software()}
    if check_facts(out, record, facts, CHANGEABLE_FACTS) and (folder or out.exists()):
        logger.info("sample: finished already, %s holds %s", out, counted(len(images), "image"))
        _tidy(parts, out, record)
        return True
    strange = out.exists() and not parts.folder.exists() and not (folder and not any(out.iterdir()))
    remedy = "is there and not known to be these images; choose another, or remove it"
    require_argument(not strange, "out", out, remedy)
    parts.claim(facts, CHANGEABLE_FACTS)
    if about:
        logger.info("%s", about)
    if folder:
        out.mkdir(exist_ok=True)
    with parts.in_use(share):
        whole = _draw_parts(images, parts, share, out if folder else None)
    if not whole:
        logger.info("sample: stopped, the same command goes on from there")
        return False
    if left := parts.left():
        logger.info("sample: this process is done; %s of other processes still missing", counted(left, "part"))
        return False
    try:
        if not folder:
            pieces = (_loaded(parts.path(number)) for number in range(len(parts.ranges)))
            write_npz(out, len(images), images.shape, pieces, images.labels)
        write_json(record, facts)
    except FileNotFoundError:
        if not record.exists():  # otherwise another process has just put them together
            raise
    _tidy(parts, out, record)
    return True


def _tidy(parts: Parts, *finished: Path) -> None:
    parts.remove()
    for path in finished:
        remove_torn(path)


class _Interrupted(Exception):
    """A stop was asked for."""


def _draw_parts(images: GeneratedImages, parts: Parts, share: Share, folder: Path | None) -> bool:
    """Draws the missing parts of this process; returns False after an interrupt."""
    images.tell()
    missing = parts.missing(share)
    total = sum(len(parts.ranges[number]) for number in missing)
    if total < len(images):
        logger.info("sample: %s of %s to be drawn here", f"{total:,}", counted(len(images), "image"))
    if folder is not None:
        remove_torn_pngs(folder, [parts.ranges[number] for number in missing])
    with interrupts() as interrupted, Progress(total, label="sample", unit="images") as progress:

        def tick(count: int) -> None:
            progress.advance(count)
            if interrupted():
                raise _Interrupted

        try:
            for number in missing:
                drawn = images.part(parts.ranges[number], tick)
                if folder is None:
                    parts.write(number, partial(_save, drawn))
                else:
                    write_pngs(folder, parts.ranges[number].start, drawn)
                    parts.write(number, Path.touch)
        except _Interrupted:
            return False
    return True


def _loaded(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        found: np.ndarray = np.load(file, allow_pickle=False)
    return found


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # given a path, np.save adds a suffix to it
        np.save(file, array, allow_pickle=False)


def software() -> dict[str, str]:
    """The versions that drew something, and on what."""
    return {"drifting": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
