"""The same few pictures in every form that data sets come in, as their usual writers lay them out."""

import csv
import importlib.util
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.encoded_images import encoded, every_kind, noise

CLASSES = ("ant", "bee", "cat")

Pictures = list[tuple[str, bytes, int]]
"""Names, encoded images of various kinds and sizes, and labels."""


def pictures(count: int = 9, seed: int = 0) -> Pictures:
    kinds = [data for name, data in every_kind(12).items() if name.endswith(("png", "jpg", "webp", "gif"))]
    found = []
    for number in range(count):
        data = kinds[(number + seed) % len(kinds)]
        if number % 2:
            data = encoded(Image.fromarray(noise(9 + number, 14, 3, seed=number + seed)), "PNG")
        found.append((f"{number:05}{ending(data)}", data, number % len(CLASSES)))
    return found


def ending(data: bytes) -> str:
    marks = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}
    return next(end for mark, end in marks.items() if data.startswith(mark))


TRAIN, HELDOUT = pictures(), pictures(5, seed=3)

SPLITS = {"train": TRAIN, "val": HELDOUT}


def in_folders(root: Path) -> Path:
    """What the others are compared with: class folders, whose order is that of `by_class`."""
    for split, found in SPLITS.items():
        for name, data, label in found:
            write(root / split / CLASSES[label] / name, data)
    return root


def by_class(found: Pictures) -> Pictures:
    """Pictures in the order in which `imagefolder` has them."""
    return sorted(found, key=lambda picture: (picture[2], picture[0]))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- parquet and arrow ------------------------------------------------------------------------------------------------


def hub_table(found: Pictures, names: tuple[str, ...] | None = CLASSES, **columns: Any) -> Any:
    """A table as `datasets` makes it: bytes and paths, and the features in the schema's metadata."""
    import pyarrow as pa

    image = pa.array(
        [{"bytes": data, "path": name} for name, data, _ in found],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": image, "label": pa.array([label for *_, label in found], pa.int64())} | columns)
    if names is None:
        return table
    label = {"names": list(names), "_type": "ClassLabel"}
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


def in_parquet(root: Path, make: Callable[..., Any] = hub_table, **options: Any) -> Path:
    """Two files of the training images, each of several row groups, as on the hub: `data/train-00000-of-00002..`."""
    from pyarrow import parquet

    root.mkdir(parents=True)
    for split, found in {"train": by_class(TRAIN), "validation": by_class(HELDOUT)}.items():
        middle = (len(found) + 1) // 2
        for number, part in enumerate((found[:middle], found[middle:])):
            table = make(part, **options)
            parquet.write_table(
                table, root / f"{split}-{number:05}-of-00002.parquet", row_group_size=max(len(part) // 100, 2)
            )
    return root


def parquet_of(found: Pictures, **columns: Any) -> Callable[[Path], Path]:
    def write_file(root: Path) -> Path:
        from pyarrow import parquet

        root.mkdir()
        parquet.write_table(hub_table(found, **columns), root / "all.parquet")
        return root

    return write_file


def in_plain_parquet(root: Path) -> Path:
    """Somebody's own columns: bytes, and names of classes."""
    import pyarrow as pa

    def plain(found: Pictures) -> Any:
        names = pa.array([CLASSES[label] for *_, label in found])
        return pa.table(
            {"class": names, "caption": names, "jpg": pa.array([data for _, data, _ in found], pa.binary())}
        )

    return in_parquet(root, plain)


def in_arrow(root: Path) -> Path:
    """What `DatasetDict.save_to_disk` writes: streams of record batches."""
    import pyarrow as pa

    for split, found in {"train": by_class(TRAIN), "test": by_class(HELDOUT)}.items():
        file = root / split / "data-00000-of-00001.arrow"
        file.parent.mkdir(parents=True)
        table = hub_table(found)
        with pa.ipc.new_stream(str(file), table.schema) as out:
            out.write_table(table, max_chunksize=2)
        (root / split / "state.json").write_text("{}")
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return root


# --- tar --------------------------------------------------------------------------------------------------------------


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 0.5  # whose fraction takes a header more, as webdataset writes them
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(found: Pictures, label: Callable[[int], tuple[str, bytes]]) -> dict[str, bytes]:
    members = {}
    for number, (_, data, of) in enumerate(found):
        key = f"{number:06}"
        members[f"{key}{ending(data)}"] = data
        ended, content = label(of)
        members[f"{key}.{ended}"] = content
        members[f"{key}.txt"] = b"a caption"
    return members


def in_shards(root: Path, label: Callable[[int], tuple[str, bytes]] = lambda of: ("cls", b"%d\n" % of)) -> Path:
    for split, found in SPLITS.items():
        ordered = by_class(found)
        middle = len(ordered) // 2
        for number, part in enumerate((ordered[:middle], ordered[middle:])):
            tar(root / f"pictures-{split}-{number:06}.tar", samples(part, label))
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    return root


def in_shards_with_json(root: Path) -> Path:
    return in_shards(root, lambda of: ("json", json.dumps({"label": CLASSES[of], "width": 12}).encode()))


def in_tarred_folders(root: Path) -> Path:
    """Pictures in class folders and nothing else, as `tar` packs them."""
    for split, found in SPLITS.items():
        members = {f"./pictures/{CLASSES[label]}/{name}": data for name, data, label in by_class(found)}
        tar(root / f"{split}.tar", members)
    return root


# --- zip and folders with lists ---------------------------------------------------------------------------------------


def zip_of(path: Path, members: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edm_members(found: Pictures, labelled: bool = True) -> dict[str, bytes]:
    """As EDM's dataset_tool.py lays them out, which itself writes PNG alone."""
    names = [f"{number // 4:05}/img{number:08}{ending(data)}" for number, (_, data, _) in enumerate(found)]
    labels = [[name, label] for name, (*_, label) in zip(names, found, strict=True)] if labelled else None
    members = {name: data for name, (_, data, _) in zip(names, found, strict=True)}
    return members | {"dataset.json": json.dumps({"labels": labels}).encode()}


def in_edm_zip(root: Path) -> Path:
    for split, found in SPLITS.items():
        zip_of(root / f"{split}.zip", edm_members(by_class(found)))
    return root


def in_zipped_folders(root: Path) -> Path:
    for split, found in SPLITS.items():
        members = {f"pictures/{CLASSES[label]}/{name}": data for name, data, label in found}
        zip_of(root / f"{split}.zip", members | {"__MACOSX/._a.png": b"no image"}, zipfile.ZIP_DEFLATED)
    return root


def in_flat_folder(root: Path) -> Path:
    """Images beside each other, and a table of another order, semicolons and more columns than two."""
    for split, found in SPLITS.items():
        ordered = by_class(found)
        names = [f"{number:03}-{name}" for number, (name, *_) in enumerate(ordered)]
        for name, (_, data, _) in zip(names, ordered, strict=True):
            write(root / split / "deep" / name, data)
        stream = io.StringIO()
        rows = [(name.partition(".")[0], 1.5, CLASSES[label]) for name, (*_, label) in zip(names, ordered, strict=True)]
        csv.writer(stream, delimiter=";").writerows([("id", "sharpness", "label"), *rows])
        (root / split / "labels.csv").write_bytes(stream.getvalue().encode("utf-8-sig"))
    return root


def in_unpacked_edm(root: Path) -> Path:
    for split, found in SPLITS.items():
        for name, data in edm_members(by_class(found)).items():
            write(root / split / name, data)
    return root


def in_folder_with_json_lines(root: Path) -> Path:
    """As the hub's `imagefolder` is: metadata.jsonl beside the pictures."""
    for split, found in SPLITS.items():
        ordered = by_class(found)
        names = [f"{number:03}-{name}" for number, (name, *_) in enumerate(ordered)]
        rows = [
            {"file_name": name, "text": "one", "label": label} for name, (*_, label) in zip(names, ordered, strict=True)
        ]
        for name, (_, data, _) in zip(names, ordered, strict=True):
            write(root / split / name, data)
        write(root / split / "metadata.jsonl", "\n".join(map(json.dumps, rows)).encode())
    return root


# --- LMDB -------------------------------------------------------------------------------------------------------------


def database(path: Path, entries: Mapping[bytes, bytes]) -> Path:
    import lmdb

    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return path


def datum(data: bytes, label: int, shape: tuple[int, int, int] | None = None) -> bytes:
    """Caffe's message: of encoded bytes, or of pixels `[C, H, W]`, blue first."""

    def field(number: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    sizes = shape or (3, 12, 12)
    head = b"".join(field(number, size) for number, size in enumerate(sizes, start=1))
    return head + field(4, data) + field(5, label) + field(7, int(shape is None))


def varint(value: int) -> bytes:
    found, value = bytearray(), value & 2**64 - 1  # numbers below 0 are written as if they had 64 bits
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def in_lmdb(root: Path) -> Path:
    """As Caffe's convert_imageset writes it with --encoded."""
    for split, found in SPLITS.items():
        entries = {
            b"%08d_%s" % (n, name.encode()): datum(data, of) for n, (name, data, of) in enumerate(by_class(found))
        }
        database(root / f"pictures_{split}_lmdb", entries)
    return root


def in_lmdb_with_labels(root: Path) -> Path:
    for split, found in SPLITS.items():
        entries = {b"num-samples": b"%d" % len(found)}
        for number, (_, data, label) in enumerate(by_class(found), start=1):
            entries |= {b"image-%09d" % number: data, b"label-%09d" % number: CLASSES[label].encode()}
        database(root / split, entries)
    return root


def in_lmdbs_of_classes(root: Path) -> Path:
    """As LSUN is laid out: a database for each category."""
    for split, found in SPLITS.items():
        for label, name in enumerate(CLASSES):
            entries = {name.encode(): data for name, data, of in found if of == label}
            database(root / f"{name}_{split}_lmdb", entries)
    return root


FORMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "hub": ("parquet", in_parquet),
    "plain": ("parquet", in_plain_parquet),
    "arrow": ("parquet", in_arrow),
    "shards": ("webdataset", in_shards),
    "json": ("webdataset", in_shards_with_json),
    "tarred": ("webdataset", in_tarred_folders),
    "edm": ("zip", in_edm_zip),
    "zipped": ("zip", in_zipped_folders),
    "table": ("flat", in_flat_folder),
    "unpacked": ("flat", in_unpacked_edm),
    "lines": ("flat", in_folder_with_json_lines),
    "caffe": ("lmdb", in_lmdb),
    "labels": ("lmdb", in_lmdb_with_labels),
    "lsun": ("lmdb", in_lmdbs_of_classes),
}
"""The source that reads each form, and what writes it."""

LIBRARIES = {"parquet": "pyarrow", "lmdb": "lmdb"}
"""What sources need that is an extra."""

NUMBERED = {"edm", "unpacked", "lines", "caffe"}
"""Forms that know no names of classes."""


def form_of(source: str) -> Callable[[Path], Path]:
    """What writes the first form that a source reads."""
    return next(write_form for name, write_form in FORMS.values() if name == source)


def source_param(name: str, *more: Any) -> Any:
    """A parameter of a test of the source `name`, which is skipped where its library is not installed."""
    missing = name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name]) is None
    marks = [pytest.mark.skip(reason=f"{LIBRARIES[name]} is not installed")] if missing else []
    return pytest.param(*(more or (name,)), marks=marks)
