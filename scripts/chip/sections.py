"""The sections of the report, in the order in which they are measured: what is cheap comes first."""

import traceback
from collections.abc import Callable, Iterator
from functools import partial

from scripts.chip import agreement, machine, sampling, steps
from scripts.chip.rows import Row, failed

Section = Callable[[bool, float], Iterator[Row]]
"""`(tiny, seconds) -> rows`: `seconds` is how long it may take; after that it is ended from outside."""

SECTIONS: dict[str, Section] = {
    "machine": machine.rows,
    "agreement": agreement.rows,
    "mnist": partial(steps.rows, "mnist"),
    "sampling": sampling.rows,
    "ablation": partial(steps.rows, "ablation"),
    "ablation_pallas": partial(steps.rows, "ablation_pallas"),
    "latent_b": partial(steps.rows, "latent_b"),
}


def rows_of(section: str, tiny: bool, seconds: float) -> Iterator[Row]:
    """The rows of a section; where it fails, the row that was not finished, or one of its own, says so."""
    name = section
    try:
        for row in SECTIONS[section](tiny, seconds):
            name = row["name"] if row.get("partial") else section
            yield row
    except Exception as error:  # one line in the report; the traceback is in the log
        traceback.print_exc()
        yield failed(name, error) | {"partial": False}
