"""Files of torch.save: those that PyTorch wrote, those that were damaged, and those that would do harm."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from drifting.runs.torch_file import read_state_dict

FIXTURES = Path(__file__).parents[1] / "fixtures"

FILES = ["state_zip.pth", "state_legacy.pth"]
"""Written by parity/test_inception_parity.py, in both formats."""


def expected() -> dict[str, np.ndarray]:
    """What is in the two files, by the names of what is special about it."""
    matrix = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {"matrix": matrix, "transposed": matrix.T, "window": matrix[1:3, ::2], "parameter": matrix / 7}
    tensors |= {
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "bfloat16": matrix.astype(ml_dtypes.bfloat16),
    }
    return tensors | {name: (matrix - 3).astype(name) for name in ("float64", "float16", "int32", "bool")}


@pytest.mark.parametrize("name", FILES)
def test_tensors_are_what_torch_saved(name: str):
    arrays = read_state_dict(FIXTURES / name)
    assert set(arrays) == set(expected())
    for key, array in expected().items():
        np.testing.assert_array_equal(arrays[key], array, strict=True)
        assert arrays[key].flags.c_contiguous and arrays[key].flags.owndata and arrays[key].flags.writeable


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as error:
        read_state_dict(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name: str, tmp_path: Path):
    content, path = (FIXTURES / name).read_bytes(), tmp_path / "x.pth"
    for length in [*range(0, len(content) - 1, 61), len(content) - 1]:
        path.write_bytes(content[:length])
        assert "not a readable PyTorch state dict" in refused(path)
    if name == "state_zip.pth":
        assert "cut short" in refused(path)
    else:
        assert "ends within storage" in refused(path)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path):
    """Whatever byte is wrong, there is an answer and no other error; in the zip format numbers have checksums too."""
    content, path = bytearray((FIXTURES / name).read_bytes()), tmp_path / "x.pth"
    for k in range(0, len(content), 7):
        path.write_bytes(content[:k] + bytes([content[k] ^ 0x15]) + content[k + 1 :])
        try:
            arrays = read_state_dict(path)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        sound = [np.array_equal(arrays.get(key, np.nan), array) for key, array in expected().items()]
        assert name == "state_legacy.pth" or all(sound), k


def test_missing_file(tmp_path: Path):
    assert "no file" in refused(tmp_path / "x.pth")


# --- files made by hand: pieces of pickles, which leave one object on the stack ---------------------------------------


def piece(value: Any) -> bytes:
    """A plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def storage(key: str = "0", length: int = 4, kind: str = "FloatStorage", *view: bytes) -> bytes:
    parts = [piece("storage"), named("torch", kind), piece(key), piece("cpu"), piece(length), *view]
    return pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BINPERSID


def tensor(offset: Any = 0, shape: Any = (2, 2), strides: Any = (2, 1), memory: bytes = storage()) -> bytes:
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", memory, *map(piece, (offset, shape, strides, False)), hooks)


def mapping(**entries: bytes) -> bytes:
    pairs = b"".join(piece(name) + value for name, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def write_zip(path: Path, body: bytes, **files: bytes) -> Path:
    """The zip format around an object, with one storage of four float32 unless `files` has it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.PROTO + b"\2" + body + pickle.STOP)
        for name, content in ({"data/0": np.arange(4, dtype="<f4").tobytes(), "byteorder": b"little"} | files).items():
            archive.writestr(f"x/{name}", content)
    return path


def write_legacy(path: Path, body: bytes, keys: Any = ("0",), little: bool = True, length: int = 4) -> Path:
    """The older format around an object, with one storage of four float32."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little}]
    numbers = length.to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes()
    parts = [*(pickle.dumps(value, protocol=2) for value in head), pickle.PROTO + b"\2" + body + pickle.STOP]
    path.write_bytes(b"".join([*parts, pickle.dumps(list(keys), protocol=2), numbers]))
    return path


def test_files_made_by_hand_are_read(tmp_path: Path):
    """Else the tests below would show nothing."""
    old = tensor(memory=storage("0", 4, "FloatStorage", piece(None)))
    for path in (write_zip(tmp_path / "a", mapping(w=tensor())), write_legacy(tmp_path / "b", mapping(w=old))):
        np.testing.assert_array_equal(read_state_dict(path)["w"], [[0, 1], [2, 3]])


def test_arrays_of_numpy_are_read(tmp_path: Path):
    """As `torch.save` pickles them: of NumPy 1 and 2, in both orders, and damaged at each byte in turn."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = {"a": matrix, "b": matrix.T, "c": np.arange(3), "d": matrix[:0], "e": matrix.astype(np.float16)}
    body = pickle.dumps(given, protocol=2)[2:-1]
    assert b"numpy._core.multiarray" in body
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        path = write_zip(tmp_path / "x.pt", body.replace(b"numpy._core.multiarray", name))
        for key, array in read_state_dict(path).items():
            np.testing.assert_array_equal(array, given[key], strict=True)
            assert array.flags.c_contiguous and array.flags.owndata
    for place in range(0, len(body), 7):
        path = write_zip(tmp_path / "x.pt", body[:place] + bytes([body[place] ^ 0x15]) + body[place + 1 :])
        try:
            read_state_dict(path)
        except ValueError as error:
            assert "\n" not in str(error)
    objects = pickle.dumps({"a": np.array([0, "x"], object)}, protocol=2)[2:-1]
    assert "array 'a' is damaged, or holds other than numbers" in refused(write_zip(tmp_path / "x.pt", objects))


class Harm:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_nothing_is_run(tmp_path: Path):
    made = tmp_path / "made"
    harm = pickle.dumps(Harm(made), protocol=2)
    pickle.loads(harm)  # noqa: S301
    assert made.is_dir()  # it is harmful, then
    made.rmdir()
    (tmp_path / "plain.pth").write_bytes(harm)
    paths = [tmp_path / "plain.pth"]
    for body in (harm[2:-1], mapping(w=harm[2:-1])):
        paths.append(write_zip(tmp_path / f"{len(paths)}.pth", body))
        paths.append(write_legacy(tmp_path / f"{len(paths)}.pth", body))
    for path in paths:
        assert f"names {os.mkdir.__module__}.mkdir, which no state dict needs: do not trust it" in refused(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (mapping(w=named("builtins", "eval")), "names builtins.eval"),
        (mapping(w=call("torch._utils", "_rebuild_sparse_tensor")), "names torch._utils._rebuild_sparse_tensor"),
        (mapping(w=tensor(memory=storage(kind="QInt8Storage"))), "names torch.QInt8Storage"),
        (pickle.dumps({"w": 1}, protocol=4)[2:-1], "instruction FRAME"),
        (piece(1.5), "instruction BINFLOAT"),
        (piece([]), "holds a list, expected a dict of tensors"),
        (tensor(), "holds a _Tensor, expected a dict of tensors"),
        (mapping(model=mapping(w=tensor())), "entry 'model' is a dict, expected a tensor: save the state dict alone"),
        (mapping(step=piece(3)), "entry 'step' is a int, expected a tensor"),
        (piece({1: 2}), r"pickle is damaged"),
        (pickle.TUPLE2, "pickle is damaged"),
        (pickle.TUPLE, "pickle is damaged"),
        (piece(1) + piece(2), "instruction STOP|damaged|expected"),
        (pickle.BINGET + b"\7", "pickle is damaged"),
        (piece("x") + pickle.EMPTY_TUPLE + pickle.REDUCE, "pickle is damaged"),
        (piece("x") + pickle.BINPERSID, "pickle is damaged|values to unpack"),
        (call("collections", "OrderedDict", piece([])), "pickle is damaged"),
        (mapping(w=tensor(offset=1)), r"tensor 'w' of shape \(2, 2\) has more elements than its storage"),
        (mapping(w=tensor(strides=(3, 1))), "more elements than its storage"),
        (mapping(w=tensor(shape=(4, 4), strides=(0, 1))), "more elements than its storage"),
        (mapping(w=tensor(shape=(10**30,), strides=(0,))), "more elements than its storage"),
        (mapping(w=tensor(offset=-1)), "pickle is damaged"),
        (mapping(w=tensor(strides=(-1, 1))), "pickle is damaged"),
        (mapping(w=tensor(strides=(1,))), "pickle is damaged"),
        (mapping(w=tensor(offset="0")), "pickle is damaged"),
        (mapping(w=tensor(memory=storage(length=-1))), "pickle is damaged"),
        (mapping(w=tensor(memory=storage(length=5))), "storage 0 has 16 bytes, expected 20"),
        (mapping(w=tensor(memory=storage(kind="DoubleStorage"))), "storage 0 has 16 bytes, expected 32"),
        (mapping(w=tensor(memory=storage(key="9"))), "storage 9 is missing"),
    ],
)
def test_zip_files_with_anything_else_are_refused(tmp_path: Path, body: bytes, words: str):
    with pytest.raises(ValueError, match=words):
        read_state_dict(write_zip(tmp_path / "x.pth", body))
    refused(tmp_path / "x.pth")


def test_other_archives_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("a.npy", b"")
    assert "a zip archive with 0 files data.pkl" in refused(tmp_path / "x.pth")
    assert "little-endian" in refused(write_zip(tmp_path / "y.pth", mapping(w=tensor()), byteorder=b"big"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(little=False), "little-endian"),
        (dict(length=3), "storage 0 has 3 elements, expected 4"),
        (dict(keys=["1"]), "its storages are not those of its tensors"),
        (dict(keys=[1]), "its storages are not those of its tensors"),
    ],
)
def test_legacy_files_with_anything_else_are_refused(tmp_path: Path, options: dict[str, Any], words: str):
    assert words in refused(write_legacy(tmp_path / "x.pth", mapping(w=tensor()), **options))


def test_legacy_views_and_shared_names_are_refused(tmp_path: Path):
    view = storage("0", 4, "FloatStorage", piece(("1", 0, 4)))
    assert "views of others" in refused(write_legacy(tmp_path / "x.pth", mapping(w=tensor(memory=view))))
    # Two storages of one name and different lengths: the longer one would reach beyond what was read.
    both = mapping(v=tensor(memory=storage(length=400), offset=300), w=tensor())
    assert "buffer is smaller" in refused(write_legacy(tmp_path / "x.pth", both))


def test_plain_pickles_are_another_format(tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps(OrderedDict(a=1), protocol=2))
    assert "another format" in refused(tmp_path / "x.pth")
