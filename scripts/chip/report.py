"""The report: its sections measured one after the other within a budget of time, and its two files."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drifting.runs.files import write_json
from scripts.chip.rows import Row, failed
from scripts.chip.tables import markdown

ROOT = Path(__file__).resolve().parents[2]

SHARES = {
    "machine": 1.0,
    "agreement": 2.0,
    "mnist": 1.0,
    "sampling": 1.5,
    "ablation": 2.7,
    "ablation_pallas": 1.7,
    "latent_b": 3.0,
}
"""The sections, and their shares of the time that is left when their turn comes. What one does not take the later ones
have."""

LEAST_SECONDS = 20.0
"""A section that would have less is left out: JAX alone takes half of that to start."""

QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""What is only tried out is compiled without optimisation: that is most of its time."""

Runner = Callable[[str, bool, float, Path], Iterator[Row]]
"""`(section, tiny, seconds, log) -> rows`, each as soon as it is there."""


class SectionEndedError(Exception):
    """A section did not come to its end."""


class Report:
    """The rows by section, written to `chip_report.json` and `chip_report.md` whenever there is a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: dict[str, list[Row]] = {}

    def add(self, section: str, row: Row) -> None:
        """Adds a row, or what is new of the row of that name."""
        rows = self.sections.setdefault(section, [])
        known = next((old for old in rows if old["name"] == row["name"]), None)
        if known is None:
            rows.append(dict(row))
        else:
            known.update(row)
        self.write()

    def end(self, section: str, reason: str) -> None:
        """Says of a section that was ended why: in its row that was not finished, or in one of its own."""
        unfinished = [row for row in self.sections.get(section, []) if row.get("partial")]
        for row in unfinished or [{"name": section}]:
            self.add(section, row | failed(row["name"], reason) | {"partial": False})

    def write(self) -> None:
        """Writes both files, whole."""
        write_json(self.folder / "chip_report.json", self.sections)
        (self.folder / "chip_report.md").write_text(markdown(self.sections), encoding="utf-8")

    @property
    def failures(self) -> list[str]:
        """The rows that failed or did not pass."""
        named = [(f"{section}: {row['name']}", row) for section, rows in self.sections.items() for row in rows]
        return [name for name, row in named if "error" in row or row.get("ok") is False]


def measure(report: Report, tiny: bool, minutes: float, run: Runner) -> None:
    """Measures all sections within `minutes`; what does not fit is left out, and its row says so."""
    end = time.monotonic() + 60 * minutes
    waiting = dict(SHARES)
    for section, share in SHARES.items():
        left = end - time.monotonic()
        seconds = max(left * share / sum(waiting.values()), min(LEAST_SECONDS, left))
        del waiting[section]
        if left < LEAST_SECONDS:
            report.add(section, {"name": section, "left_out": f"{max(0.0, left):.0f} s of the time were left"})
            continue
        try:
            for row in run(section, tiny, seconds, report.folder / "chip_report.log"):
                report.add(section, row)
        except SectionEndedError as ended:
            report.end(section, str(ended))
        if section == "machine" and report.failures:
            return


def in_process_of_its_own(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
    """The rows of a section that another process measures; its messages are added to `log`.

    Raises:
        SectionEndedError: it was not done after `seconds`, or it crashed.
    """
    with log.open("ab") as messages:
        child = subprocess.Popen(
            command(section, tiny, seconds),
            stdout=subprocess.PIPE,
            stderr=messages,
            cwd=ROOT,
            env=environment(tiny),
            text=True,
            encoding="utf-8",
        )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        child.kill()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            yield json.loads(line)
        code = child.wait()
    finally:
        timer.cancel()
        child.kill()
        child.wait()
    if stopped.is_set():
        raise SectionEndedError(f"was ended after {seconds:.0f} s, its share of the time")
    if code:
        raise SectionEndedError(f"its process ended with {code}: see {log.name}")


def command(section: str, tiny: bool, seconds: float) -> list[str]:
    """What measures a section."""
    return [sys.executable, "-m", "scripts.chip.child", section, f"{seconds:.0f}", *["tiny"] * tiny]


def environment(tiny: bool) -> dict[str, str]:
    """The environment of a section: the CPU is there beside the device, and what was compiled before is not read."""
    found = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    wanted = found.get("JAX_PLATFORMS")
    if wanted and "cpu" not in wanted.split(","):
        found["JAX_PLATFORMS"] = f"{wanted},cpu"
    if tiny:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {QUICK_FLAGS}"
    return found | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [found.get("PYTHONPATH")])])}
