"""The report of a chip: what it measures, how it spends its time, and what comes of what fails."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.experiments.plan.plan import DEVICE_KINDS
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.potentials import LOSSES
from scripts.chip import agreement, report, sampling
from scripts.chip.agreement import TOLERANCES, Check, combinations, compare
from scripts.chip.machine import NAMES, known_device
from scripts.chip.report import SHARES
from scripts.chip.rows import Row
from scripts.chip.sections import SECTIONS, rows_of
from scripts.chip.steps import kernels
from scripts.chip_report import main
from tests.support.runs import FULL, ROOT

MACHINE = next(SECTIONS["machine"](True, 0.0)) | {"device": "a chip"}


def made_up(rows: dict[str, list[Row]]) -> Callable[[str, bool, float, Path], Iterator[Row]]:
    """A runner whose sections have these rows, and no others."""

    def run(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
        yield from [MACHINE] if section == "machine" else rows.get(section, [])

    return run


def read(folder: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = json.loads((folder / "chip_report.json").read_text())
    return found


# --- what is measured -------------------------------------------------------------------------------------------------


LARGE = ("ablation", "ablation_pallas", "latent_b")
"""Sections whose steps take long to compile."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The report in its smallest form: all of it if proofs at full size are asked for, each section in a process of its
    own, as for everybody; otherwise, in this process, what compiles in seconds."""
    folder = tmp_path_factory.mktemp("chip") / "report"
    if FULL:
        command = [sys.executable, "-m", "scripts.chip_report", f"--out={folder}", "--tiny", "--minutes=30"]
        done = subprocess.run(command, cwd=ROOT, timeout=1800, capture_output=True, text=True, check=False)
        return folder, done.returncode

    def run(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
        yield from rows_of(section, tiny, seconds) if section not in LARGE else ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "GROUPS", tuple(group for group in agreement.GROUPS if group is not agreement.nets))
        few = combinations(tiny=True)[:2]
        patch.setattr(agreement, "combinations", lambda tiny: few)
        patch.setattr(sampling, "RECIPE", "mnist")  # without a decoder
        return folder, main([f"--out={folder}", "--tiny", "--minutes=60"], run)


def test_the_smallest_form_measures_everything(measured: tuple[Path, int]):
    folder, code = measured
    sections = read(folder)
    assert code == 0, (folder / "chip_report.md").read_text()
    (machine,) = sections["machine"]
    assert machine["jax"] == jax.__version__ and machine["platform"] == "cpu" and machine["tiny"]
    compared = {row["group"] for row in sections["agreement"]}
    wanted = {group for group in TOLERANCES if FULL or not group.startswith("networks")}
    assert compared == wanted and all(row["ok"] for row in sections["agreement"])
    recipes = [name for name in ("mnist", *LARGE) if name in sections]
    assert len(recipes) == (1 + len(LARGE) if FULL else 1)
    for name in recipes:
        (row,) = sections[name]
        assert row["steps_timed"] >= 10 and not row["partial"]
        assert 0 < row["step_seconds_min"] <= row["step_seconds_median"] and row["compile_seconds"] > 0
        assert row["mfu"] is None and row["tflop"] > 0  # a CPU's peak is not known
        assert min(row[f"{how}_memory_gb"] for how in ("peak", "compiled", "planned")) > 0
    drawn = sections["sampling"]
    assert len(drawn) == 5 and sum("p95_ms" in row for row in drawn) == 2
    assert all(row.get("images_per_second", 1) > 0 for row in drawn)
    text = (folder / "chip_report.md").read_text()
    assert "### A training step" in text and "### Sampling" in text and "Failed" not in text


def test_every_objective_kernel_and_dtype_is_compared():
    everything = combinations(tiny=False)
    assert len(set(everything)) == len(everything) == (len(LOSSES) + len(FIELDS)) * len(KERNELS) * 2
    few = combinations(tiny=True)
    assert [{*LOSSES, *FIELDS}, set(KERNELS), {"float32", "bfloat16"}] == [set(of) for of in zip(*few, strict=True)]


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (lambda x: x, True),
        (lambda x: x * (1 + 2e-5), True),
        (lambda x: x * 1.001, False),
        (lambda x: x.at[0].set(jnp.nan), False),
        (lambda x: x[:1], False),
    ],
)
def test_what_a_device_computes_wrongly_does_not_pass(change: Callable[[jax.Array], Any], passes: bool):
    check = Check("losses, float32", "of three", change, lambda x: x, (np.arange(3, dtype=np.float32),))
    row = compare(check, jax.devices()[0])
    assert row["ok"] is passes and json.dumps(row, allow_nan=False)


def test_a_device_has_the_time_for_comparing_that_it_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(agreement, "GROUPS", (agreement.kernels, agreement.banks))
    found = list(agreement.rows(True, 0.0))
    assert found and all("left_out" in row for row in found)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("TPU v4", "tpu-v4"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5p", "tpu-v5p"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
        ("cpu", None),
    ],
)
def test_devices_are_known_by_what_jax_calls_them(kind: str, name: str | None):
    assert known_device(kind) == name and NAMES.keys() == DEVICE_KINDS.keys()


def test_kernels_are_read_off_the_compiled_module():
    calls = 'x = f32[] custom-call(y), custom_call_target="{}"\n'
    plain = calls.format("__cublas$gemm") * 2
    none = {"flash": False, "loss_in_kernels": False}
    assert kernels(plain) == {"custom_calls": {"__cublas$gemm": 2}} | none
    assert kernels(plain + calls.format("__gpu$xla.gpu.triton"))["flash"]
    loss = calls.format("__gpu$xla.gpu.triton").replace("x =", "loss_norms =")
    assert kernels(plain + loss)["loss_in_kernels"] and not kernels(plain + loss)["flash"]
    assert kernels(calls.format("tpu_custom_call"))["flash"]


# --- what comes of what fails -----------------------------------------------------------------------------------------


def test_a_row_that_fails_takes_none_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = {
        "agreement": [{"name": "a", "group": "kernels", "tolerance": 1.0, "largest_error": 2.0, "ok": False}],
        "mnist": [{"name": "mnist", "error": "Error: no"}],
        "sampling": [{"name": "one", "images": 1, "calls": 1, "median_ms": 1.0, "p95_ms": 2.0}],
    }
    assert main([f"--out={tmp_path}"], made_up(rows)) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == ["failed: agreement: a", "failed: mnist: mnist"]
    assert "* mnist: Error: no" in out and "2.0e+00, not within 1" in out and "| one | – | 1, 2 |" in out
    assert read(tmp_path)["sampling"] == rows["sampling"]


def test_rows_are_written_as_soon_as_they_are_there(tmp_path: Path):
    seen: list[Any] = []

    def run(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
        yield MACHINE if section == "machine" else {"name": "first"}
        seen.append(read(tmp_path)[section][0]["name"])

    assert main([f"--out={tmp_path}"], run) == 0
    assert seen == ["machine", *["first"] * (len(SHARES) - 1)]


def test_what_the_time_does_not_suffice_for_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    given: dict[str, float] = {}
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])

    def run(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
        given[section] = seconds
        now[0] += 590 if section == "sampling" else 0
        yield MACHINE if section == "machine" else {"name": section}

    assert main([f"--out={tmp_path}"], run) == 0
    assert list(given) == ["machine", "agreement", "mnist", "sampling"] and 100 < given["agreement"] < 200
    assert "* latent_b: left out, 10 s of the time were left" in (tmp_path / "chip_report.md").read_text()
    assert SHARES.keys() == SECTIONS.keys()


FIRST = """import json, sys
print(json.dumps({"name": "half", "labels": 1, "partial": True}), flush=True)
"""


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("import time; time.sleep(60)", r"was ended after 1 s, its share of the time"),
        ("import os; os.abort()", r"its process ended with -6: see log"),
        ("sys.exit(3)", r"its process ended with 3: see log"),
    ],
)
def test_a_section_that_hangs_or_crashes_is_ended(
    rest: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "command", lambda *_: [sys.executable, "-S", "-c", FIRST + rest])
    found = report.Report(tmp_path)
    began = time.monotonic()
    with pytest.raises(report.SectionEndedError, match=reason) as ended:
        for row in report.in_process_of_its_own("mnist", True, 1.0, tmp_path / "log"):
            found.add("mnist", row)
    found.end("mnist", str(ended.value))
    assert time.monotonic() - began < 30
    assert read(tmp_path)["mnist"] == [{"name": "half", "labels": 1, "partial": False, "error": str(ended.value)}]


def test_an_error_in_a_section_is_its_last_row(monkeypatch: pytest.MonkeyPatch):
    def fails(tiny: bool, seconds: float) -> Iterator[Row]:
        yield {"name": "half", "partial": True}
        raise ValueError("two\nlines")

    monkeypatch.setitem(SECTIONS, "mnist", fails)
    assert list(rows_of("mnist", True, 1.0))[-1] == {"name": "half", "partial": False, "error": "ValueError: two lines"}


def test_the_cpu_is_there_beside_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert report.environment(tiny=False)["JAX_PLATFORMS"] == "cuda,cpu"
    assert "JAX_COMPILATION_CACHE_DIR" not in report.environment(tiny=False)  # or the seconds to compile mean nothing
    assert "JAX_COMPILATION_CACHE_DIR" in os.environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=X", "--minutes=0"], r"--minutes=0: give a positive number"),
        (["--out=X", "--minutes=nan"], r"--minutes=nan: give a positive number"),
        (["--out=FULL"], r"is there already; give a folder that is empty or not there"),
        (["--out=FULL/file"], r"is there already"),
        (["--out=FULL/file/x"], r"cannot be made"),
        ([], r"--out"),
    ],
)
def test_wrong_arguments_end_in_one_line_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    places = [text.replace("FULL", str(full)).replace("=X", f"={tmp_path}/x") for text in arguments]
    with pytest.raises(SystemExit, match=r"2"):
        main(places, made_up({}))
    assert re.search(message, capsys.readouterr().err.splitlines()[-1]) and not (tmp_path / "x").exists()


def test_without_a_device_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(section: str, tiny: bool, seconds: float, log: Path) -> Iterator[Row]:
        yield from rows_of(section, tiny, seconds)

    assert main([f"--out={tmp_path}"], run) == 2  # the CPU is none
    assert read(tmp_path).keys() == {"machine"}
    assert "nothing was measured: MachineError: JAX finds no device here but the CPU" in capsys.readouterr().err
