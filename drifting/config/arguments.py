"""Arguments of public functions, compared with their annotations before anything is done with them."""

import functools
import inspect
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from drifting.config.schema import SEED_LIMIT
from drifting.errors import ArgumentError, one_line, require_argument

_Arguments = ParamSpec("_Arguments")

_Returned = TypeVar("_Returned")

PLAIN_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    Path: "a path",
    Sequence: "a list",
    np.ndarray: "an array",
    types.NoneType: "None",
}
"""The kinds of values that are compared, and what a message calls them."""


def checked_arguments(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """The function, which first refuses arguments of other kinds than its annotations say, in one line.

    Numbers, texts, paths and lists are compared; what other annotations mean, such as classes, protocols and functions,
    is left to the function. NumPy's numbers are numbers, an array is a list, a text is none, and True is no number.

    The function then raises `ArgumentError`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Returned:
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                _check(name, value, hints[name])
        return function(*args, **kwargs)

    return checked


def check_drawing(seed: int, count: int, alpha: float) -> None:
    """Raises `ArgumentError` unless `count` images can be drawn, the first with this seed, at the scale `alpha`."""
    require_argument(0 <= seed <= SEED_LIMIT - count, "seed", seed, "all seeds lie in [0, 2^32)")
    require_argument(0 < alpha < float("inf"), "alpha", alpha, "use a positive guidance scale")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _check(name: str, value: Any, hint: Any) -> None:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else (hint,))]
    if not set(kinds) <= set(PLAIN_KINDS):
        return
    if not any(_fits(value, kind) for kind in kinds):
        expected = " or ".join(dict.fromkeys(PLAIN_KINDS[kind] for kind in kinds))
        raise ArgumentError(name, one_line(reprlib.repr(value)), f"expected {expected}")
    if Path in kinds and isinstance(value, str) and not value.strip():
        raise ArgumentError(name, repr(value), "give a path")


def _fits(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        if isinstance(value, bool | np.bool_):
            return False
        dtype = getattr(value, "dtype", None)
        whole, real = (np.integer, numbers.Integral), (np.number, numbers.Real)
        scalar, plain = whole if kind is int else real
        return isinstance(value, plain) or (
            dtype is not None and np.issubdtype(dtype, scalar) and getattr(value, "shape", None) == ()
        )
    if kind is Path:
        return isinstance(value, os.PathLike)
    if kind in (Sequence, np.ndarray):
        text = isinstance(value, str | bytes | Mapping)
        return not text and hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return isinstance(value, kind)
