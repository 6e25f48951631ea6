"""Runs of a sweep that are the same but for their seed, and what is said of them together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drifting.experiments.report.data import RunData
from drifting.scoring.metrics import known_scores, ranked_by


@dataclass(frozen=True)
class Group:
    """Finished runs, at least one, that differ in nothing but their seed."""

    runs: Sequence[RunData]

    @property
    def kind(self) -> str:
        """See `RunData.kind`."""
        return self.runs[0].kind

    @property
    def widths(self) -> tuple[float, ...]:
        """The kernel widths of the runs."""
        return self.runs[0].widths

    @property
    def label(self) -> str:
        """What it is, and of how many seeds."""
        seeds = f", mean of {len(self.runs)} seeds" if len(self.runs) > 1 else ""
        return f"{self.kind}, width {width_text(self.widths)}{seeds}"

    def values(self, name: str) -> list[float]:
        """A score of each run."""
        return [score_of(run, name) for run in self.runs]

    def mean(self, name: str) -> float:
        """A score averaged over the seeds."""
        values = self.values(name)
        return sum(values) / len(values)


def group_runs(runs: Iterable[RunData]) -> list[Group]:
    """Finished runs, those together that differ in their seed alone."""
    groups: dict[tuple[str, tuple[float, ...]], list[RunData]] = {}
    for run in runs:
        groups.setdefault((run.kind, run.widths), []).append(run)
    return [Group(together) for together in groups.values()]


def kinds(runs: Iterable[RunData | Group]) -> list[str]:
    """The kinds there are, each once."""
    return list(dict.fromkeys(run.kind for run in runs))


def ranking(groups: Sequence[Group]) -> str:
    """The name of the score that they are ranked by."""
    return ranked_by(groups[0].runs[0].scores or {})


def best_first(groups: Iterable[Group], name: str) -> list[Group]:
    """Groups in order of the mean of a score, the best one first."""
    return sorted(groups, key=lambda group: group.mean(name), reverse=known_scores()[name].better == "higher")


def score_of(run: RunData, name: str) -> float:
    """One score of a finished run."""
    return float((run.scores or {})[name])


def scored(groups: Sequence[Group], names: Iterable[str]) -> list[str]:
    """The names of those scores that every run has."""
    return [name for name in names if all(name in (run.scores or {}) for group in groups for run in group.runs)]


def width_text(widths: Sequence[float]) -> str:
    """Kernel widths for a person."""
    return ", ".join(f"{width:g}" for width in widths)
