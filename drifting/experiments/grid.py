"""The cells of a sweep: what each changes, how far it is, and what its scores are. Nothing here trains."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from drifting.config.checks import check
from drifting.config.older import renamed
from drifting.config.parse import annotation, parse
from drifting.config.schema import Config, ema_decay, to_dict
from drifting.errors import ArgumentError, ConfigError, InputError
from drifting.runs.directory import CONFIG_FILE, SWEEP_FILE, check_config
from drifting.runs.files import atomic_path, exists, read_json
from drifting.scoring.metrics import rank, ranked_by

TABLE_FILE, ERROR_FILE, COMPILED_FOLDER = "sweep.csv", "error.txt", "compiled"

CELL_SCORES = "sweep-scores.json"
"""A cell's scores as the sweep asked for them: `drifting evaluate` of a cell writes `eval-STEP.json` anew."""

CELL_ROUNDING = "truncate"
"""How the images of a cell become uint8 before they are scored, see `sampling.images.ROUNDINGS`."""

FINISHED, FAILED, STARTED, WAITING = "finished", "failed", "started", "waiting"


@dataclass(frozen=True)
class Sweep:
    """What `get_sweep()` of a file in `configs/sweeps/` returns.

    Attributes:
        config: the experiment, as `--config` takes it: a file, relative to the sweep's own, or the name of one of the
            package's.
        grid: dotted keys of settings, or a tuple of keys that vary together, each with its values; a cell for every
            combination, the last key varying fastest.
        settings: dotted keys and values that all cells have in place of the experiment's.
        alphas: guidance scales to score at; (): `eval.alpha`. The best one counts.
    """

    config: str
    grid: Mapping[str | tuple[str, ...], Sequence[Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    alphas: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class SweepCell:
    """One run of a sweep.

    Attributes:
        index: the cell's place in the grid.
        name: the name of its folder.
        values: what it changes, by dotted key.
        steps: how many steps it trains.
        scoring: how it is scored, as files of scores say it: `num seed alphas reference ...`.
    """

    index: int
    name: str
    values: dict[str, Any]
    steps: int
    scoring: Mapping[str, Any]

    def folder(self, workdir: Path) -> Path:
        """The cell's run directory."""
        return workdir / self.name

    def scores(self, workdir: Path) -> dict[str, Any] | None:
        """The best of its scores at its last step; None until it is finished and scored as the sweep asks."""
        for name in (CELL_SCORES, f"eval-{self.steps}.json"):
            try:
                found = read_json(self.folder(workdir) / name)
                if not self._is_asked_for(found):
                    continue
                best: dict[str, Any] = min(found["scores"], key=rank)
            except (InputError, ValueError, KeyError, TypeError):  # none, or damaged: the cell is scored again
                continue
            return best
        return None

    def _is_asked_for(self, found: dict[str, Any]) -> bool:
        reference = found.get("reference")
        facts = found | {
            "alphas": [scores.get("alpha") for scores in found["scores"]],
            "reference": reference["path"] if isinstance(reference, dict) else None,  # a sentence: its own data
        }
        wanted = {"step": self.steps, "classes": None, "labels": None, **self.scoring}
        return all(facts.get(key) == value for key, value in wanted.items())

    def error(self, workdir: Path) -> str | None:
        """Why it failed; None if it has not."""
        path = self.folder(workdir) / ERROR_FILE
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def status(self, workdir: Path) -> str:
        """One of the four states."""
        if self.scores(workdir) is not None:
            return FINISHED
        if self.error(workdir) is not None:
            return FAILED
        return STARTED if self.folder(workdir).is_dir() else WAITING


def cells_of(sweep: Sweep, base: ConfigDict) -> dict[SweepCell, Config]:
    """All cells of a sweep over the experiment `base`, with their settings.

    Raises:
        ConfigError: there are none, a key does not exist, or a cell's settings cannot work.
    """
    axes: list[list[dict[str, Any]]] = []
    for keys, values in sweep.grid.items():
        names = (keys,) if isinstance(keys, str) else keys
        if not len(values):
            raise ConfigError(f"grid {', '.join(names)}: has no values, give at least one")
        axes.append([dict(zip(names, v if isinstance(keys, tuple) else (v,), strict=True)) for v in values])
    cells: dict[SweepCell, Config] = {}
    _check_keys("settings", sweep.settings)
    for index, combination in enumerate(itertools.product(*axes)):
        changed = {key: value for part in combination for key, value in part.items()}
        _check_keys("grid", changed)
        config = parse(_changed(base, {**sweep.settings, **changed}))
        name = "-".join(_text(key, value) for key, value in changed.items())
        try:
            check(config)
        except ConfigError as error:
            raise ConfigError(f"cell {name}: {error}") from error
        cells[SweepCell(index, name, changed, config.train.steps, _scoring(sweep, config))] = config
    folders = [cell.name for cell in cells]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise ConfigError(f"grid: two cells are {twice!r}, give each value once")
    return cells


def _scoring(sweep: Sweep, config: Config) -> dict[str, Any]:
    wanted = config.eval
    return {
        "num": wanted.num_samples,
        "seed": wanted.seed,
        "alphas": list(sweep.alphas) or [wanted.alpha],
        "reference": wanted.reference,
        "neighbours": wanted.neighbours,
        "ema_decay": ema_decay(config),
        "uint8": CELL_ROUNDING,
    }


def check_cells(cells: Mapping[SweepCell, Config], workdir: Path) -> None:
    """Checks that the folder is no run's, and that the cells that have begun have these settings, but for those that
    may change on resuming.

    Raises:
        ConfigError: it is, or one has others; says which.
    """
    if exists(workdir / CONFIG_FILE) and not exists(workdir / SWEEP_FILE):
        raise ArgumentError("workdir", workdir, "holds a run; give a sweep a folder of its own")
    for cell, config in cells.items():
        if cell.status(workdir) in (FINISHED, STARTED):
            check_config(cell.folder(workdir), config)


def _check_keys(named: str, values: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where there is no such key; `named`: where the sweep has it."""
    for path, value in values.items():
        try:
            annotation(Config, path, value)
        except ConfigError as error:
            raise ConfigError(f"{named}: {error}") from error


def _changed(base: ConfigDict, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `base`, with these at dotted keys."""
    settings = to_dict(parse(base))
    for path, value in values.items():
        *sections, key = renamed(path).split(".")
        section: Any = settings
        for name in sections:  # sections of options are made where they are not there
            section = section.setdefault(name, {})
        section[key] = value
    return settings


def _text(key: str, value: Any) -> str:
    """A value in a folder's name: words by themselves, numbers after the last part of their key."""
    if isinstance(value, str):
        return value.replace("/", "_")
    values = value if isinstance(value, tuple | list) else (value,)
    shown = "+".join(_short(v) for v in values)
    return f"{key.rpartition('.')[2].removesuffix('s')}{shown}".replace("/", "_")


def _short(value: Any) -> str:
    """A number without digits that say nothing, or whatever else a setting holds."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_cells(workdir: Path) -> list[SweepCell]:
    """The cells of a sweep that has begun.

    Raises:
        ConfigError: there is none.
    """
    try:
        listed = read_json(workdir / SWEEP_FILE)["cells"]
        # Older sweeps do not say how they are scored.
        return [SweepCell(i, c["name"], c["values"], c["steps"], c.get("scoring", {})) for i, c in enumerate(listed)]
    except (InputError, KeyError, TypeError) as error:
        raise ArgumentError("workdir", workdir, f"holds no sweep that can be read ({error})") from error


def rows_of(cells: Sequence[SweepCell], workdir: Path) -> list[dict[str, Any]]:
    """A row for each cell: its settings, state and best scores."""
    rows = []
    for cell in cells:
        row = {"index": cell.index, "cell": cell.name, "status": cell.status(workdir)}
        row |= {key: _cell_text(value) for key, value in cell.values.items()}
        rows.append(row | (cell.scores(workdir) or {}) | {"error": cell.error(workdir) or ""})
    return rows


def collect(cells: Sequence[SweepCell], workdir: Path) -> None:
    """Writes `sweep.csv`, the rows of all cells."""
    rows = rows_of(cells, workdir)
    names = [*dict.fromkeys(name for row in rows for name in row if name != "error"), "error"]
    with atomic_path(workdir / TABLE_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _cell_text(value: Any) -> Any:
    return " ".join(_short(v) for v in value) if isinstance(value, tuple | list) else value


def listing(cells: Sequence[SweepCell], workdir: Path) -> str:
    """A line for each cell: index, state, the score that cells are ranked by, name."""
    found = [cell.scores(workdir) for cell in cells]
    name = next((ranked_by(scores) for scores in found if scores), "score")
    width = max(len(name), 9)
    lines = [f"{'index':>5}  {'state':9} {name:>{width}}  cell"]
    for cell, scores in zip(cells, found, strict=True):
        score = f"{scores[ranked_by(scores)]:.4f}" if scores else ""
        lines.append(f"{cell.index:5}  {cell.status(workdir):9} {score:>{width}}  {cell.name}")
    return "\n".join(lines)
