"""Caffe's `Datum`, the message in which its LMDBs keep an image and its label, read out of protobuf's wire format."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from drifting.errors import InputError


class DatumField(enum.IntEnum):
    """Numbers of the fields of `message Datum` in caffe.proto."""

    CHANNELS, HEIGHT, WIDTH, DATA, LABEL, FLOAT_DATA, ENCODED = range(1, 8)


VARINT_KIND, BYTES_KIND = 0, 2
"""Protobuf's wire types of numbers, and of bytes behind their number."""

FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of a value of each other wire type."""


@dataclass(frozen=True)
class Datum:
    """One image, encoded or as bytes of its pixels, and its label."""

    picture: bytes
    label: int


def parse_datum(content: bytes) -> Datum:
    """The image and the label of a message; pixels, which are `[C, H, W]` and blue first, become a PPM or PGM file.

    Raises:
        InputError: it is no such message, or holds floats.
    """
    found: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number > DatumField.ENCODED:
            raise InputError("it is no Datum of Caffe")
        found[number] = value
    data, label = found.get(DatumField.DATA, b""), found.get(DatumField.LABEL, 0)
    if DatumField.FLOAT_DATA in found or not isinstance(data, bytes) or not isinstance(label, int) or not data:
        raise InputError("it is no Datum of Caffe with bytes of an image")
    label = (label & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)  # int32, which protobuf writes as 64 bits
    if found.get(DatumField.ENCODED):
        return Datum(data, label)
    shape = [found.get(number, 0) for number in (DatumField.CHANNELS, DatumField.HEIGHT, DatumField.WIDTH)]
    channels, height, width = (size if isinstance(size, int) else 0 for size in shape)
    if channels not in (1, 3) or channels * height * width != len(data):
        raise InputError(f"it is a Datum of {channels}x{height}x{width} with {len(data)} bytes")
    pixels = np.frombuffer(data, np.uint8).reshape(channels, height, width)[::-1].transpose(1, 2, 0)
    return Datum(f"P{6 if channels == 3 else 5} {width} {height} 255\n".encode() + pixels.tobytes(), label)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        if number == 0 or kind not in (VARINT_KIND, BYTES_KIND, *FIXED_SIZES):
            raise InputError("it is no message of protobuf")
        if kind == VARINT_KIND:
            value, place = _varint(content, place)
            yield number, value
            continue
        size, place = (FIXED_SIZES[kind], place) if kind in FIXED_SIZES else _varint(content, place)
        if place + size > len(content):
            raise InputError("it is no message of protobuf, or cut short")
        yield number, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise InputError("it is no message of protobuf, or cut short")
