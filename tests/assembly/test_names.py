"""What settings name is found in the registries, and what it says of itself has the section's name in front."""

import typing
from typing import Any

import pytest

from drifting.assembly.names import check_settings
from drifting.assembly.networks import generator_arguments
from drifting.config.parse import parse
from drifting.config.schema import Config
from drifting.config.sections import inner_type
from drifting.method.encoders import ENCODERS
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.objective import FEATURE_SCALES
from drifting.method.potentials import LOSSES
from drifting.networks.dit import PRESETS
from tests.config.test_checks import NO_BANK, SIZED, make, message_of

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data.name": "digts"}, "data.name='digts': use one of digits, array, imagefolder, mnist, "),
    ({"loss.objective": "drfit"}, "loss.objective='drfit': use one of log_kde,"),
    (
        {"optimizer.decay": "cosin"},
        "optimizer.decay='cosin': use one of constant, cosine, linear, wsd (did you mean 'cosine'?)",
    ),
    ({"optimizer.name": "moun"}, "optimizer.name='moun': use one of adamw, muon (did you mean 'muon'?)"),
    ({"optimizer.decayed": "kernels"}, "optimizer.decayed='kernels': use one of all, matrices"),
    ({"loss.kernel": "gausian"}, "loss.kernel='gausian': use one of gaussian,"),
    ({"loss.kernel_backend": "triton"}, "loss.kernel_backend='triton': use one of jax, pallas"),
    ({"loss.feature_scale": "map"}, "loss.feature_scale='map': use one of per_map,"),
    ({"features.encoders": ("vit",)}, "features.encoders='vit': use one of mae, convnext"),
    (
        {"features.mae": None},
        "features.options.mae.weights=None: give a folder (that `drifting pretrain` wrote",
    ),
    (
        {"features.encoders": ("convnext",), "features.convnext": None},
        "features.options.convnext.weights=None: give a folder",
    ),
    ({"features.mae_size": 0}, "features.options.mae.size=0: use 1 or more"),
    ({"features.convnext_size": 31}, "features.options.convnext.size=31: use 32 or more"),
    ({"features.mae_dtype": "float16"}, "features.options.mae.dtype='float16': use one of float32, bfloat16"),
    ({"features.every_k_block": -1}, "features.options.mae.every_k_block=-1: use 0 (no block) or more"),
    ({"features.mean_patches": (2, 0)}, "features.options.mae.mean_patches=(2, 0): sides of patches are at least 1"),
    ({"model.name": "unet"}, "model.name='unet': use one of dit, mlp"),
    ({"model.preset": "M"}, "model.preset='M': use one of S, B, L, XL"),
    ({"model.hidden_size": 64}, "model.hidden_size=64: model.preset='S' sets it: set model.hidden_size=None, "),
    ({"model.preset": None}, "model.hidden_size=None: give it, or a preset out of S, B, L, XL"),
    (SIZED | {"model.depth": 0}, "model.depth=0: use 1 or more"),
    (SIZED | {"model.hidden_size": 30}, "model.hidden_size=30: must be a multiple of 4"),
    (SIZED | {"model.num_heads": 3}, "model.num_heads=3: must divide model.hidden_size=32"),
    (SIZED | {"model.num_heads": 32}, "model.num_heads=32: rope needs heads of even width, these have 1"),
    ({"model.patch_size": 0}, "model.patch_size=0: use 1 or more"),
    ({"model.register_tokens": -1}, "model.register_tokens=-1: use 0 or more"),
    ({"model.style_codebook": 0}, "model.style_codebook=0: use 1 or more"),
    ({"model.mlp_ratio": 0.0}, "model.mlp_ratio=0.0: use a positive number"),
    ({"model.cond_dim": 0}, "model.cond_dim=0: use 1 or more"),
    ({"model.dtype": "fp8"}, "model.dtype='fp8': use one of float32, bfloat16"),
    ({"model.attention_dtype": "fp8"}, "model.attention_dtype='fp8': use one of"),
    ({"model.name": "mlp"}, "model.preset='S': presets are sizes of model.name='dit'"),
    ({"model.name": "mlp", "model.preset": None}, "model.hidden_size=None: give 1 or more"),
    (SIZED | {"model.name": "mlp", "model.depth": 1}, "model.depth=1: give 2 or more"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_what_there_is_not(changes: dict[str, Any], message: str):
    assert message_of(lambda: check_settings(make(Config, changes))).startswith(message)


RIGHT: list[dict[str, Any]] = [
    {},
    NO_BANK | {"loss.feature_scale": "neighbour", "features.encoders": ()},
    SIZED | {"model.name": "mlp", "model.num_heads": None},
    {"features.encoders": (), "features.mae": None},
    {"model.attention_dtype": None, "model.dtype": "bfloat16"},
    *({"loss.objective": objective} for objective in [*LOSSES, *FIELDS]),
    *({"loss.kernel": kernel} for kernel in KERNELS),
    *({"loss.feature_scale": scale} for scale in FEATURE_SCALES if scale != "neighbour"),
    *({"model.preset": preset} for preset in PRESETS),
]


@pytest.mark.parametrize("changes", RIGHT, ids=str)
def test_what_there_is(changes: dict[str, Any]):
    check_settings(make(Config, changes))


def test_what_does_not_fit_the_samples():
    model = make(Config, {"model.patch_size": 3}).model
    message = message_of(lambda: generator_arguments(model, (8, 8, 1), 10))
    assert message == "model.patch_size=3: must divide the 8x8 samples: use one of 1, 2, 4, 8"
    coarse = make(Config, {"model.patch_size": 8}).model
    message = message_of(lambda: generator_arguments(coarse, (8, 12, 1), 10))
    assert message == "model.patch_size=8: must divide the 8x12 samples: use one of 1, 2, 4"


def test_the_sizes_it_proposes_do_fit():
    message = message_of(lambda: generator_arguments(make(Config, {"model.patch_size": 5}).model, (28, 28, 1), 10))
    proposed = [int(side) for side in message.rpartition("use one of ")[2].split(", ")]
    assert proposed == [1, 2, 4, 7, 14]
    for side in proposed:
        generator_arguments(make(Config, {"model.patch_size": side}).model, (28, 28, 1), 10)


def test_one_setting_by_two_names():
    """The keys of earlier versions are those of today; the same value by both is no contradiction."""
    options = {"mae": {"weights": "runs/encoder", "size": 32}}
    old = parse({"features": {"mae": "runs/encoder", "mae_size": 32}})
    assert old == parse({"features": {"options": options}})
    assert old == parse({"features": {"mae": "runs/encoder", "options": options}})
    text = "features.mae_size=16: features.options.mae.size=32 is the same setting, give one of them"
    assert message_of(lambda: parse({"features": {"mae_size": 16, "options": options}})) == text
    # Defaults of then are those of now, and say nothing: a run's settings of an earlier version equal today's.
    assert parse({"features": {"mae": None, "mean_patches": [2, 4], "convnext_size": 224}}) == Config()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_option_out_of_range_is_refused_of_encoders_that_are_not_used_too(name: str):
    kind, told = ENCODERS[name].options, 0
    for key, hint in typing.get_type_hints(kind).items():
        inner = inner_type(hint)
        many = typing.get_origin(inner) is tuple
        if (typing.get_args(inner)[0] if many else inner) is int:
            told += 1
            options = {name: {key: (-3,) if many else -3}}
            changes = SIZED | {"features.encoders": (), "features.options": options}
            message = message_of(lambda changes=changes: check_settings(make(Config, changes)))
            assert message.startswith(f"features.options.{name}.{key}=") and "-3" in message, message
    assert told > 0
