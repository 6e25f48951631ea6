"""Held-out images without class folders: lists of labels as they are found, and what is said where there is none."""

from pathlib import Path

import numpy as np
import pytest

from drifting.config.schema import DataConfig
from drifting.data.imagenet_names import validation_ids
from drifting.data.sources import SOURCES, make_source, source
from drifting.data.sources.folder import FolderSource, imagefolder
from drifting.data.sources.label_list import LABEL_LISTS
from drifting.errors import ConfigError, InputError
from tests.data.test_folder import noise, save

NAMES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3, 4)]

EXPECTED = [1, 0, 0, 1]  # of the classes cat, dog


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "0.png", noise(8, 8, 3))
    for seed, name in enumerate(NAMES):
        save(tmp_path / "val" / name, noise(8, 8, 3, seed=seed), format="jpeg")
    return tmp_path


def heldout(path: Path) -> FolderSource:
    return imagefolder(path, 8, "heldout")


def rows(*parts: str) -> list[str]:
    """A line for each image: its class as a name or a number, between texts."""
    words = ["dog", "cat", "0", "1"]
    return [parts[0].format(file=name, stem=name[:-5], word=word) for name, word in zip(NAMES, words, strict=True)]


@pytest.mark.parametrize("name", LABEL_LISTS)
@pytest.mark.parametrize("beside", [False, True])
def test_lists_are_found_under_every_name(flat: Path, name: str, beside: bool) -> None:
    (flat / ("." if beside else "val") / name).write_text("\n".join(rows("{file} {word}")))
    assert heldout(flat).labels.tolist() == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n\r\n"])
@pytest.mark.parametrize(
    "form",
    ["{file} {word}", "{file},{word}", "{file}\t{word}\t0\t0\t62\t62", "{stem},{word} 85 1 499 272",
     "val\\{file} {word}", ".\\data\\val\\{file};{word}", "val/{file},\"{word}\"", "{word}"],
)  # fmt: skip
def test_lists_have_many_forms(flat: Path, form: str, end: str, encoding: str) -> None:
    title = ["ImageId,PredictionString"] if "," in form else []
    (flat / "val" / "labels.txt").write_bytes(end.join([*title, *rows(form), ""]).encode(encoding))
    found = heldout(flat)
    assert found.labels.tolist() == EXPECTED and found.class_names == ("cat", "dog")
    assert [Path(file).name for file, _ in found.encoded(range(4))] == NAMES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat\ndog\n", r"labels\.txt: has 2 lines, of 4 images"),
        ("\n".join(rows("{file} {word}")[:3]), r"has no line `FILE CLASS` for ILSVRC2012_val_00000004\.JPEG"),
        ("\n".join(rows("{file} {word}")).replace("dog", "bird"), "'bird' is no class: use names of class folders"),
        ("\n".join(rows("{file} 2")), r"'2' is no class: .* numbers from 0 to 1 in their sorted order"),
        ("", r"has 0 lines, of 4 images"),
        (
            "\n".join([*rows("{file} {word}"), rows("{file} dog")[0], rows("{file} cat")[0]]),
            r"labels\.txt: says (cat and dog|dog and cat) of ILSVRC2012_val_00000001\.JPEG: remove one of the lines",
        ),
    ],
)
def test_lists_that_do_not_fit(flat: Path, text: str, words: str) -> None:
    (flat / "val" / "labels.txt").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        heldout(flat)
    assert "\n" not in str(error.value)


def test_a_list_that_is_no_text(flat: Path) -> None:
    (flat / "val" / "labels.txt").write_bytes(b"\xff\x00\x80")
    with pytest.raises(InputError, match=r"labels\.txt: cannot be read as text in UTF-8"):
        heldout(flat)


def test_what_is_missing_is_said(flat: Path) -> None:
    with pytest.raises(InputError, match=r"val holds 4 images and no class folders: put them into .*val/CLASS/"):
        heldout(flat)
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n2\n")
    with pytest.raises(InputError, match=r"ground_truth\.txt is not read, its numbers have an order of their own"):
        heldout(flat)


def test_imagenets_own_need_no_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their labels are known; those of classes that are not trained on are left out."""
    ids = validation_ids()
    assert len(ids) == 50_000 and set(np.unique(ids, return_counts=True)[1]) == {50}
    assert ids[:2] == ["n01751748", "n09193705"]  # sea snake, alp: as published
    for name in sorted(set(ids[:3])):
        save(tmp_path / "train" / name / "0.png", noise(8, 8, 3))
    for seed, name in enumerate(NAMES):
        save(tmp_path / "val" / name, noise(8, 8, 3, seed=seed), format="jpeg")
    found = heldout(tmp_path)
    order = sorted(set(ids[:3]))
    assert found.labels.tolist() == [order.index(name) for name in ids[:4] if name in order]
    (tmp_path / "val" / "labels.csv").write_text("".join(f"{name[:-5]},{order[0]} 1 2 3 4\n" for name in NAMES))
    assert heldout(tmp_path).labels.tolist() == [0] * 4


def test_loose_images_beside_class_folders_are_told(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(flat / "val" / "cat" / "a.png", noise(8, 8, 3))
    assert len(heldout(flat)) == 1
    assert "4 images left out, in " in caplog.text and "beside its class folders" in caplog.text


def test_a_split_without_images_is_an_error_at_once(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every source, those of somebody else included."""
    for file in (flat / "val").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"val holds no images: add them as .*val/CLASS/IMAGE"):
        heldout(flat)

    class Empty(type(make_source("synthetic", image_size=4))):  # type: ignore[misc]
        def __len__(self) -> int:
            return 0

    monkeypatch.setitem(SOURCES, "empty", lambda split="train": Empty((4, 4, 1), 2, 0))
    with pytest.raises(ConfigError, match=r"^data\.name='empty': split='heldout' of source 'empty' has no images"):
        source(DataConfig(name="empty"), "heldout")


def test_whole_numbers_may_have_a_point(flat: Path) -> None:
    lines = [f"{name} {label}.0" for name, label in zip(NAMES, EXPECTED, strict=True)]
    (flat / "val" / "labels.txt").write_text("\n".join(lines))
    assert heldout(flat).labels.tolist() == EXPECTED
    (flat / "val" / "labels.txt").write_text("\n".join(lines).replace(".0", ".5"))
    with pytest.raises(InputError, match=r"'\d\.5' is no class"):
        heldout(flat)
