"""Labels of pictures, in every way that they are written down: all are read alike, and none is lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drifting.config.schema import DataConfig
from drifting.data.sources import make_source, source
from drifting.errors import InputError
from tests.support.encoded_images import encoded
from tests.support.picture_sets import TRAIN, database, datum, hub_table, parquet_of, source_param, tar, write, zip_of

PNG = TRAIN[1][1]


def labelled_by(name: str, root: Path, labels: list[Any]) -> Path:
    """Pictures in a form, with labels as JSON or the form itself has them; None: without."""
    files = [f"{number}.png" for number in range(len(labels))]
    if name == "cls":
        members = {f"{number}.cls": str(label).encode() for number, label in enumerate(labels) if label is not None}
        return tar(root / "a.tar", dict(sorted((members | dict.fromkeys(files, PNG)).items())))
    if name == "json":
        members = {}
        for number, label in enumerate(labels):
            about = {"width": 1} if label is None else {"width": 1, "label": label}
            members |= {f"{number}.png": PNG, f"{number}.json": json.dumps(about).encode()}
        return tar(root / "a.tar", members)
    pairs = list(zip(files, labels, strict=True))
    if name == "zip":
        return zip_of(root / "a.zip", dict.fromkeys(files, PNG) | {"dataset.json": json.dumps(pairs).encode()})
    if name == "lmdb":
        entries = {f"image-{file}".encode(): PNG for file in files}
        known = {f"label-{file}".encode(): str(label).encode() for file, label in pairs if label is not None}
        return database(root, entries | known)
    if name == "datum":
        return database(root, {f.encode(): PNG if of is None else datum(PNG, int(of)) for f, of in pairs})
    if name == "parquet":
        return parquet_of([(file, PNG, 0) for file in files], names=None, label=labels)(root)
    for file in files:
        write(root / file, PNG)
    if name == "csv":
        return write(
            root / "labels.csv", "".join(f"{f},{'' if of is None else of}\n" for f, of in pairs).encode()
        ).parent
    lines = [{"file_name": file, "label": label} for file, label in pairs]
    return write(root / "metadata.jsonl", "\n".join(map(json.dumps, lines)).encode()).parent


READS = {
    "cls": "webdataset",
    "json": "webdataset",
    "zip": "zip",
    "csv": "flat",
    "jsonl": "flat",
    "parquet": "parquet",
    "lmdb": "lmdb",
    "datum": "lmdb",
}
"""The source that reads each way of `labelled_by`."""


@pytest.mark.parametrize("how", [source_param(name, how) for how, name in READS.items()])
def test_labels_are_all_there_or_none_is(how: str, tmp_path: Path) -> None:
    """Wherever the one without a label lies, it is named and no label of others is thrown away."""
    for place in range(3):
        labels = [None if number == place else number for number in range(3)]
        path = labelled_by(how, tmp_path / str(place), labels)
        with pytest.raises(InputError, match=r"no label|no class in the line") as error:
            make_source(READS[how], path=path, image_size=8)
        named = f"row {place}" if how == "parquet" else f"'{place}'" if READS[how] == "webdataset" else f"{place}.png"
        assert named in str(error.value)


@pytest.mark.parametrize("how", [source_param(name, how) for how, name in READS.items() if how != "datum"])
def test_whole_numbers_are_classes_however_they_are_written(how: str, tmp_path: Path) -> None:
    for number, labels in enumerate(([2, 0, 1], [2.0, 0.0, 1.0], ["2", "0", "1"], ["2.0", "0.0", "1.0"])):
        if how == "parquet" and isinstance(labels[0], str):
            continue  # a column of texts has names
        found = make_source(READS[how], path=labelled_by(how, tmp_path / str(number), labels), image_size=8)
        assert found.class_names == ("0", "1", "2") and found.labels.tolist() == [2, 0, 1]


def test_pictures_of_parquet_that_lie_beside_it(tmp_path: Path) -> None:
    """Paths are below the folder of the file that has them, wherever the copy of its columns lies."""
    from pyarrow import parquet

    for number in range(2):
        place = tmp_path / f"part-{number}"
        colour = encoded(Image.new("RGB", (8, 8), (number * 200, 0, 0)), "PNG")
        write(place / "images" / "x.png", colour)
        table = hub_table([("images/x.png", colour, number)] * 2, names=None)
        paths = [{"bytes": None, "path": "images/x.png"}] * 2
        table = table.set_column(0, "image", pyarrow_array(paths, table.schema.field("image").type))
        parquet.write_table(table, place / "a.parquet")
    for _ in range(2):
        images, labels = make_source("parquet", path=tmp_path, image_size=8).__getitems__(range(4))
        np.testing.assert_allclose(images[:, 0, 0, 0], labels * 200 / 127.5 - 1, atol=1e-6)


def pyarrow_array(rows: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    return pa.array(rows, kind)


def test_what_cannot_be_read_later_is_said_of_the_setting(tmp_path: Path) -> None:
    """And of bytes that are no picture their place is told, not where in memory they were."""
    members = {f"{number}.png": b"no picture" if number == 1 else PNG for number in range(3)}
    path = tar(tmp_path / "a.tar", members)
    found = source(DataConfig(name="webdataset", path=str(path), image_size=8))
    with pytest.raises(InputError, match=r"^data\.path='\S+a\.tar': cannot read the image 1 in ") as error:
        found.__getitems__([0, 1])
    assert " at 0x" not in str(error.value)


@pytest.mark.parametrize("name", [source_param("lmdb")])
def test_pickles_that_are_left_out_are_counted(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database(tmp_path / "data", {b"0": PNG, b"1": b"\x80\x04].", b"2": b"\x80\x04]."})
    for _ in range(2):
        caplog.clear()
        assert len(make_source(name, path=tmp_path / "data", image_size=8)) == 1
        assert "2 pickles in" in caplog.text


@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "a bee"}'),
        ("metadata.csv", b"file_name,text\na.png,a bee\n"),
        ("metadata.csv", b"caption;file_name;prompt\na bee;a.png;bees\n"),
    ],
)
def test_captions_are_no_classes(table: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.png", PNG)
    write(tmp_path / table, content)
    assert make_source("flat", path=tmp_path, image_size=8).class_names == ("all",)


def test_a_caption_is_a_class_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", PNG)
    write(tmp_path / "metadata.csv", b"file_name,text\na.png,a bee\n")
    source = make_source("flat", path=tmp_path, image_size=8, options={"label": "text"})
    assert source.class_names == ("a bee",)


def test_a_class_may_be_called_as_a_column_of_captions_is(tmp_path: Path) -> None:
    write(tmp_path / "a.png", PNG)
    write(tmp_path / "labels.csv", b"a.png,text\n")
    assert make_source("flat", path=tmp_path, image_size=8).class_names == ("text",)


@pytest.mark.parametrize(("labelled", "bare"), [("train", "val"), ("val", "train")])
def test_splits_of_which_one_has_labels_are_told(
    labelled: str, bare: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one class, labels that are there would be left out without a word."""
    for folder in (labelled, bare):
        write(tmp_path / folder / "a.png", PNG)
    write(tmp_path / labelled / "labels.csv", b"a.png,bee\n")
    source = make_source("flat", path=tmp_path, image_size=8, split="heldout")
    named = {"train": "training", "val": "held-out"}
    assert source.class_names == ("all",)
    assert f"the {named[labelled]} split has labels and the {named[bare]} split has none" in caplog.text
