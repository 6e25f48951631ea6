"""Work cut into parts, which several processes share and which goes on where it was killed.

What a part holds follows from the settings alone. Process `i` of `n` makes the parts `k` with `k % n == i`; a part is
finished when its file is there, which appears whole or not at all. Whoever finds all of them finished puts them
together, so the result does not depend on how many processes there were or how often they were killed.
"""

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from drifting.errors import ArgumentError, InputError, require_argument
from drifting.runs.files import atomic_path, read_json, remove_torn, write_json
from drifting.runs.lock import in_use
from drifting.runs.places import remove_tree

_Item = TypeVar("_Item")

PARTS_FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class Share:
    """Which of several processes that share some work this one is.

    Raises:
        ConfigError: there is no such process.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        require_argument(self.count > 0, "count", self.count, "use 1 or more")
        remedy = f"must be 0 or more and below the number of processes, {self.count}"
        require_argument(0 <= self.index < self.count, "index", self.index, remedy)

    def of(self, work: Sequence[_Item]) -> Sequence[_Item]:
        """What this process does of the work."""
        return work[self.index :: self.count]


@contextmanager
def share_in_use(folder: Path, argument: str, share: Share, given: Path | None = None) -> Iterator[None]:
    """Keeps other processes from the same share of the work in a folder, and from all of it by themselves.

    `argument`, `given`: see `in_use`.

    Raises:
        BusyError: one is at it; `argument` gave the folder.
    """
    with in_use(folder, argument, shared=share.count > 1, given=given):
        if share.count == 1:
            yield
            return
        with in_use(folder, argument, f"-{share.index}-of-{share.count}", given=given):
            yield


def ranges(total: int, size: int) -> list[range]:
    """The numbers of `total` items in parts of `size` each, but for the last."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


@dataclass(frozen=True)
class Parts:
    """The parts of `total` items, `size` each but for the last, as files in `folder` whose names end in `suffix`.

    `out`: what they become, which a person has named.
    """

    folder: Path
    total: int
    size: int
    suffix: str
    out: Path

    @property
    def ranges(self) -> list[range]:
        """The items of each part."""
        return ranges(self.total, self.size)

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}-of-{len(self.ranges):05d}{self.suffix}"

    def claim(self, facts: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
        """Makes the folder and notes what the work is, or checks that it is the same as what is there.

        Args:
            facts: what the parts depend on, JSON-able.
            ignored: keys of `facts` that may differ.

        Raises:
            ArgumentError: the folder holds parts of other work; the argument is `out`.
        """
        try:
            check_facts(self.folder, self.folder / PARTS_FACTS_FILE, facts, ignored)
        except ArgumentError as error:
            if any(self.folder.glob(f"part-*{self.suffix}")):
                raise ArgumentError("out", self.out, f"{self.folder}, begun before, {error.remedy}") from error
            with self.in_use(Share()):  # work that ended before any of it was done, and nobody is at it
                write_json(self.folder / PARTS_FACTS_FILE, facts)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PARTS_FACTS_FILE).exists():
            write_json(self.folder / PARTS_FACTS_FILE, facts)

    def in_use(self, share: Share) -> AbstractContextManager[None]:
        """Keeps other processes from making the same parts while the block runs, see `share_in_use`."""
        return share_in_use(self.folder, "out", share, self.out)

    def missing(self, share: Share) -> list[int]:
        """The parts that this process still has to make, and removes what a killed one left of them."""
        mine = share.of(range(len(self.ranges)))
        remove_torn(*map(self.path, mine))
        return [number for number in mine if not self.path(number).exists()]

    def left(self) -> int:
        """How many parts are not finished, of any process."""
        return sum(not self.path(number).exists() for number in range(len(self.ranges)))

    def write(self, number: int, write: Callable[[Path], None]) -> None:
        """Finishes a part: `write` is given a temporary path, whose file then gets the part's name."""
        with atomic_path(self.path(number)) as temporary:
            write(temporary)

    def remove(self) -> None:
        """Removes all parts, once they have been put together."""
        remove_tree(self.folder)


def check_facts(out: Path, path: Path, facts: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> bool:
    """Whether the JSON file `path` is there; it then says the same as `facts`, but for the keys `ignored`.

    Raises:
        ArgumentError: it says something else, or is none of ours; `out` is what the caller was to write.
    """
    if not path.exists():
        return False
    try:
        old = read_json(path)
    except InputError as error:
        raise ArgumentError("out", out, f"{path.name} there is none of ours; choose another") from error
    if listed := changes(old, facts, ignored):
        raise ArgumentError("out", out, f"is of something else ({listed}); choose another, or remove it")
    return True


def changes(old: Mapping[str, Any], facts: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> str:
    """What `facts` say otherwise than those that were read from a JSON file, but for the keys `ignored`, as a list."""
    now = json.loads(json.dumps(facts))
    changed = [key for key in now if key not in ignored and old.get(key) != now[key]]
    return "; ".join(f"{key} was {reprlib.repr(old.get(key))}, is {reprlib.repr(now[key])}" for key in changed)
