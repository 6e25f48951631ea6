"""One section in a process of its own: `python -m scripts.chip.child SECTION SECONDS [tiny]`.

A device's peak memory is that of the process, a crash takes the process along, and what hangs can be ended. Rows are
lines of JSON on the standard output.
"""

import json
import os
import sys

from scripts.chip.sections import rows_of


def main(section: str, seconds: str, *tiny: str) -> None:
    """Measures and prints the rows of a section, each as soon as it is there."""
    rows = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no row
    with os.fdopen(rows, "w", encoding="utf-8") as stream:
        for row in rows_of(section, bool(tiny), float(seconds)):
            print(json.dumps(row, allow_nan=False), file=stream, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
