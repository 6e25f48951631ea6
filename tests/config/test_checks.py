"""Combinations that cannot work are found before anything is built, and the message names key, value and remedy."""

import math
import typing
from typing import Any

import pytest

from drifting.config.checks import check, check_sizes
from drifting.config.parse import parse
from drifting.config.schema import CacheBuild, Config, PretrainConfig, to_dict
from drifting.config.sections import inner_type
from drifting.errors import ConfigError
from drifting.studies import STUDIES
from drifting.studies.settings import check_study_numbers

# The smallest settings that pass: everything else has a default that does.
TRAIN: dict[str, Any] = {"model": {"preset": "S"}, "features": {"mae": "runs/encoder"}}

NO_BANK: dict[str, Any] = {"bank.per_class": 0, "loss.unconditional": 0, "guidance.alpha_max": 1.0, "loss.labels": 5}

SIZED: dict[str, Any] = {"model.preset": None, "model.hidden_size": 32, "model.depth": 2, "model.num_heads": 4}


def make(kind: Any, changes: dict[str, Any]) -> Any:
    settings: dict[str, Any] = {k: dict(v) for k, v in TRAIN.items()} if kind is Config else {}
    for path, value in changes.items():
        section, _, key = path.partition(".")
        settings.setdefault(section, {})[key] = value
    return parse(settings, kind)


def message_of(call: Any) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and message.endswith(message.rstrip())
    return message


WRONG_TRAIN: list[tuple[dict[str, Any], str]] = [
    ({"train.steps": 0}, "train.steps=0: use 1 or more"),
    ({"train.seed": -1}, "train.seed=-1: a seed lies in [0, 2^32)"),
    ({"train.seed": 2**32}, "train.seed=4294967296: a seed lies in"),
    ({"train.log_every": 0}, "train.log_every=0: use 1 or more"),
    ({"train.sample_every": -1}, "train.sample_every=-1: use 0 (not at intervals) or more"),
    ({"train.checkpoint_every": -5}, "train.checkpoint_every=-5: use 0"),
    ({"train.keep_checkpoints": 0}, "train.keep_checkpoints=0: use 1 or more"),
    ({"train.ema_decays": ()}, "train.ema_decays=(): give at least one decay"),
    ({"train.ema_decays": (0.9, 0.9)}, "train.ema_decays=(0.9, 0.9): give each decay once"),
    ({"train.ema_decays": (0.9, 1.0)}, "train.ema_decays=(0.9, 1.0): decays lie in [0, 1)"),
    ({"optimizer.decay": "wsd"}, "optimizer.decay_steps=0: use 1 to 25000, the steps after the warm-up"),
    ({"optimizer.decay": "wsd", "optimizer.decay_steps": 25_001}, "optimizer.decay_steps=25001: use 1 to 25000"),
    ({"optimizer.decay_steps": -1}, "optimizer.decay_steps=-1: use 0 or more"),
    ({"optimizer.learning_rate": 0.0}, "optimizer.learning_rate=0.0: use a positive number"),
    ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate=inf: use a positive number"),
    ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate=nan: use a positive number"),
    ({"optimizer.clip_norm": -1.0}, "optimizer.clip_norm=-1.0: use a positive number"),
    ({"optimizer.b2": 1.0}, "optimizer.b2=1.0: a decay lies in [0, 1)"),
    ({"optimizer.weight_decay": -0.1}, "optimizer.weight_decay=-0.1: use 0 or more"),
    ({"optimizer.warmup_steps": -1}, "optimizer.warmup_steps=-1: use 0 or more"),
    (
        {"optimizer.decay": "cosine", "train.steps": 5000},
        "train.steps=5000: must exceed optimizer.no_op_steps + warmup_steps = 5000 for optimizer.decay=cosine",
    ),
    ({"data.prefetch": -1}, "data.prefetch=-1: use 0 or more"),
    ({"loss.widths": ()}, "loss.widths=(): give at least one kernel width, for example (0.3,)"),
    ({"loss.widths": (0.3, 0.0)}, "loss.widths=(0.3, 0.0): kernel widths are positive"),
    ({"loss.widths": (float("nan"),)}, "loss.widths=(nan,): kernel widths are positive"),
    ({"loss.labels": 0}, "loss.labels=0: use 1 or more"),
    ({"loss.generated": 1}, "loss.generated=1: use 2 or more"),
    ({"loss.positives": 1}, "loss.positives=1: use 2 or more"),
    ({"loss.unconditional": -1}, "loss.unconditional=-1: use 0 (no guidance) or more"),
    ({"loss.positives": 129}, "loss.positives=129: exceeds bank.per_class=128: draw fewer or keep more"),
    ({"loss.unconditional": 1001}, "loss.unconditional=1001: exceeds bank.unconditional=1000"),
    ({"bank.per_class": -1}, "bank.per_class=-1: use 0 (no bank) or more"),
    ({"data.workers": -1}, "data.workers=-1: use 0 or more"),
    ({"data.resident": "gpu"}, "data.resident='gpu': use one of device, host"),
    (
        {"data.resident": "host", "data.random_crop": True},
        "data.random_crop=True: is a fresh part of the image each time",
    ),
    ({"bank.push": 0}, "bank.push=0: use 1 or more"),
    ({"guidance.alpha_min": 0.0}, "guidance.alpha_min=0.0: use a positive scale"),
    ({"guidance.alpha_min": 0.5}, "guidance.alpha_min=0.5: below 1 unconditional negatives would weigh less"),
    ({"guidance.alpha_max": 0.5}, "guidance.alpha_max=0.5: must be at least guidance.alpha_min=1.0"),
    ({"guidance.alpha_max": float("inf")}, "guidance.alpha_max=inf: use a positive scale"),
    ({"guidance.p_one": 1.5}, "guidance.p_one=1.5: a probability lies in [0, 1]"),
    ({"loss.unconditional": 0}, "guidance.alpha_max=4.0: guidance needs unconditional samples"),
    ({"features.encoders": ("mae", "mae")}, "features.encoders=('mae', 'mae'): name each encoder once"),
    ({"eval.alpha": -1.0}, "eval.alpha=-1.0: use a positive guidance scale"),
    ({"eval.num_samples": 1}, "eval.num_samples=1: use 2 or more"),
    ({"eval.batch_size": 0}, "eval.batch_size=0: use 1 or more"),
    ({"eval.seed": -1}, "eval.seed=-1: a seed lies in"),
    ({"train.ema_stds": (0.26,)}, "train.ema_stds=(0.26,): widths lie in [0.01, 0.25]"),
    (
        {"optimizer.decay_steps": 2},
        "optimizer.decay_steps=2: is of optimizer.decay='wsd' alone: set that, or leave it 0",
    ),
    ({"eval.ema_decay": 0.5}, "eval.ema_decay=0.5: is not kept: use one of train.ema_decays=(0.999,)"),
    (NO_BANK | {"loss.feature_scale": "neighbour"}, "features.encoders=('mae',): loss.feature_scale='neighbour'"),
    (
        NO_BANK | {"loss.feature_scale": "neighbour", "features.encoders": (), "loss.neighbours": 64},
        "loss.neighbours=64: must be positive and below loss.positives=64",
    ),
    (
        {"loss.feature_scale": "neighbour", "features.encoders": ()},
        "loss.feature_scale='neighbour': needs positives that are drawn for each step: set bank.per_class=0",
    ),
]

WRONG_PRETRAIN: list[tuple[dict[str, Any], str]] = [
    ({"train.batch_size": 0}, "train.batch_size=0: use 1 or more"),
    ({"mae.base_channels": 0}, "mae.base_channels=0: use 1 or more"),
    ({"mae.layers": ()}, "mae.layers=(): blocks of each stage, 1 or more"),
    ({"mae.layers": (1, 0)}, "mae.layers=(1, 0): blocks of each stage"),
    ({"mae.patch_size": 0}, "mae.patch_size=0: use 1 or more"),
    ({"mae.mask_ratio_min": -0.1}, "mae.mask_ratio_min=-0.1: a share lies in [0, 1]"),
    ({"mae.mask_ratio_max": 0.4}, "mae.mask_ratio_max=0.4: must lie in [mae.mask_ratio_min=0.5, 1]"),
    ({"mae.lambda_cls": 1.5}, "mae.lambda_cls=1.5: a weight lies in [0, 1]"),
    ({"mae.lambda_cls": 0.1, "mae.cls_steps": 40_000}, "mae.cls_steps=40000: must lie in [0, train.steps=30000]"),
    (
        {"mae.lambda_cls": 0.1, "mae.cls_ramp_steps": 4000},
        "mae.cls_ramp_steps=4000: must lie in [0, mae.cls_steps=3000]",
    ),
    ({"mae.dtype": "half"}, "mae.dtype='half': use one of float32, bfloat16"),
    ({"optimizer.warmup_steps": 30_000}, "train.steps=30000: must exceed"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_TRAIN, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_what_cannot_train(changes: dict[str, Any], message: str):
    assert message_of(lambda: check(make(Config, changes))).startswith(message)


WRONG_CACHE: list[tuple[dict[str, Any], str]] = [
    ({"data.vae": None}, "data.vae=None: give the VAE whose latents are to be kept"),
    ({"data.flip": True}, "data.flip=True: a cache keeps both: set cache.flip"),
    ({"data.random_crop": True}, "data.random_crop=True: a cache holds the central part of each image"),
    ({"cache.shard_size": 0}, "cache.shard_size=0: use 1 or more"),
    ({"cache.batch_size": 0}, "cache.batch_size=0: use 1 or more"),
    ({"cache.workers": -1}, "cache.workers=-1: use 0 or more"),
    ({"cache.max_bad": 1.5}, "cache.max_bad=1.5: a share lies in [0, 1]"),
    ({"cache.max_bad": float("nan")}, "cache.max_bad=nan: a share lies in [0, 1]"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CACHE, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_wrong_cache_settings(changes: dict[str, Any], message: str):
    right = {"data.vae": "random://smoke"}
    check(make(CacheBuild, right))
    assert message_of(lambda: check(make(CacheBuild, right | changes))).startswith(message)


@pytest.mark.parametrize(("changes", "message"), WRONG_PRETRAIN, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_what_cannot_pretrain(changes: dict[str, Any], message: str):
    assert message_of(lambda: check(make(PretrainConfig, changes))).startswith(message)


RIGHT: list[dict[str, Any]] = [
    {},
    NO_BANK,
    NO_BANK | {"loss.feature_scale": "neighbour", "features.encoders": ()},
    SIZED | {"model.name": "mlp", "model.num_heads": None},
    {"features.encoders": (), "features.mae": None},
    {"train.ema_decays": (0.0, 0.5), "eval.ema_decay": 0.0},
    {"optimizer.decay": "cosine", "optimizer.warmup_steps": 10, "train.steps": 11},
    {"model.attention_dtype": None, "model.dtype": "bfloat16"},
    {"guidance.p_one": 1.0, "optimizer.weight_decay": 0.0, "train.checkpoint_every": 0, "train.sample_every": 0},
]


@pytest.mark.parametrize("changes", RIGHT, ids=str)
def test_what_can_train(changes: dict[str, Any]):
    check(make(Config, changes))


@pytest.mark.parametrize(
    "changes", [{}, {"mae.lambda_cls": 0.1}, {"mae.mask_ratio_min": 0.25, "mae.mask_ratio_max": 0.75}]
)
def test_what_can_pretrain(changes: dict[str, Any]):
    check(make(PretrainConfig, changes))


@pytest.mark.parametrize(
    ("kind", "changes", "shape", "message"),
    [
        (
            Config,
            NO_BANK | {"loss.labels": 11, "loss.feature_scale": "neighbour", "features.encoders": ()},
            (8, 8, 1),
            "loss.labels=11: exceeds the 10 classes of data.name='digits'",
        ),
        (PretrainConfig, {"mae.patch_size": 3}, (8, 8, 1), "mae.patch_size=3: times mae.input_patch_size it is 3"),
        (PretrainConfig, {"mae.input_patch_size": 3}, (8, 8, 1), "mae.input_patch_size=3: must divide the 8x8"),
        (
            PretrainConfig,
            {"mae.input_patch_size": 8},
            (8, 8, 1),
            "mae.patch_size=2: times mae.input_patch_size it is 16",
        ),
    ],
)
def test_what_does_not_fit_the_data(kind: Any, changes: dict[str, Any], shape: tuple[int, int, int], message: str):
    assert message_of(lambda: check_sizes(make(kind, changes), shape, 10)).startswith(message)


def test_sizes_that_fit():
    check_sizes(make(Config, NO_BANK | {"loss.labels": 10}), (8, 8, 1), 10)
    check_sizes(make(Config, SIZED | {"model.name": "mlp"}), (1, 2, 1), 10)
    check_sizes(make(PretrainConfig, {"mae.input_patch_size": 2}), (8, 12, 3), 10)


# --- no number out of range is taken, of any setting ------------------------------------------------------------------


def numbers() -> list[tuple[Any, str, Any]]:
    """Every setting that is a number or a tuple of numbers: its kind of settings, dotted key and type."""
    found = []
    for kind in (Config, PretrainConfig, CacheBuild):
        for section, section_kind in typing.get_type_hints(kind).items():
            for key, hint in typing.get_type_hints(section_kind).items():
                inner = inner_type(hint)
                number = typing.get_args(inner)[0] if typing.get_origin(inner) is tuple else inner
                found += [(kind, f"{section}.{key}", hint)] * (number in (int, float))
    return found


NUMBERS = numbers()

NEGATIVE = {"guidance.exponent"}
"""Settings whose numbers may be negative."""


@pytest.mark.parametrize(("kind", "key", "hint"), NUMBERS, ids=[f"{kind.__name__}-{key}" for kind, key, _ in NUMBERS])
def test_a_number_out_of_range_is_refused_whatever_uses_it(kind: Any, key: str, hint: Any):
    """Negative ones, NaN and what 32 bits do not hold: the message names the setting, also where nothing needs it."""
    inner = inner_type(hint)
    many = typing.get_origin(inner) is tuple
    real = (typing.get_args(inner)[0] if many else inner) is float
    wrong: list[Any] = [] if key in NEGATIVE else [-3.5 if real else -3]
    wrong += [math.nan] if real else [2**62]
    right = {"data.vae": "random://smoke"} if kind is CacheBuild else {}
    for value in wrong:
        message = message_of(lambda value=value: check(make(kind, right | {key: (value,) if many else value})))
        assert message.startswith(f"{key}="), message
        assert str(value) in message.partition(":")[0], message


def test_there_are_numbers_in_every_section():
    assert len(NUMBERS) > 90 and {"mae", "cache", "mesh", "model", "bank"} <= {
        key.split(".")[0] for _, key, _ in NUMBERS
    }


@pytest.mark.parametrize("name", STUDIES)
def test_a_number_out_of_range_of_a_study_is_refused(name: str):
    section = to_dict(STUDIES[name].settings())["study"]
    check_study_numbers(section)
    told = 0
    for key, value in section.items():
        one = value[0] if isinstance(value, tuple) and value else value
        for wrong in (-1, math.nan, 2**62) if type(one) in (int, float) else ():
            if type(one) is float and wrong == 2**62:
                continue
            number = type(one)(wrong) if wrong == wrong else math.nan
            changed = section | {key: (number,) if isinstance(value, tuple) else number}
            assert message_of(lambda changed=changed: check_study_numbers(changed)).startswith(f"study.{key}=")
            told += 1
    assert told > 6
