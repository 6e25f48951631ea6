"""Every error that a person can mend: its message is one line, which says what is wrong and what would be right.

Whatever else leaves this package is a bug of it. Errors also derive from the built-in class that a caller would expect.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class DriftingError(Exception):
    """The base of all errors that the package raises on purpose. The message is one line."""


class ConfigError(DriftingError, ValueError):
    """A setting that cannot work. The message says key, value, and what would be right."""


class ArgumentError(ConfigError):
    """An argument of a function that cannot work. The message is `ARGUMENT=VALUE: REMEDY`.

    The command line puts its own name for the argument in front, which is why the three are kept apart.

    Args:
        argument: the name of the argument, as the function has it.
        value: what it is; None: it is missing, and the message leaves it out.
        remedy: what is wrong with it or what would be right.
    """

    def __init__(self, argument: str, value: Any, remedy: str) -> None:
        super().__init__(argument, value, remedy)
        self.argument, self.value, self.remedy = argument, value, remedy

    def __str__(self) -> str:
        return f"{self.argument}{'' if self.value is None else f'={self.value}'}: {self.remedy}"


class BusyError(ArgumentError):
    """Another process writes where this one was to write."""


class InputError(DriftingError, ValueError):
    """A file, an image, weights or a checkpoint cannot be used. The message begins with its path or reference."""


class MachineError(DriftingError, OSError):
    """The machine does not give what is needed now: a file, room on a disk, memory, a device.

    Nothing is said of what a file holds, so whoever meets one leaves everything where it is: what cannot be read is not
    damaged. The message begins with the path or the variable, and says why and what to do.
    """


class CheckpointError(DriftingError, RuntimeError):
    """A checkpoint cannot be written, or not be restored though nothing says that it is damaged.

    The message says why, what is safe, and what to do. Whoever meets one leaves everything where it is.
    """


class CacheError(DriftingError, RuntimeError):
    """A cache of latents cannot be finished."""


class UnusableMomentsError(CacheError):
    """The VAE of a cache finds what cannot be kept, which another one may not."""


class HubError(DriftingError, OSError):
    """The hub or the network did not do what was asked, or what came is damaged."""


class TrainingError(DriftingError, RuntimeError):
    """Training cannot go on. The message says what happened, what is safe, and what to do."""


def require(condition: bool, key: str, value: Any, remedy: str) -> None:
    """Raises `ConfigError` '`key`=`value`: `remedy`' unless the condition holds. `key`: a setting."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {remedy}")


def one_of(key: str, value: str | None, known: Iterable[str]) -> None:
    """Raises `ConfigError` unless the setting's value is among `known`; names the nearest that is."""
    known = list(known)
    require(value in known, key, value, use_one_of(value, known))


def require_argument(condition: bool, argument: str, value: Any, remedy: str) -> None:
    """Raises `ArgumentError` unless the condition holds."""
    if not condition:
        raise ArgumentError(argument, value, remedy)


@contextmanager
def as_argument(argument: str, value: Any) -> Iterator[None]:
    """What the block finds wrong with a setting, a file or weights is wrong with the argument that named them.

    The block's error becomes an `ArgumentError`, whose message does not repeat the value with which most errors begin.
    """
    try:
        yield
    except ArgumentError as error:
        said = str(value) in (str(error.value), f"{error.argument}={error.value}")
        remedy = error.remedy if said else str(error)
        raise ArgumentError(argument, value, remedy) from error
    except (ConfigError, InputError) as error:
        head = rf"([\w.]+=)?({re.escape(repr(str(value)))}|{re.escape(str(value))}): "
        raise ArgumentError(argument, value, re.sub(rf"\A{head}", "", str(error))) from error


def use_one_of(value: Any, known: Iterable[str]) -> str:
    """The remedy for a value that is none of the `known` names."""
    known = list(known)
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close and value not in known else ""
    return f"use one of {', '.join(known)}{hint}"


@contextmanager
def when_tried(argument: str, remedy: str) -> Iterator[None]:
    """Turns what a caller's own function raises as it is tried into an `ArgumentError` that names the argument."""
    try:
        yield
    except DriftingError:
        raise
    except Exception as error:
        raise ArgumentError(argument, None, f"{remedy} ({type(error).__name__}: {one_line(error)})") from error


ABOUT_THE_NAME = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)
)
"""Numbers of system errors that say that a path is wrong, or a file too short to be read as what it should be."""

REFUSED = re.compile(
    "|".join(
        re.escape(os.strerror(number))
        for number in (
            errno.EPERM, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS,
            errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EBUSY, errno.ENODEV, errno.ENXIO,
            errno.EHOSTDOWN, errno.ENOTCONN,
        )
    )
)  # fmt: skip
"""The system's words for what it refuses; libraries quote them in errors of kinds of their own."""

REFUSED_STATUS = re.compile("RESOURCE_EXHAUSTED|PERMISSION_DENIED|[Oo]ut of memory")
"""What JAX and TensorStore say in place of them."""


def refusal(error: BaseException) -> str | None:
    """What the machine did not give, as an error or one that led to it says; None: the content may be at fault."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno not in ABOUT_THE_NAME:
                return error.strerror or os.strerror(error.errno)
        elif isinstance(error, MemoryError):
            return one_line(error) or os.strerror(errno.ENOMEM)
        elif not isinstance(error, DriftingError):
            text = one_line(error)
            if words := REFUSED.search(text):
                return words[0]
            if REFUSED_STATUS.search(text):
                return text[:300]
        for other in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            if found := refusal(other):
                return found
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return None


@contextmanager
def while_reading(path: object, safe: str = "nothing was changed") -> Iterator[None]:
    """What keeps the block from reading `path`, but for what it holds, becomes a `MachineError`.

    Other errors pass, so that the block around it can say what is wrong with the content.

    Args:
        path: what is read, for the message.
        safe: what the message says of what there is, a clause.
    """
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        if (reason := refusal(error)) is None:
            raise
        remedy = "mend that, and run the same command again"
        raise MachineError(f"{path}: cannot be read ({reason}); {safe}: {remedy}") from error


def one_line(error: object) -> str:
    """What an error or its message says, without line breaks."""
    return " ".join(str(error).split())


def counted(number: int, noun: str) -> str:
    """A number of things as a message has it: `1 image`, `2 images`, `1,400 classes`."""
    many = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{many}"


@contextmanager
def as_setting(key: str, reference: str | None) -> Iterator[None]:
    """What the block finds wrong with weights, or with the way to them, is said with the setting that named them.

    Raises:
        ConfigError: in place of an `InputError` of the block.
        HubError: in place of one of the block.
    """
    try:
        yield
    except InputError as error:
        raise ConfigError(unusable(key, reference, error)) from error
    except HubError as error:
        raise HubError(unusable(key, reference, error)) from error


def unusable(key: str, reference: str | None, error: DriftingError) -> str:
    """One line for a setting that refers to what cannot be used; most errors begin with the reference themselves."""
    return f"{key}={reference!r}: {str(error).removeprefix(f'{reference}: ')}"


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: what runs coroutines wraps whatever ends them."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "CancelledError":
            return True
        error = error.__cause__ or error.__context__
    return False
