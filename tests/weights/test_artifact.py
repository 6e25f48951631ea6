"""Artifacts: exact round trips, nothing half-written, one clear line for everything wrong."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from drifting.errors import ArgumentError
from drifting.weights.artifact import Artifact, load_artifact, save_artifact

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float32)}


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def save(directory: Path, **changes: Any) -> None:
    options = dict(kind="generator", model_config={"depth": 3, "dtype": "float32"}, params=PARAMS, step=5)
    save_artifact(directory, **options | dict(ema_decay=0.999, network="dit", extra=None) | changes)


def test_artifact_round_trip(tmp_path: Path):
    save(tmp_path / "runs" / "ema", extra={"alpha": 1.5})
    artifact = load_artifact(tmp_path / "runs" / "ema", kind="generator")
    assert isinstance(artifact, Artifact)
    assert artifact.model_config == {"depth": 3, "dtype": "float32"}
    assert_same(artifact.params, PARAMS)
    keys = {"format", "kind", "backend", "ema_decay", "step", "path", "model_config", "sha256", "alpha"}
    keys |= {"network"}
    assert set(artifact.metadata) == keys
    assert (artifact.metadata["step"], artifact.metadata["ema_decay"], artifact.metadata["alpha"]) == (5, 0.999, 1.5)


def test_a_generator_says_which_network_it_is(tmp_path: Path):
    save(tmp_path / "net", network="potato")
    assert load_artifact(tmp_path / "net").network == "potato"
    with pytest.raises(ArgumentError, match=r"^network: say which"):
        save(tmp_path / "other", network=None)
    save(tmp_path / "mae", kind="mae", network=None)
    assert load_artifact(tmp_path / "mae").network == "mae"
    assert "network" not in load_artifact(tmp_path / "mae").metadata


@pytest.mark.parametrize(("arguments", "network"), [({"patch_size": 2}, "dit"), ({"noise_dim": 2}, "mlp")])
def test_older_generators_did_not_say_it(tmp_path: Path, arguments: dict[str, int], network: str):
    save(tmp_path / "net", model_config=arguments)
    edit_metadata(tmp_path / "net", network=None)
    assert load_artifact(tmp_path / "net").network == network


def test_artifact_takes_device_arrays_whatever_their_layout(tmp_path: Path):
    transposed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3).T, "y": jax.numpy.ones(3)}
    save(tmp_path / "ema", params=transposed)
    assert_same(load_artifact(tmp_path / "ema").params, jax.device_get(transposed))


def test_artifact_replaces_an_older_one_and_leaves_nothing_behind(tmp_path: Path):
    save(tmp_path / "ema")
    save(tmp_path / "ema", step=6, params={"c": np.zeros(1, np.float32)})
    artifact = load_artifact(tmp_path / "ema")
    assert artifact.metadata["step"] == 6 and set(artifact.params) == {"c"}
    assert [p.name for p in tmp_path.iterdir()] == ["ema"]


def test_failed_save_keeps_the_older_artifact(tmp_path: Path):
    save(tmp_path / "ema")
    with pytest.raises(TypeError):
        save(tmp_path / "ema", model_config={"dtype": np.float32})
    assert load_artifact(tmp_path / "ema").metadata["step"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["ema"]


def test_save_does_not_replace_a_folder_that_is_no_artifact(tmp_path: Path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("data")
    with pytest.raises(ValueError, match="is no artifact"):
        save(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").read_text() == "data"


def test_extra_metadata_may_not_redefine(tmp_path: Path):
    with pytest.raises(ValueError, match="redefines sha256, step"):
        save(tmp_path / "ema", extra={"step": 1, "sha256": ""})


def flip_last_byte(directory: Path) -> None:
    blob = bytearray((directory / "params.safetensors").read_bytes())
    blob[-1] ^= 1
    (directory / "params.safetensors").write_bytes(bytes(blob))


def edit_metadata(directory: Path, **changes: Any) -> None:
    path = directory / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_last_byte, "SHA-256"),
        (lambda d: (d / "params.safetensors").unlink(), "no file .*params.safetensors"),
        (lambda d: (d / "metadata.json").unlink(), "no file .*metadata.json"),
        (lambda d: (d / "metadata.json").write_text("{"), "not JSON"),
        (lambda d: (d / "metadata.json").write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda d: (d / "metadata.json").write_text("[]"), "not the description of an artifact"),
        (lambda d: edit_metadata(d, model_config=[]), "not the description of an artifact"),
        (lambda d: edit_metadata(d, format="other"), "format 'other'"),
        (lambda d: edit_metadata(d, kind="mae"), "holds a 'mae', expected a 'generator'"),
        (lambda d: edit_metadata(d, model_config=None, sha256=None), "no sha256, model_config"),
    ],
)
def test_damaged_artifacts_are_refused_in_one_line(tmp_path: Path, damage: Any, words: str):
    save(tmp_path / "ema")
    damage(tmp_path / "ema")
    with pytest.raises(ValueError, match=words) as error:
        load_artifact(tmp_path / "ema", kind="generator")
    assert "\n" not in str(error.value)
