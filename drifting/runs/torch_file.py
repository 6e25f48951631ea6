"""Reads the state dict in a file of `torch.save` without PyTorch and without unpickling: nothing in it is run.

Source: `torch/serialization.py` of PyTorch, both of its formats. The pickles in such a file are taken apart by
`pickletools`, and only those instructions and names are followed that put tensors, or NumPy's arrays, into a dict.
"""

import io
import math
import os
import pickletools
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from drifting.errors import InputError, MachineError, while_reading

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_LEGACY_PROTOCOL = 1001

_DTYPES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by name of a file in which `torch.save` put a state dict, in its zip format or the one before 1.6.

    Returns:
        Arrays of their own, in C order and with the tensors' dtypes; of parameters and of tensors alike.

    Raises:
        InputError: the file is missing, damaged or of another format, or holds anything but a dict of dense tensors and
            arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with while_reading(path), path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except MachineError:
        raise
    except (ValueError, OverflowError, RuntimeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = textwrap.shorten(str(error), 200) or "it ends too early"  # some errors say nothing
        raise InputError(f"{path}: not a readable PyTorch state dict: {reason}") from error


# --- the two formats --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    """Memory that tensors share: its name in the file, and its length in elements."""

    key: str
    dtype: np.dtype[Any]
    length: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A window on a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Array:
    """A NumPy array, whose shape, type and content the pickle gives after it has named it."""

    def __init__(self) -> None:
        self.state: Any = None

    def value(self, name: str) -> np.ndarray:
        """The array; `name` begins the error if it is not whole."""
        match self.state:
            case (1, tuple() as shape, _Dtype() as dtype, fortran, bytes() as content) if all(map(_is_count, shape)):
                kind = dtype.numpy()
            case _:
                raise InputError(f"array {name!r} is damaged, or holds other than numbers")
        if math.prod(shape) * kind.itemsize != len(content):
            raise InputError(f"array {name!r} of shape {shape} and type {kind} has {len(content)} bytes")
        return np.array(np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C"), order="C")


@dataclass
class _Dtype:
    """A type of NumPy, whose byte order the pickle gives after it has named it."""

    name: Any
    order: Any = None

    def numpy(self) -> np.dtype[Any]:
        """The type. Raises `InputError` if it is none of little-endian numbers."""
        if self.name not in _ARRAY_TYPES or self.order not in ("<", "|"):
            raise InputError(f"it has an array of type {self.order}{self.name}, which is none of numbers here")
        return np.dtype(f"{self.order}{self.name}")


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    """A folder with the pickle `data.pkl`, the file `byteorder`, and a file for each storage, `data/KEY`."""
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(f"a zip archive with {len(pickles)} files data.pkl, expected one")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names:
            _check_byte_order(archive.read(f"{folder}byteorder") == b"little")
        tensors = _tensors(_interpret(io.BytesIO(archive.read(pickles[0]))))

        def content(storage: _Storage) -> bytes:
            name = f"{folder}data/{storage.key}"
            if name not in names:
                raise InputError(f"storage {storage.key} is missing")
            if (found := archive.getinfo(name).file_size) != storage.size:
                raise InputError(f"storage {storage.key} has {found} bytes, expected {storage.size}")
            return archive.read(name)

        return _arrays(tensors, content)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """Pickles of a magic number, the protocol, the machine, the state dict and its keys; then each key's storage."""
    file.seek(0)
    if file.read(4) == b"PK\3\4":
        raise InputError("a zip archive that is cut short: copy it again")
    file.seek(0)
    if _interpret(file) != _LEGACY_MAGIC or _interpret(file) != _LEGACY_PROTOCOL:
        raise InputError("another format")
    machine = _interpret(file)
    _check_byte_order(isinstance(machine, dict) and machine.get("little_endian") is True)
    tensors = _tensors(_interpret(file))
    storages = {one.storage.key: one.storage for one in tensors.values() if isinstance(one, _Tensor)}
    keys = _interpret(file)
    if keys != sorted(storages):
        raise InputError("its storages are not those of its tensors")
    left = os.fstat(file.fileno()).st_size - file.tell()
    contents = {}
    for key in keys:
        left -= 8 + storages[key].size
        if left < 0:
            raise InputError(f"it ends within storage {key}: copy it again")
        if (found := int.from_bytes(file.read(8), "little")) != storages[key].length:
            raise InputError(f"storage {key} has {found} elements, expected {storages[key].length}")
        contents[key] = file.read(storages[key].size)
    return _arrays(tensors, lambda storage: contents[storage.key])


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise InputError("its numbers are not little-endian: save it again on another machine")


def _tensors(state: Any) -> dict[str, _Tensor | _Array]:
    """`state`, which must be a dict of tensors and arrays."""
    if not isinstance(state, dict):
        raise InputError(f"it holds a {type(state).__name__}, expected a dict of tensors")
    for name, value in state.items():
        if not isinstance(value, _Tensor | _Array):
            raise InputError(
                f"entry {name!r} is a {type(value).__name__}, expected a tensor: save the state dict alone"
            )
    return state


def _arrays(tensors: Mapping[str, _Tensor | _Array], content: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    """The windows' elements, given the bytes of each storage."""
    storages: dict[_Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, _Array):
            arrays[name] = tensor.value(name)
            continue
        storage, elements = tensor.storage, math.prod(tensor.shape)
        last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True))
        # Outside is other memory. And a small file with a huge repetition would fill all of it.
        if (elements and last >= storage.length) or elements > storage.length:
            raise InputError(f"tensor {name!r} of shape {tensor.shape} has more elements than its storage")
        if storage not in storages:
            storages[storage] = np.frombuffer(content(storage), storage.dtype, storage.length)
        strides = [step * storage.dtype.itemsize for step in tensor.strides]
        window = np.lib.stride_tricks.as_strided(storages[storage][tensor.offset :], tensor.shape, strides)
        arrays[name] = np.array(window, order="C")
    return arrays


# --- the pickles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names, by module and name. It is not looked up."""

    full: str


_DICT, _TENSOR = _Name("collections OrderedDict"), _Name("torch._utils _rebuild_tensor_v2")

_PARAMETER = _Name("torch._utils _rebuild_parameter")

_RECONSTRUCT = {_Name("numpy.core.multiarray _reconstruct"), _Name("numpy._core.multiarray _reconstruct")}
"""NumPy 1's and 2's name of what makes an array; its content is set afterwards."""

_NDARRAY, _NUMPY_DTYPE = _Name("numpy ndarray"), _Name("numpy dtype")

_ENCODE, _NO_BYTES = _Name("_codecs encode"), _Name("__builtin__ bytes")
"""How pickles of protocol 2 have bytes, and an empty one."""

_FUNCTIONS = {_DICT, _TENSOR, _PARAMETER, *_RECONSTRUCT, _NDARRAY, _NUMPY_DTYPE, _ENCODE, _NO_BYTES}

_NAMES = {*_DTYPES, *(function.full for function in _FUNCTIONS)}

_ARRAY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


def _interpret(file: BinaryIO) -> Any:
    """The object of the pickle that begins where `file` stands, which then stands behind it.

    Raises:
        InputError: it ends too early, or has an instruction or a name that no state dict needs.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            machine.follow(opcode.name, argument)
        (result,) = machine.stack
        return result
    except (IndexError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise InputError(f"its pickle is damaged ({type(error).__name__})") from error


class _Machine:
    """What a pickle's instructions work on: a stack, marks in it, and a memo of earlier objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def follow(self, opcode: str, argument: Any) -> None:
        """One instruction."""
        match opcode:
            case "PROTO":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                self.stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode]())
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                self.stack.append(tuple(self.pop_from(self.marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop_from(-int(opcode[-1]))))
            case "APPEND" | "SETITEM":
                self.put(self.pop_from(-1 if opcode == "APPEND" else -2))
            case "APPENDS" | "SETITEMS":
                self.put(self.pop_from(self.marks.pop()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                if argument not in _NAMES:
                    raise InputError(
                        f"it names {argument.replace(' ', '.')}, which no state dict needs: do not trust it"
                    )
                self.stack.append(_Name(argument))
            case "REDUCE":
                self.stack.append(_call(*self.pop_from(-2)))
            case "BUILD":  # an array's content, or attributes, such as the `_metadata` of a module's state dict
                state, made = self.stack.pop(), self.stack[-1]
                if isinstance(made, _Array):
                    made.state = state
                elif isinstance(made, _Dtype):
                    made.order = state[1]
            case "BINPERSID":
                self.stack.append(_storage(self.stack.pop()))
            case _:
                raise InputError(f"its pickle has the instruction {opcode}, which no state dict needs")

    def pop_from(self, start: int) -> list[Any]:
        """The stack's objects from `start` on, which may count from its end."""
        popped = self.stack[start:]
        if start < -len(self.stack):
            raise IndexError(start)
        del self.stack[start:]
        return popped

    def put(self, items: list[Any]) -> None:
        """Items into the list, or alternating keys and values into the dict, that is on top of the stack."""
        container = self.stack[-1]
        if isinstance(container, list):
            container.extend(items)
            return
        if not isinstance(container, dict) or not all(isinstance(key, str) for key in items[::2]):
            raise TypeError
        container.update(zip(items[::2], items[1::2], strict=True))


def _call(function: Any, arguments: Any) -> Any:
    """What the functions that a state dict needs make of their arguments."""
    if function == _DICT and arguments == ():
        return {}
    if function == _TENSOR:  # and whether it has a gradient, its hooks, and maybe more
        storage, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if isinstance(storage, _Storage) and len(shape) == len(strides) and all(map(_is_count, numbers)):
            return _Tensor(storage, offset, shape, strides)
    if function in _RECONSTRUCT and arguments[:2] == (_NDARRAY, (0,)):
        return _Array()
    if function == _NUMPY_DTYPE and isinstance(arguments[0], str):
        return _Dtype(arguments[0])
    if function == _NO_BYTES and arguments == ():
        return b""
    if function == _ENCODE and arguments[1] == "latin1":  # bytes, as pickles of protocol 2 have them
        return arguments[0].encode("latin1")
    if function == _PARAMETER and isinstance(arguments[0], _Tensor):
        return arguments[0]
    raise TypeError


def _storage(identity: Any) -> _Storage:
    """Reads `("storage", type, key, device, length)`; the older format adds the window on another storage, or None."""
    kind, dtype, key, _, length, *view = identity
    if view not in ([], [None]):
        raise InputError("its storages are views of others: save it again with a later PyTorch")
    if kind != "storage" or not isinstance(key, str) or not _is_count(length):
        raise TypeError
    return _Storage(key, _DTYPES[dtype.full], length)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0
