"""Artifacts and the conversion of released weights: exact round trips, one clear line for everything wrong."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx, serialization

from drifting.hub import (
    Artifact,
    generator_from_released,
    generator_kwargs_from_released,
    generator_to_released,
    load_artifact,
    load_released,
    mae_from_released,
    mae_kwargs_from_released,
    mae_to_released,
    save_artifact,
)
from drifting.models.dit import DiT
from drifting.models.mae import MAE
from tests.golden_files import group, load, mae_params_a, mae_params_b, meta, unflatten

GENERATOR: dict[str, Any] = dict(
    cond_dim=8, num_classes=3, noise_classes=5, noise_coords=2, input_size=4, in_channels=2, n_cls_tokens=2,
    patch_size=2, hidden_size=8, depth=3, num_heads=2, mlp_ratio=4.0, out_channels=2, use_qknorm=True, use_swiglu=True,
    use_rope=True, use_rmsnorm=True, use_bf16=False, attn_fp32=True, use_remat=False,
)  # fmt: skip
ENCODER: dict[str, Any] = dict(
    num_classes=3, in_channels=2, base_channels=4, patch_size=2, layers=[2, 1, 1], dropout_prob=0.0, use_bf16=False,
    input_patch_size=1,
)  # fmt: skip
"""`model_config` of tiny models, in the released fields."""
PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, np.float32)}


def random_params(build: Any) -> dict[str, Any]:
    """Parameters of the module that `build` makes, all different, and never computed."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def generator_params(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    kwargs = generator_kwargs_from_released(GENERATOR | changes)
    return kwargs, random_params(lambda: DiT(**kwargs, rngs=nnx.Rngs(0)))


def mae_params(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    kwargs = mae_kwargs_from_released(ENCODER | changes)
    return kwargs, random_params(lambda: MAE(**kwargs, rngs=nnx.Rngs(0)))


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden_generator_names_round_trip(golden: Path, case: str):
    z = load(golden / f"generator_{case}.npz")
    flat = group(z, "params")
    params = generator_from_released(flat, **generator_kwargs_from_released(meta(z)))
    assert_same(generator_to_released(params), flat)


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_mae_names_round_trip(golden: Path, case: str):
    flat = mae_params_a(golden) if case == "a" else mae_params_b(golden)
    config = meta(load(golden / f"mae_forward_{case}.npz"))["config"]
    assert_same(mae_to_released(mae_from_released(flat, **mae_kwargs_from_released(config))), flat)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(use_rmsnorm=False),
        dict(use_swiglu=False),
        dict(use_qknorm=False),
        dict(noise_classes=0, n_cls_tokens=0),
    ],
)
def test_generator_round_trips_from_our_side(changes: dict[str, Any]):
    kwargs, params = generator_params(**changes)
    flat = generator_to_released(params)
    assert_same(generator_from_released(flat, **kwargs), params)
    # Every number is carried once: nothing merged, nothing dropped.
    assert sum(x.size for x in flat.values()) == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("changes", [{}, dict(num_classes=0), dict(layers=[1])])
def test_mae_round_trips_from_our_side(changes: dict[str, Any]):
    kwargs, params = mae_params(**changes)
    flat = mae_to_released(params)
    assert_same(mae_from_released(flat, **kwargs), params)
    assert sum(x.size for x in flat.values()) == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda flat: flat.pop("Embed_0/embedding"), "missing tensor Embed_0/embedding"),
        (lambda flat: flat.update(extra=np.ones(1)), "unexpected tensor extra"),
        (lambda flat: flat.update({"RMSNorm_0/weight": np.ones(9)}), r"RMSNorm_0/weight \(9,\) instead of \(8,\)"),
        (lambda flat: [flat.pop(k) for k in list(flat) if "blocks_1" in k], "missing tensor .*blocks_1.* and 8 more"),
    ],
)
def test_wrong_tensors_are_named_in_one_line(edit: Any, words: str):
    kwargs, params = generator_params()
    flat = generator_to_released(params)
    edit(flat)
    with pytest.raises(ValueError, match=words) as error:
        generator_from_released(flat, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"), [({"depth": None}, "missing .* depth"), ({"new": 1}, "unexpected .* new")]
)
def test_unknown_and_missing_config_fields_are_named(change: dict[str, Any], words: str):
    config = {k: v for k, v in (GENERATOR | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        generator_kwargs_from_released(config)


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("kind", ["generator", "mae"])
def test_released_folder_loads(tmp_path: Path, kind: str, outer: bool):
    kwargs, params = generator_params() if kind == "generator" else mae_params()
    tree = unflatten(generator_to_released(params) if kind == "generator" else mae_to_released(params))
    blob = serialization.msgpack_serialize({"params": tree} if outer else tree)
    (tmp_path / "ema_params.msgpack").write_bytes(blob)
    config = GENERATOR if kind == "generator" else ENCODER
    (tmp_path / "metadata.json").write_text(json.dumps({"model_config": config, "step": 7}))
    artifact = load_released(tmp_path)
    assert (artifact.kind, artifact.model_config, artifact.metadata["step"]) == (kind, kwargs, 7)
    assert_same(artifact.params, params)


def save(directory: Path, **changes: Any) -> None:
    options = dict(kind="generator", model_config={"depth": 3, "dtype": "float32"}, params=PARAMS, step=5)
    save_artifact(directory, **options | dict(ema_decay=0.999, extra=None) | changes)


def test_artifact_round_trip(tmp_path: Path):
    save(tmp_path / "runs" / "ema", extra={"alpha": 1.5})
    artifact = load_artifact(tmp_path / "runs" / "ema", kind="generator")
    assert isinstance(artifact, Artifact)
    assert artifact.model_config == {"depth": 3, "dtype": "float32"}
    assert_same(artifact.params, PARAMS)
    keys = {"format", "kind", "backend", "ema_decay", "step", "path", "model_config", "sha256", "alpha"}
    assert set(artifact.metadata) == keys
    assert (artifact.metadata["step"], artifact.metadata["ema_decay"], artifact.metadata["alpha"]) == (5, 0.999, 1.5)


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
