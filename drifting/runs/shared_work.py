"""Work cut into parts, which several processes share and which goes on where it was killed.

What a part holds follows from the settings alone. Process `i` of `n` makes the parts `k` with `k % n == i`; a part is
finished when its file is there, which appears whole or not at all. Whoever finds all of them finished puts them
together, so the result does not depend on how many processes there were or how often they were killed.
"""

import json
import reprlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drifting.errors import ConfigError, require
from drifting.runs.files import _plain, atomic_path, remove_torn, write_json

FACTS = "facts.json"


@dataclass(frozen=True)
class Share:
    """Which of several processes that share some work this one is.

    Raises:
        ConfigError: there is no such process.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        require(self.count > 0, "--process_count", self.count, "use 1 or more")
        remedy = f"must lie in [0, --process_count={self.count})"
        require(0 <= self.index < self.count, "--process_index", self.index, remedy)


@dataclass(frozen=True)
class Parts:
    """The parts of `total` items, `size` each but for the last, as files in `folder`. `suffix`: of their names."""

    folder: Path
    total: int
    size: int
    suffix: str

    @property
    def ranges(self) -> list[range]:
        """The items of each part."""
        return [range(start, min(start + self.size, self.total)) for start in range(0, self.total, self.size)]

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}-of-{len(self.ranges):05d}{self.suffix}"

    def claim(self, key: str, facts: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
        """Makes the folder and notes what the work is, or checks that it is the same as what is there.

        Args:
            key: the flag that names the output, for the error.
            facts: JSON-able. ignored: keys of it that may differ.

        Raises:
            ConfigError: the folder holds parts of other work.
        """
        check_facts(key, self.folder, self.folder / FACTS, facts, ignored)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / FACTS).exists():
            write_json(self.folder / FACTS, facts)

    def missing(self, share: Share) -> list[int]:
        """The parts that this process still has to make, and removes what a killed one left of them."""
        mine = range(share.index, len(self.ranges), share.count)
        for number in mine:
            remove_torn(self.path(number))
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
        shutil.rmtree(self.folder, ignore_errors=True)


def check_facts(key: str, out: Path, path: Path, facts: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> bool:
    """Whether the JSON file `path` is there; it then says the same as `facts`, but for the keys `ignored`.

    Raises:
        ConfigError: it says something else, or is none of ours.
    """
    if not path.exists():
        return False
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in facts if name not in ignored and old.get(name) != _plain(facts[name])]
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{key}={out}: {path.name} there is none of ours; choose another") from error
    if changed:
        listed = "; ".join(
            f"{name} was {reprlib.repr(old.get(name))}, is {reprlib.repr(facts[name])}" for name in changed
        )
        raise ConfigError(f"{key}={out}: is of something else ({listed}); choose another, or remove it")
    return True
