"""The comparison of compilers' figures with those that are recorded, on a program of one product."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from scripts import bench_check

FIGURES = {"GFLOP", "GB moved, loops once", "MB temporary", "loops", "trips of loops", "operations, loops once"}


def repeated(x: jax.Array, times: int = 3) -> jax.Array:
    return jax.lax.fori_loop(0, times, lambda _, y: jnp.tanh(y @ y), x)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench_check, "RECORD", tmp_path / "counts.json")
    program = (repeated, (jax.ShapeDtypeStruct((256, 256), jnp.float32),))
    monkeypatch.setattr(bench_check, "programs", lambda: {"three products": program})
    assert bench_check.main(["--record", "--note=First record."]) == 0
    return tmp_path / "counts.json"


def test_what_is_recorded_is_found_again(record: Path, capsys: pytest.CaptureFixture[str]):
    found = json.loads(record.read_text())
    figures = found["programs"]["three products"]
    assert set(figures) == FIGURES and figures["GFLOP"] == round(3 * 2 * 256**3 / 1e9, 4)
    assert figures["loops"] == 1 and figures["trips of loops"] == 3 and figures["operations, loops once"] > 1
    assert [note["note"] for note in found["notes"]] == ["First record."]
    capsys.readouterr()
    assert bench_check.main([]) == 0 and not capsys.readouterr().err


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("figure", sorted(FIGURES - {"MB temporary"}))
def test_a_figure_that_moved_in_either_direction_is_told(
    record: Path, capsys: pytest.CaptureFixture[str], figure: str, factor: float
):
    found: dict[str, Any] = json.loads(record.read_text())
    found["programs"]["three products"][figure] *= factor
    record.write_text(json.dumps(found))
    capsys.readouterr()
    assert bench_check.main([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"three products: {figure} is ") and "--record" in lines[1]


def test_a_program_that_is_not_recorded_is_told(record: Path):
    record.write_text('{"programs": {}, "notes": []}')
    assert bench_check.main([]) == 1


def test_a_recorded_figure_that_is_no_longer_found_is_told(record: Path, capsys: pytest.CaptureFixture[str]):
    found: dict[str, Any] = json.loads(record.read_text())
    found["programs"]["three products"]["widgets"] = 3
    found["programs"]["four products"] = {"GFLOP": 1}
    record.write_text(json.dumps(found))
    capsys.readouterr()
    assert bench_check.main([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "three products: widgets is recorded, 3, and was not found",
        "four products: GFLOP is recorded, 1, and was not found",
    ]


def test_a_note_is_of_a_record(record: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench_check.main(["--note=Why."])
    assert "--note: is written with --record" in capsys.readouterr().err


def test_a_record_needs_a_note(record: Path):
    before = record.read_text()
    with pytest.raises(SystemExit) as ended:
        bench_check.main(["--record"])
    assert ended.value.code == 2 and record.read_text() == before


def test_differences_are_shares_of_what_is_recorded():
    assert bench_check.difference(1.1, 1.0) == pytest.approx(0.1)
    assert bench_check.difference(0.0, 0.0) == 0 and bench_check.difference(1.0, 0.0) == 1
