"""Released weights: exact conversion of names and configurations, folders read and written, one line for all damage."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization

from drifting.errors import InputError
from drifting.networks.dit import DiT
from drifting.networks.mae import MAE
from drifting.weights.released import load_released, save_released
from drifting.weights.released_names import (
    generator_from_released,
    generator_kwargs_from_released,
    generator_kwargs_to_released,
    generator_to_released,
    mae_from_released,
    mae_kwargs_from_released,
    mae_kwargs_to_released,
    mae_to_released,
)
from tests.support.golden_files import group, load, mae_params_a, mae_params_b, meta, unflatten

GENERATOR: dict[str, Any] = dict(
    cond_dim=8, num_classes=3, noise_classes=5, noise_coords=2, input_size=4, in_channels=2, n_cls_tokens=2,
    patch_size=2, hidden_size=8, depth=3, num_heads=2, mlp_ratio=4.0, out_channels=2, use_qknorm=True, use_swiglu=True,
    use_rope=True, use_rmsnorm=True, use_bf16=False, attn_fp32=True, use_remat=False,
)  # fmt: skip

ENCODER: dict[str, Any] = dict(
    num_classes=3, in_channels=2, base_channels=4, patch_size=2, layers=[2, 1, 1, 1], dropout_prob=0.0, use_bf16=False,
    input_patch_size=1,
)  # fmt: skip
"""`model_config` of tiny models, in the released fields."""


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


# --- configurations ---------------------------------------------------------------------------------------------------


def test_absent_fields_have_the_defaults_of_the_release():
    # The release's own network without options: DiT-XL/2 with LayerNorm and GELU on 32x32 pixels.
    assert generator_kwargs_from_released({"cond_dim": 7}) == dict(
        cond_dim=7, num_classes=1001, input_size=32, in_channels=3, out_channels=3, patch_size=2, hidden_size=1152,
        depth=28, num_heads=16, mlp_ratio=4.0, register_tokens=0, style_tokens=0, style_codebook=0, qk_norm=False,
        swiglu=False, rope=False, rms_norm=False, dtype="float32", attention_dtype="float32", remat=False,
    )  # fmt: skip
    assert mae_kwargs_from_released({}) == dict(
        num_classes=1000, in_channels=3, base_channels=64, patch_size=4, layers=[2, 2, 2, 2], input_patch_size=1,
        dtype="float32", remat=False,
    )  # fmt: skip


def test_what_the_release_noted_of_its_module_object_is_ignored():
    noted = {"scope": None, "parent": None, "name": None}
    assert generator_kwargs_from_released(GENERATOR | noted) == generator_kwargs_from_released(GENERATOR)
    with pytest.raises(ValueError, match="unexpected model_config field scope"):
        generator_kwargs_from_released(GENERATOR | {"scope": 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cond_dim": None}, "missing model_config field cond_dim"),
        ({"new": 1}, "unexpected model_config field new"),
        ({"depth": "12"}, "field depth is '12', expected int"),
        ({"depth": True}, "field depth is True, expected int"),
        ({"use_rope": 1}, "field use_rope is 1, expected bool"),
        ({"mlp_ratio": [4]}, r"field mlp_ratio is \[4\], expected float"),
    ],
)
def test_wrong_config_fields_are_named(change: dict[str, Any], words: str):
    config = {k: v for k, v in (GENERATOR | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        generator_kwargs_from_released(config)


@pytest.mark.parametrize(
    "changes", [{}, dict(use_bf16=True, attn_fp32=False), dict(noise_classes=0, noise_coords=1), dict(use_remat=True)]
)
def test_configurations_round_trip(changes: dict[str, Any]):
    config = GENERATOR | changes
    assert generator_kwargs_to_released(generator_kwargs_from_released(config)) == config
    assert mae_kwargs_to_released(mae_kwargs_from_released(ENCODER)) == ENCODER


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("generator", dict(input_size=[8, 12]), r"input_size \[8, 12\] has no released form"),
        ("generator", dict(attention_dtype="float16"), "attention_dtype 'float16' has no released form"),
        ("generator", dict(dtype="float16"), "dtype 'float16' has no released form"),
        ("mae", dict(num_classes=0), "num_classes 0 has no released form"),
        ("mae", dict(num_classes=None), "num_classes None has no released form"),
        ("mae", dict(layers=[1, 1]), r"layers \[1, 1\] has no released form"),
        ("vae", {}, "kind 'vae' has no released form"),
    ],
)
def test_what_has_no_released_form_is_refused(tmp_path: Path, kind: str, change: dict[str, Any], words: str):
    kwargs, params = mae_params() if kind == "mae" else generator_params()
    with pytest.raises(ValueError, match=words) as error:
        save_released(tmp_path / "out", kind=kind, model_config=kwargs | change, params=params, step=1, ema_decay=None)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_an_mlp_has_no_released_form(tmp_path: Path):
    mlp = dict(noise_dim=4, out_dim=8, hidden_size=8, depth=2, num_classes=3, dtype="float32")
    options = dict(kind="generator", model_config=mlp, params={}, step=1, ema_decay=None)
    with pytest.raises(InputError, match=r"a generator 'mlp' has no released form"):
        save_released(tmp_path / "out", **options, network="mlp")  # type: ignore[arg-type]


# --- folders ----------------------------------------------------------------------------------------------------------


def write(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], **metadata: Any) -> Path:
    """A folder as the release writes it."""
    folder.mkdir(exist_ok=True)
    (folder / "ema_params.msgpack").write_bytes(serialization.msgpack_serialize(unflatten(tensors)))
    facts = dict(format="flax.msgpack", backend="jax", ema_decay=0.999, step=7, path="params_ema/ema_params.msgpack")
    (folder / "metadata.json").write_text(json.dumps(facts | {"model_config": config} | metadata))
    return folder


def small(kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Released tensors and `model_config` of a tiny model, our keyword arguments and parameters."""
    if kind == "generator":
        kwargs, params = generator_params()
        return generator_to_released(params), GENERATOR, kwargs, params
    kwargs, params = mae_params()
    return mae_to_released(params), ENCODER, kwargs, params


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden_generator_folders_reproduce_their_outputs(golden: Path, tmp_path: Path, case: str):
    z = load(golden / f"generator_{case}.npz")
    artifact = load_released(write(tmp_path, group(z, "params"), meta(z), kind="gen"), kind="generator")
    model = nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: DiT(**artifact.model_config, rngs=nnx.Rngs(0)))), artifact.params
    )
    noise = {"image": z["x"]} | ({"style": z["noise_labels"]} if artifact.model_config["style_tokens"] else {})
    out = nnx.jit(lambda model: model(noise, z["labels"], z["cfg_scale"]))(model)
    np.testing.assert_allclose(out, z["out"], rtol=0, atol=1e-5 * np.abs(z["out"]).max())


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_mae_folders_reproduce_their_outputs(golden: Path, tmp_path: Path, case: str):
    z = load(golden / f"mae_forward_{case}.npz")
    tensors = mae_params_a(golden) if case == "a" else mae_params_b(golden)
    artifact = load_released(write(tmp_path, tensors, meta(z)["config"], kind="mae"), kind="mae")
    model = nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: MAE(**artifact.model_config, rngs=nnx.Rngs(0)))), artifact.params
    )
    expected = group(z, "fwd1")
    outputs = nnx.jit(lambda model: model(z["x"], z["labels"], expected["mask"]))(model)
    for name in ("logits", "recon"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize(("kind", "stated"), [("generator", "gen"), ("generator", "generator"), ("mae", "mae")])
def test_released_folder_loads(tmp_path: Path, kind: str, stated: str, outer: bool):
    tensors, config, kwargs, params = small(kind)
    tensors = {f"params/{name}": value for name, value in tensors.items()} if outer else tensors
    artifact = load_released(write(tmp_path, tensors, config, kind=stated), kind=kind)
    assert (artifact.kind, artifact.model_config, artifact.metadata["step"]) == (kind, kwargs, 7)
    assert artifact.metadata["sha256"] == sha256_of(tmp_path / "ema_params.msgpack")
    assert_same(artifact.params, params)


def test_kind_is_seen_without_metadata_of_it(tmp_path: Path):
    tensors, config, _, _ = small("mae")
    assert load_released(write(tmp_path, tensors, config)).kind == "mae"
    with pytest.raises(ValueError, match="holds a 'mae', expected a 'generator'"):
        load_released(tmp_path, kind="generator")


def test_half_precision_tensors_become_float32(tmp_path: Path):
    tensors, config, kwargs, _ = small("generator")
    half = {name: jnp.asarray(value, jnp.bfloat16) for name, value in tensors.items()}
    params = load_released(write(tmp_path, half, config)).params
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    exact = {name: np.asarray(value.astype(jnp.float32)) for name, value in half.items()}
    assert_same(params, generator_from_released(exact, **kwargs))


@pytest.mark.parametrize("kind", ["generator", "mae"])
def test_save_released_writes_what_the_release_reads(tmp_path: Path, kind: str):
    tensors, config, kwargs, params = small(kind)
    options: dict[str, Any] = dict(kind=kind, model_config=kwargs, params=params, step=11, ema_decay=0.99)
    save_released(tmp_path / "out", **options, extra={"data": "digits"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ema_params.msgpack", "metadata.json"]
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata.pop("sha256") == sha256_of(tmp_path / "out" / "ema_params.msgpack")
    assert metadata == dict(
        format="flax.msgpack", kind="gen" if kind == "generator" else "mae", backend="jax", ema_decay=0.99, step=11,
        path="ema_params.msgpack", model_config=config, data="digits",
    )  # fmt: skip
    tree = serialization.msgpack_restore((tmp_path / "out" / "ema_params.msgpack").read_bytes())
    assert_same(tree, unflatten(tensors))
    again = load_released(tmp_path / "out", kind=kind)
    assert again.model_config == kwargs
    assert_same(again.params, params)
    save_released(tmp_path / "out", **options | dict(step=12))  # replaces it
    assert load_released(tmp_path / "out").metadata["step"] == 12
    with pytest.raises(ValueError, match="redefines sha256"):
        save_released(tmp_path / "out", **options, extra={"sha256": ""})


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite(name: str, tree: Any) -> Callable[[Path], Any]:
    return lambda d: (d / name).write_bytes(serialization.msgpack_serialize(tree))


def restate(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        metadata = json.loads((folder / "metadata.json").read_text()) | changes
        (folder / "metadata.json").write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "ema_params.msgpack").unlink(), "no file .*ema_params.msgpack"),
        (lambda d: (d / "metadata.json").unlink(), "no file .*metadata.json"),
        (lambda d: (d / "ema_params.msgpack").write_bytes(b""), "not a whole msgpack"),
        (lambda d: (d / "ema_params.msgpack").write_bytes(b"PK" + bytes(50)), "not a whole msgpack"),
        (rewrite("ema_params.msgpack", 3), "not a tree of named arrays"),
        (rewrite("ema_params.msgpack", {"params": [np.ones(2)]}), "not a tree of named arrays"),
        (rewrite("ema_params.msgpack", {"a": "text"}), "a is of type str, expected an array"),
        (rewrite("ema_params.msgpack", {"a": np.ones(2, np.int32)}), "a is of type int32, expected an array"),
        (rewrite("ema_params.msgpack", {}), "missing tensor .* more"),
        (restate(kind="mae"), "holds a 'mae', expected a 'generator'"),
        (restate(kind="vae"), "holds a 'vae', expected one of 'gen'"),
        (restate(format="other"), "format 'other', expected 'flax.msgpack'"),
        (restate(model_config=None), "no model_config"),
        (restate(model_config=GENERATOR | {"new": 1}), "unexpected model_config field new"),
        (restate(model_config=GENERATOR | {"cond_dim": 16}), r"Embed_0/embedding \(3, 8\) instead of \(3, 16\)"),
        (restate(model_config=GENERATOR | {"depth": 2}), "unexpected tensor LightningDiT_0/blocks_2"),
        (restate(model_config=GENERATOR | {"num_heads": 3}), "num_heads=3: must divide"),
        (restate(sha256="0" * 64), "SHA-256 .*, expected 0000"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], Any], words: str):
    tensors, config, _, _ = small("generator")
    damage(write(tmp_path, tensors, config, kind="gen"))
    with pytest.raises(ValueError, match=words) as error:
        load_released(tmp_path, kind="generator")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_no_damage_to_the_file_ends_in_anything_but_one_line(tmp_path: Path):
    tensors, config, _, _ = small("mae")
    path = write(tmp_path, tensors, config) / "ema_params.msgpack"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(30):
        blob = bytearray(whole)
        if trial % 3 == 0:
            blob = blob[: rng.integers(len(blob))]
        else:  # where the names and the shapes are, mostly: a flipped bit of a number cannot be seen
            blob[rng.integers(len(blob) if trial % 3 == 1 else 400)] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(blob))
        try:
            load_released(tmp_path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 10  # every truncated one
