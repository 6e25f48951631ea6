"""Pictures in the forms that people have: the same arrays as of class folders, and one line for what is wrong."""

import copy
import dataclasses
import gzip
import io
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drifting.cli.commands import main
from drifting.data.source import read_records
from drifting.data.sources import make_source, option_kinds
from drifting.errors import InputError, MachineError
from drifting.scoring.reference import read_reference
from tests.support import picture_sets
from tests.support.encoded_images import encoded, every_kind, noise
from tests.support.picture_sets import (
    CLASSES,
    FORMS,
    LIBRARIES,
    NUMBERED,
    TRAIN,
    Pictures,
    database,
    datum,
    edm_members,
    form_of,
    hub_table,
    in_arrow,
    in_edm_zip,
    in_folders,
    in_lmdb,
    in_parquet,
    in_shards,
    in_shards_with_json,
    parquet_of,
    source_param,
    tar,
    write,
    zip_of,
)
from tests.support.runs import FULL, ROOT, TINY, metrics


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_folders(tmp_path_factory.mktemp("folders"))


@pytest.mark.parametrize("form", [source_param(name, form) for form, (name, _) in FORMS.items()])
def test_every_form_delivers_what_class_folders_do(form: str, folders: Path, tmp_path: Path) -> None:
    """Images and labels of both splits to the last bit, the second time from what was kept, and of workers' copies."""
    name, write = FORMS[form]
    path = write(tmp_path / "data")
    for split, width in (("train", None), ("heldout", 12)):
        size = dict(image_size=8, image_width=width, split=split)
        expected = make_source("imagefolder", path=folders, **size)
        for _ in range(2):
            found = make_source(name, path=path, **size)
            assert found.name == name and found.shape == (8, width or 8, 3)
            assert found.class_names == (("0", "1", "2") if form in NUMBERED else CLASSES)
            np.testing.assert_array_equal(found.labels, expected.labels)
            for source in (found, copy.deepcopy(found)):
                rows = np.arange(len(expected))[::-1]
                turned, seeds = rows % 2 == 0, [(1, int(row)) for row in rows]
                for given in (None, seeds):
                    ours, theirs = (read_records(one, rows, turned, given) for one in (source, expected))
                    np.testing.assert_array_equal(ours[0], theirs[0])
                    np.testing.assert_array_equal(ours[1], theirs[1])


# --- what is wrong is one line ----------------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], name: str, path: Path, *options: str) -> str:
    """What `drifting cache` says of data that it refuses before anything is encoded or written."""
    settings = [
        f"--config.data.{key}"
        for key in (f"name={name}", f"path={path}", "image_size=16", "vae=random://smoke", *options)
    ]
    workdir = path.parent / "cache"
    code = main(["cache", "--config=data/imagenet", f"--workdir={workdir}", *settings])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error" in line]
    assert code == 2 and captured.out == "" and len(lines) == 1 and not workdir.exists(), captured
    return lines[0].removeprefix("drifting: error: ")


def relabelled(label: int) -> Pictures:
    return [(name, data, label if number == 4 else of) for number, (name, data, of) in enumerate(TRAIN)]


def changed(write_form: Callable[[Path], Path], change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Writes a form and then changes something below it."""

    def both(root: Path) -> Path:
        change(write_form(root))
        return root

    return both


def cut(pattern: str, left: float = 0.6) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = sorted(root.rglob(pattern))[0]
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * left)])

    return change


def replaced(pattern: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = sorted(root.rglob(pattern))[0]
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return change


def rewritten(pattern: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Changes the table in a parquet file."""

    def change_file(root: Path) -> None:
        from pyarrow import parquet

        path = sorted(root.rglob(pattern))[0]
        parquet.write_table(change(parquet.read_table(path)), path)

    return change_file


def named(table: Any) -> Any:
    """A table whose labels are names."""
    import pyarrow as pa

    names = pa.array([CLASSES[label] for label in table["label"].to_pylist()])
    return table.set_column(table.schema.get_field_index("label"), "label", names)


def arrow(path: Path, table: Any) -> Path:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), table.schema) as out:
        out.write_table(table)
    return path


def shard_of(members: dict[str, bytes]) -> Callable[[Path], Path]:
    return lambda root: tar(root / "0.tar", members).parent


def zip_with(members: dict[str, bytes]) -> Callable[[Path], Path]:
    return lambda root: zip_of(root / "all.zip", members).parent


def folder_with(table: bytes, name: str = "labels.csv") -> Callable[[Path], Path]:
    def write_files(root: Path) -> Path:
        for file in ("a.png", "b.png", "d/e.png", "f/e.png"):
            write(root / file, PNG)
        return write(root / name, table).parent

    return write_files


def lfs(root: Path) -> Path:
    return write(root / "x", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n").parent


PNG = TRAIN[1][1]

JPG = every_kind(12)["rgb.jpg"]

WRONG: dict[str, tuple[str, Callable[[Path], Path], list[str], str]] = {
    # parquet
    "no such column": (
        "parquet",
        in_parquet,
        ["options.parquet.image=img"],
        r"data\.options\.parquet\.image='img': .* no such column, but image .*label",
    ),
    "no such labels": (
        "parquet",
        in_parquet,
        ["options.parquet.label=y"],
        r"data\.options\.parquet\.label='y': .* no such column",
    ),
    "no pictures there": (
        "parquet",
        in_parquet,
        ["options.parquet.image=label"],
        "image='label': .* holds int64, not encoded pictures",
    ),
    "no labels there": (
        "parquet",
        in_parquet,
        ["options.parquet.label=image"],
        "label='image': .* not whole numbers or names",
    ),
    "two columns of pictures": (
        "parquet",
        parquet_of(TRAIN, mask=[PNG] * 9),
        [],
        "2 columns of images .* set data.options.parquet.image to one",
    ),
    "label without a name": ("parquet", parquet_of(relabelled(7)), [], "label 7 of 1 image is none of the 3 classes"),
    "label -1": ("parquet", parquet_of(relabelled(-1)), [], "1 image of label -1"),
    "label -1, no names": ("parquet", parquet_of(relabelled(-1), names=None), [], "1 image of label -1"),
    "null labels": ("parquet", parquet_of(TRAIN, label=[0, None, *[1] * 7]), [], "row 1 has no label, 1 row in all"),
    "parquet cut short": (
        "parquet",
        changed(in_parquet, cut("train-00000*")),
        [],
        r"train-00000\S+: cannot be read .*copy it again",
    ),
    "second file cut short": (
        "parquet",
        changed(in_parquet, cut("train-00001*")),
        [],
        r"train-00001\S+: cannot be read",
    ),
    "arrow cut short": ("parquet", changed(in_arrow, cut("train/*.arrow")), [], r"data-00000\S+: cannot be read"),
    "pointer of LFS": ("parquet", lambda root: (lfs(root) / "x").rename(root / "x.parquet").parent, [], "git lfs pull"),
    "no parquet": ("parquet", in_shards, [], "holds no parquet or arrow files"),
    "empty folder": ("parquet", lambda root: write(root / "README.md", b"").parent, [], "holds no parquet"),
    "nothing there": ("parquet", lambda root: root, [], "there is no such file or folder"),
    "second file without labels": (
        "parquet",
        changed(in_parquet, rewritten("train-00001*", lambda table: table.drop_columns(["label"]))),
        [],
        r"train-00001\S+: has no column 'label', which train-00000\S+ has, but image: write both alike",
    ),
    "second file of other labels": (
        "parquet",
        changed(in_parquet, rewritten("train-00001*", named)),
        [],
        r"train-00001\S+: its column 'label' is of string, and of int64 in train-00000",
    ),
    "second arrow file of other labels": (
        "parquet",
        lambda root: (
            arrow(
                arrow(root / "data-0.arrow", hub_table(TRAIN)).with_name("data-1.arrow"), named(hub_table(TRAIN))
            ).parent
        ),
        [],
        r"data-1\.arrow: its column 'label' is of string, and of int64 in data-0",
    ),
    "second arrow file without labels": (
        "parquet",
        lambda root: (
            arrow(
                arrow(root / "data-0.arrow", hub_table(TRAIN)).with_name("data-1.arrow"),
                hub_table(TRAIN).drop_columns(["label"]),
            ).parent
        ),
        [],
        r"data-1\.arrow: has no column 'label'",
    ),
    "labels between numbers": (
        "parquet",
        parquet_of(TRAIN, names=None, label=[0.5] * 9),
        [],
        r"row 0: its label is 0\.5",
    ),
    "no rows": ("parquet", parquet_of([]), [], "has no images"),
    # options
    "unknown option": ("parquet", in_parquet, ["options.parquet.images=a"], "did you mean data.options.parquet.image?"),
    "options of no source": (
        "parquet",
        in_parquet,
        ["options.parket.image=a"],
        "data.options='parket': .*did you mean 'parquet'",
    ),
    "option of another type": (
        "parquet",
        in_parquet,
        ["options.parquet.image=3"],
        "data.options.parquet.image=3: expected str",
    ),
    "source without options": (
        "imagefolder",
        in_folders,
        ["options.imagefolder.image=a"],
        "data.options='imagefolder': use one of",
    ),
    # tar
    "tar cut short": (
        "webdataset",
        changed(in_shards, cut("*train-000001.tar")),
        [],
        r"train-000001\.tar: is cut short",
    ),
    "no tar": ("webdataset", lambda root: write(root / "a.tar", b"hello" * 200).parent, [], r"a\.tar: is no tar file"),
    "tar.gz": (
        "webdataset",
        lambda root: write(root / "a.tar", gzip.compress(b"x")).parent,
        [],
        "compressed by gzip: unpack",
    ),
    "compressed tar shards": (
        "webdataset",
        lambda root: write(root / "train-0.tar.gz", gzip.compress(b"x")).parent,
        [],
        r"compressed ones, such as train-0\.tar\.gz: unpack them by `gunzip`",
    ),
    "compressed parquet": (
        "parquet",
        lambda root: write(root / "a.parquet.zst", b"x").parent,
        [],
        r"compressed ones, such as a\.parquet\.zst: unpack them by `unzstd`",
    ),
    "empty tar": ("webdataset", shard_of({}), [], "hold no samples"),
    "no cls": (
        "webdataset",
        shard_of({"0.png": PNG, "0.cls": b"1", "1.png": PNG}),
        [],
        r"0\.tar: sample '1': has no label, and others have one",
    ),
    "no picture": (
        "webdataset",
        shard_of({"0.npy": PNG, "0.cls": b"1"}),
        [],
        "sample '0' has no picture, but npy, cls",
    ),
    "two pictures": (
        "webdataset",
        shard_of({"0.png": PNG, "0.seg.png": PNG}),
        [],
        "has the pictures png, seg.png: set data.options.webdataset.image",
    ),
    "no such member": ("webdataset", in_shards, ["options.webdataset.image=webp2"], "webp2': sample '000000'"),
    "no such field": (
        "webdataset",
        in_shards_with_json,
        ["options.webdataset.label=json", "options.webdataset.field=y"],
        "no number or name at 'y'",
    ),
    "json cut short": (
        "webdataset",
        shard_of({"0.png": PNG, "0.json": b'{"label": 1'}),
        ["options.webdataset.label=json"],
        "0.json: holds no label",
    ),
    "label beyond the list": (
        "webdataset",
        changed(in_shards, replaced("classnames.txt", b"\ncat", b"")),
        [],
        "label 2 of 3 images is none of the 2 classes",
    ),
    "a list without labels": (
        "webdataset",
        lambda root: write(tar(root / "0.tar", {"0.png": PNG}).with_name("names.txt"), b"ant").parent,
        ["options.webdataset.classes=names.txt"],
        r"classes='names\.txt': the samples of .* have no labels",
    ),
    "keys of no json": (
        "webdataset",
        in_shards,
        ["options.webdataset.field=y", "options.webdataset.label=cls"],
        r"field='y': members \.cls have no keys",
    ),
    "splits in one tar": (
        "webdataset",
        shard_of({"train/a/a.png": PNG, "val/a/a.png": PNG}),
        [],
        "its folders are splits, train, val",
    ),
    "no such list": (
        "webdataset",
        in_shards,
        ["options.webdataset.classes=names.txt"],
        r"classes='names\.txt': there is no",
    ),
    # zip
    "zip cut short": (
        "zip",
        changed(in_edm_zip, cut("train.zip")),
        [],
        r"train\.zip: is no zip archive .*copy it again",
    ),
    "two zips": (
        "zip",
        changed(zip_with({"a.png": PNG}), lambda root: zip_of(root / "b.zip", {"a.png": PNG})),
        [],
        "holds all.zip and b.zip",
    ),
    "no images in it": ("zip", zip_with({"a.txt": b"a"}), [], "holds no images"),
    "json names another": (
        "zip",
        zip_with({"a.png": PNG, "dataset.json": b'{"labels": [["b.png", 0]]}'}),
        [],
        "names 'b.png', which is not",
    ),
    "json damaged": (
        "zip",
        zip_with({"a.png": PNG, "dataset.json": b'{"labels": [["a.png", 0'}),
        [],
        "dataset.json: is damaged",
    ),
    "several labels each": (
        "zip",
        zip_with({"a.png": PNG, "dataset.json": b'{"labels": [["a.png", [0, 1]]]}'}),
        [],
        r"'a\.png': its label is \[0, 1\], not one class",
    ),
    "json of something else": (
        "zip",
        zip_with({"a.png": PNG, "dataset.json": b'{"labels": [3]}'}),
        [],
        "has '3' among its labels",
    ),
    "splits in one zip": (
        "zip",
        zip_with({"train/a/a.png": PNG, "val/a/a.png": PNG}),
        [],
        "its folders are splits, train, val",
    ),
    # a folder and a table
    "csv with a missing file": (
        "flat",
        folder_with(b"file,label\na.png,1\nc.png,1\nd.png,0\n"),
        [],
        r"labels\.csv: names 'c\.png' \(and 1 more\), which is not",
    ),
    "the first is missing": ("flat", folder_with(b"c.png,1\na.png,1\n"), [], r"names 'c\.png', which is not"),
    "one name, two files": ("flat", folder_with(b"f,label\ne,1\n"), [], "names 'e', which is not"),
    "a picture twice": ("flat", folder_with(b"a.png,1\n./a.png,2\n"), [], "1 picture twice, 'a.png'"),
    "no label in a line": ("flat", folder_with(b"a.png,1\nb.png,\n"), [], "no class in the line 'b.png,'"),
    "a line too short": ("flat", folder_with(b"a.png,1\nb.png\n"), [], "no class in the line 'b.png'"),
    "which column": (
        "flat",
        folder_with(b"file,age,size\na.png,1,2\n"),
        [],
        r"It has file, age, size: set data\.options\.flat\.label",
    ),
    "no such title": (
        "flat",
        folder_with(b"file,age\na.png,1\n"),
        ["options.flat.label=kind"],
        r"data\.options\.flat\.label='kind': .* the columns file, age",
    ),
    "no titles": ("flat", folder_with(b"a.png,1\n"), ["options.flat.label=kind"], "has no titles"),
    "no such table": (
        "flat",
        folder_with(b""),
        ["options.flat.labels=train.csv"],
        r"data\.options\.flat\.labels='train\.csv': there is no",
    ),
    "empty table": ("flat", folder_with(b"\n"), [], "is empty"),
    "only a title": ("flat", folder_with(b"file,label\n"), [], "labels no picture"),
    "no text": ("flat", folder_with(b"\xff\xfe\x00\xd8"), [], "cannot be read as text"),
    "lines of no json": ("flat", folder_with(b'{"file_name": "a.png"\n', "metadata.jsonl"), [], "line 1 is no JSON"),
    "lines of lists": ("flat", folder_with(b"[1]\n", "metadata.jsonl"), [], "line 1 is no object of JSON"),
    "lines without files": ("flat", folder_with(b'{"label": 1}\n', "metadata.jsonl"), [], "has no file_name"),
    "no images": ("flat", in_shards, [], "holds no images"),
    "no folder": ("flat", lambda root: root, [], "is not a folder"),
    # LMDB
    "lmdb cut short": ("lmdb", changed(in_lmdb, cut("pictures_train_lmdb/data.mdb")), [], "cut short"),
    "no lmdb": ("lmdb", lambda root: write(root / "data.mdb", b"hello" * 4000).parent, [], "data.mdb: cannot be read"),
    "empty lmdb": ("lmdb", lambda root: database(root, {}), [], "has no images"),
    "pickles": ("lmdb", lambda root: database(root, {b"0": b"\x80\x04]."}), [], "0 is a pickle; .*never read here"),
    "empty lmdbs": (
        "lmdb",
        lambda root: database(database(root / "ant_train_lmdb", {}).with_name("bee_train_lmdb"), {}).parent,
        [],
        "has no images",
    ),
    "something else": ("lmdb", lambda root: database(root, {b"0": b"12345"}), [], "holds no images"),
    "floats": ("lmdb", lambda root: database(root, {b"0": b"\x08\x01\x35\0\0\0\0"}), [], "no Datum of Caffe"),
    "datum cut short": (
        "lmdb",
        lambda root: database(root, {b"0": datum(PNG, 1)[:40]}),
        [],
        "no message of protobuf, or cut short",
    ),
    "another shape": (
        "lmdb",
        lambda root: database(root, {b"0": datum(b"123", 1, (3, 2, 2))}),
        [],
        "Datum of 3x2x2 with 3 bytes",
    ),
    "datum of label -1": (
        "lmdb",
        lambda root: database(root, {b"%d" % k: datum(PNG, k - 1) for k in range(3)}),
        [],
        "1 image of label -1",
    ),
    "key that is not there": (
        "lmdb",
        lambda root: write(database(root, {b"0": PNG}) / "labels.csv", b"key,label\n7,1\n").parent,
        [],
        "names '7', which is not",
    ),
}


@pytest.mark.parametrize("case", [source_param(name, case) for case, (name, *_) in WRONG.items()])
def test_what_is_wrong_is_told_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, write_form, options, message = WRONG[case]
    line = told(capsys, name, write_form(tmp_path / "data"), *options)
    assert re.match(r"data\.(name|path|options[.\w]*)=", line) and re.search(message, line), line


@pytest.mark.parametrize("form", [source_param("webdataset", "shards"), source_param("zip", "edm")])
def test_no_length_of_a_file_passes_for_whole(form: str, tmp_path: Path) -> None:
    """Over some of all lengths, those at the ends of blocks among them: tarfile takes some for the end."""
    name, write_form = FORMS[form]
    path = sorted(file for file in write_form(tmp_path / form).rglob("*train*") if file.is_file())[0]
    data = path.read_bytes()
    whole = len(data.rstrip(b"\0")) if name == "webdataset" else len(data)
    begins = data.index(b"\x89PNG") if name == "webdataset" else whole  # from there on it is known to be a tar file
    lengths = {*range(0, whole, 97), *range(0, whole, 512), whole - 1}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        told = "is cut short" if length > begins else r"cut short|is no zip archive|is no tar file|hold no samples"
        with pytest.raises(InputError, match=told) as error:
            make_source(name, path=path, image_size=8)
        assert "\n" not in str(error.value) and str(error.value).count("copy it again") < 2


OPTIONS = [
    source_param(name, form, key.name)
    for form, (name, _) in FORMS.items()
    for key in dataclasses.fields(option_kinds()[name])
]


@pytest.mark.parametrize(("form", "key"), OPTIONS)
def test_no_option_that_fits_nothing_is_ignored(form: str, key: str, tmp_path: Path) -> None:
    name, write_form = FORMS[form]
    with pytest.raises(InputError, match=rf"^options\.{name}\.{key}='nowhere': "):
        make_source(name, path=write_form(tmp_path / "data"), image_size=8, options={key: "nowhere"})


def test_labels_of_held_out_pictures_are_those_of_training(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.png", PNG)
    write(tmp_path / "train" / "labels.csv", b"a.png,7\n")
    write(tmp_path / "val" / "a.png", PNG)
    write(tmp_path / "val" / "labels.csv", b"a.png,8\n")
    assert make_source("flat", path=tmp_path, image_size=8).class_names == ("7",)
    with pytest.raises(InputError, match=r"the label 8 of 1 image is none of the 1 class \(7\)"):
        make_source("flat", path=tmp_path, image_size=8, split="heldout")


@pytest.mark.parametrize(("name", "data"), [("flat", {"a.png": PNG}), ("zip", {"all.zip": b""})])
def test_pictures_without_labels_are_of_one_class(name: str, data: dict[str, bytes], tmp_path: Path) -> None:
    for file, content in data.items():
        write(tmp_path / file, content)
    if name == "zip":
        zip_of(tmp_path / "all.zip", edm_members(TRAIN, labelled=False))
    found = make_source(name, path=tmp_path, image_size=8)
    assert found.class_names == ("all",) and not found.labels.any()
    with pytest.raises(InputError, match=r"held-out|is one file|has no .* with heldout"):
        make_source(name, path=tmp_path, image_size=8, split="heldout")


def test_they_are_trained_on_scored_against_and_encoded(tmp_path: Path) -> None:
    """One form for each command: to the networks all are alike, as the arrays are."""
    forms = {name: FORMS[name][1](tmp_path / name) for name in ("hub", "shards", "edm")}
    grey = [f"--config.data.{key}" for key in ("image_size=8", "channels=1")]
    data = ["--config.data.name=parquet", f"--config.data.path={forms['hub']}", *grey]
    model = ["model.name=mlp", "model.num_heads=None", "model.depth=2", "loss.labels=2"]
    steps = ["train.steps=2", "train.log_every=1", "train.sample_every=0"]
    settings = [f"--config.{key}" for key in (*model, *steps)]
    assert main(["train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}", *data, *settings]) == 0
    assert metrics(tmp_path / "run")[-1]["step"] == 2

    data = ["--config.data.name=webdataset", f"--config.data.path={forms['shards']}", *grey]
    out = tmp_path / "reference.npz"
    assert main(["reference", f"--config={TINY}", *data, "--encoder=pixels", f"--out={out}"]) == 0
    images = make_source("webdataset", path=forms["shards"], image_size=8, channels=1).__getitems__(range(9))[0]
    mean, _ = read_reference(out).gaussians["features"]
    np.testing.assert_allclose(mean, images.reshape(9, 64).mean(0), atol=1e-5)

    data = ["name=zip", f"path={forms['edm']}", "image_size=16", "vae=random://smoke"]
    settings = [f"--config.{key}" for key in ("cache.batch_size=32", *(f"data.{key}" for key in data))]
    assert main(["cache", "--config=data/imagenet", f"--workdir={tmp_path / 'cache'}", *settings]) == 0
    latents = make_source("latents", path=tmp_path / "cache")
    np.testing.assert_array_equal(latents.labels, make_source("zip", path=forms["edm"], image_size=16).labels)


def own_memory() -> float:
    """Megabytes that this process holds, without files that are mapped into it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not FULL, reason="100,000 images in five forms take minutes")
@pytest.mark.parametrize(
    "form", [source_param(FORMS[form][0], form) for form in ("hub", "shards", "edm", "table", "caffe")]
)
def test_many_images_are_opened_at_once_and_memory_stays(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [
        (name, encoded(Image.fromarray(noise(32, 32, 3, seed=k)), "JPEG"), of) for k, (name, _, of) in enumerate(TRAIN)
    ]
    many = [(f"{k:06}.jpg", small[k % 9][1], k % 3) for k in range(100_000)]
    monkeypatch.setattr(picture_sets, "SPLITS", {"train": many})
    monkeypatch.setattr(picture_sets, "TRAIN", many)
    name, write_form = FORMS[form]
    path = write_form(tmp_path / "data")
    make_source(name, path=path, image_size=32)
    began = time.monotonic()
    source = make_source(name, path=path, image_size=32)
    assert time.monotonic() - began < 5 and len(source) == len(many)
    rng, held = np.random.default_rng(0), []
    for _ in range(3):
        for _ in range(40):
            source.__getitems__(rng.integers(len(many), size=500))
        held.append(own_memory())
    assert held[2] - held[0] < 10, held


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_that_is_not_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = LIBRARIES[name]
    monkeypatch.setitem(sys.modules, library, None)
    extra = {"pyarrow": "hf", "lmdb": "lmdb"}[library]
    line = f"data.name={name!r}: needs {library}: pip install 'drifting[{extra}]'"
    assert told(capsys, name, tmp_path) == line
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith(library) for requirement in extras[extra])


def other_kept(file: Path) -> bytes:
    """A file of the same kind that holds something else."""
    if file.suffix == ".npz":
        np.savez(stream := io.BytesIO(), other=np.zeros(3))
        return stream.getvalue()
    return arrow(file.parent.parent.parent / "other.arrow", hub_table(TRAIN[:2])).read_bytes()


@pytest.mark.parametrize("name", [source_param(name) for name in ("parquet", "webdataset", "zip", "lmdb")])
def test_no_source_takes_what_another_has_kept(name: str, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"a/0.png": PNG, "b/1.png": PNG})
    for _ in range(2):
        assert make_source("zip", path=path, image_size=8).class_names == ("a", "b")
        if name != "zip":
            with pytest.raises(InputError, match=r"x\.zip"):
                make_source(name, path=path, image_size=8)


@pytest.mark.parametrize("name", [source_param(name) for name in ("parquet", "webdataset", "zip", "lmdb")])
def test_what_is_made_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside the data, or in the cache where those are read-only, and is made again when the data change."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = form_of(name)(tmp_path / "data")

    def kept() -> set[Path]:
        make_source(name, path=path, image_size=8)
        return {file for file in tmp_path.rglob("*") if file.is_file() and ".drifting" in file.parts}

    beside = kept()
    assert len(beside) == 1 and kept() == beside and not (tmp_path / "cache").exists()
    (file,) = beside
    whole = file.read_bytes()
    for damaged in (whole[:-50], whole[: len(whole) // 2], b"", b"PK\x05\x06" + bytes(18), other_kept(file)):
        file.write_bytes(damaged)
        assert kept() == beside and file.read_bytes() == whole
    os.symlink(path, tmp_path / "link")
    for spelled in (tmp_path / "link", os.path.relpath(path), f"{path}/../{path.name}/"):
        make_source(name, path=spelled, image_size=8)
        assert kept() == beside
    for old in (file for file in path.rglob("*") if file.is_file() and file not in beside):
        os.utime(old, (0, 0))
    assert len(kept()) == 1 and kept() != beside
    shutil.rmtree(file.parent)
    writable = os.access
    monkeypatch.setattr(os, "access", lambda to, mode: not Path(to).is_relative_to(path) and writable(to, mode))
    assert not kept() and len([*(tmp_path / "cache" / "drifting" / "data").iterdir()]) == 1
    (tmp_path / "elsewhere").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(MachineError, match=r"can be kept neither there nor in the cache: make .* writable"):
        kept()
