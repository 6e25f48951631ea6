"""Everything there is to know of a chip on the day there is one, in ten minutes, without data or a network.

    python -m scripts.chip_report --out=runs/chip_report
    JAX_PLATFORMS=cpu python -m scripts.chip_report --out=runs/tried_out --tiny

On one host with GPUs or TPUs: whether the device computes what the CPU does (every loss with every kernel, networks,
attention, sample banks); time, share of the peak and memory of a training step of three recipes; sampling; kernels,
versions, commit. `FOLDER/chip_report.json` has all of it and `FOLDER/chip_report.md` the tables, both written
whenever something new was measured. `--tiny` does the same in its smallest form, on anything, to try it out.

Ends with 1 if something could not be measured or did not agree, with 2 if nothing can be measured here.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.chip.report import Report, Runner, in_process_of_its_own, measure

MINUTES = 10.0


def main(arguments: Sequence[str], run: Runner = in_process_of_its_own) -> int:
    """Measures, prints the tables, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.chip_report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for the report")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time that all of it may take (10)")
    parser.add_argument("--tiny", action="store_true", help="the smallest form of everything, also on the CPU")
    given = parser.parse_args(arguments)
    if not 0 < given.minutes < float("inf"):
        parser.error(f"--minutes={given.minutes:g}: give a positive number")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        parser.error(f"--out={given.out}: is there already; give a folder that is empty or not there")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out={given.out}: cannot be made ({error.strerror})")
    report = Report(given.out)
    measure(report, given.tiny, given.minutes, run)
    print((given.out / "chip_report.md").read_text(encoding="utf-8"))
    machine = report.sections["machine"][0]
    if "error" in machine:
        print(f"nothing was measured: {machine['error']}", file=sys.stderr)
        return 2
    for name in report.failures:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without ending the section's process
    sys.exit(main(sys.argv[1:]))
