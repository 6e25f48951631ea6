"""Every file in `configs/` and every variant of it: it parses, fits at full size, and trains two steps when tiny."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly import networks, recipe
from drifting.assembly.names import check_settings
from drifting.assembly.pretraining import mae_recipe_of
from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.cli.commands import main
from drifting.cli.settings import load_settings
from drifting.config.checks import check_sizes
from drifting.config.parse import parse
from drifting.config.schema import Config, PretrainConfig, command_of, to_dict
from drifting.data.sources import make_source
from drifting.errors import ConfigError
from drifting.method.fields import FIELDS
from drifting.method.mae_step import MAEStepParts, mae_step
from drifting.method.potentials import LOSSES
from drifting.method.state import make_state
from drifting.method.step import train_step
from drifting.weights.catalogue import RELEASED_REPO
from tests.support.runs import FULL

ROOT = Path(__file__).resolve().parent.parent

CONFIGS = ROOT / "configs"

DIGITS = ("digits", "mae_digits")

IMAGES: dict[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((8, 8, 1), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "imagefolder": ((256, 256, 3), 1000),
}
"""Shape of the images and number of classes of each source that a file names."""

VARIANTS = {
    "imagenet_ablation": ["drift", "logkde_gauss", "logkde_laplace", "mean_shift"],
    "cifar10": ["mae_laplace", "mae_gauss", "convnext_laplace", "convnext_gauss"],
    "mnist": ["logkde_gauss", "logkde_laplace", "mean_shift_laplace", "drift_gauss", "drift_laplace"],
}

VARIANTS["fashion_mnist"] = VARIANTS["mnist"]

FORMER = {
    "imagenet_latent_b": "imagenet_latent:b",
    "imagenet_latent_b_512": "imagenet_latent:b_512",
    "imagenet_latent_l": "imagenet_latent:l",
    "imagenet_pixel_b": "imagenet_pixel:b",
    "imagenet_pixel_l": "imagenet_pixel:l",
    "mae_latent_256": "mae_imagenet:latent_256",
    "mae_latent_256_512px": "mae_imagenet:latent_256_512px",
    "mae_latent_640": "mae_imagenet:latent_640",
    "mae_pixel_640": "mae_imagenet:pixel_640",
    "fashion_mnist": "mnist:fashion_logkde_gauss",
}
"""Files that are one variant of another, and hold nothing of their own."""

GROUPS = sorted({of.partition(":")[0] for of in FORMER.values()} - {"mnist"})


def names(command: str) -> list[str]:
    """Every experiment, those that are variants of one file by the names of their former files."""
    found = {path.stem: command_of(load_settings(str(path))) for path in sorted(CONFIGS.glob("*.py"))}
    return [name for name, owner in found.items() if owner == command and name not in GROUPS]


def settings(name: str, variant: str = "") -> Any:
    loaded = load_settings(f"{CONFIGS / name}.py" + (f":{variant}" if variant else ""))
    config = parse(loaded, PretrainConfig if command_of(loaded) == "pretrain" else Config)
    check_settings(config)
    return config


def test_the_files_that_there_are():
    latent, pixel = (
        [f"imagenet_latent_{size}" for size in ("b", "l", "b_512")],
        [f"imagenet_pixel_{size}" for size in "bl"],
    )
    small = ["cifar10", "digits", "fashion_mnist", "finetune", "mnist"]
    assert names("train") == sorted([*small, "imagenet_ablation", *latent, *pixel])
    latent = ["mae_latent_256", "mae_latent_256_512px", "mae_latent_640"]
    assert names("pretrain") == ["mae_digits", *latent, "mae_mnist", "mae_pixel_640"]


@pytest.mark.parametrize("name", FORMER)
def test_a_former_file_is_a_variant(name: str):
    of, _, variant = FORMER[name].partition(":")
    for small in ("", ",tiny"):
        assert to_dict(settings(name, small.lstrip(","))) == to_dict(settings(of, variant + small))
    assert len((CONFIGS / f"{name}.py").read_text().splitlines()) == 3
    assert f" {variant} " in (CONFIGS / f"{of}.py").read_text().replace("`", " ") or variant.startswith("fashion_")


def test_files_may_import_their_neighbours_wherever_they_lie(tmp_path: Path):
    for folder, steps in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "base.py").write_text(
            "from drifting.config import train_config\n\n\ndef get_config():\n    config = train_config()\n"
            f"    config.train.steps = {steps}\n    return config\n"
        )
        (tmp_path / folder / "mine.py").write_text("from base import get_config\n")
    found = [load_settings(str(tmp_path / folder / "mine.py")).train.steps for folder in ("one", "two", "one")]
    assert found == [3, 4, 3] and "base" not in sys.modules


@pytest.mark.parametrize(
    "name", [name for name in [*names("train"), *names("pretrain"), *GROUPS] if name not in FORMER]
)
def test_a_file_says_how_it_is_run(name: str):
    text = (CONFIGS / f"{name}.py").read_text()
    command = command_of(load_settings(f"{CONFIGS / name}.py"))
    assert f"drifting {command} --config=configs/{name}.py" in text
    assert 15 <= len(text.splitlines()) <= 80
    for variant in VARIANTS.get(name, []):
        assert f"`{variant}`" in text or f" {variant} " in text


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in VARIANTS for variant in VARIANTS[name]])
def test_variants_change_the_loss_alone(name: str, variant: str):
    config, first = settings(name, variant), settings(name)
    assert config.loss.objective in {*LOSSES, *FIELDS}
    assert (config.loss == first.loss) == (variant == VARIANTS[name][0] or (name == "cifar10" and "laplace" in variant))
    assert (config.model, config.data, config.bank) == (first.model, first.data, first.bank)
    assert settings(name, f"{variant},tiny").loss.objective == config.loss.objective


def images_of(config: Any) -> tuple[tuple[int, int, int], int]:
    """Shape of the images that an experiment asks for, and the number of classes of its source."""
    (height, width, channels), classes = IMAGES[config.data.name]
    return (config.data.image_size or height, config.data.image_size or width, channels), classes


def differences(one: Any, other: Any) -> set[str]:
    """The keys in which two experiments differ."""
    first, second = to_dict(one), to_dict(other)
    return {f"{s}.{key}" for s, keys in second.items() for key, value in keys.items() if first[s][key] != value}


def test_sizes_keep_the_recipe():
    """What makes the papers' runs what they are is that of the full size; the header says what was given up."""
    assert differences(settings("mnist"), settings("mnist", "cpu")) <= {
        *(f"model.{key}" for key in ("preset", "hidden_size", "depth", "num_heads", "patch_size", "register_tokens")),
        *("loss.generated", "data.resident", "optimizer.learning_rate", "eval.num_samples"),
        *(f"optimizer.{key}_steps" for key in ("no_op", "warmup")),
        *(f"train.{key}" for key in ("steps", "log_every", "sample_every", "checkpoint_every", "tensorboard")),
    }
    assert differences(settings("mnist", "cpu"), settings("mnist", "best_cpu")) == {
        *("model.patch_size", "model.register_tokens", "guidance.alpha_min", "guidance.alpha_max", "eval.alpha"),
        *(f"loss.{key}" for key in ("widths", "positives", "unconditional")),
        *("optimizer.name", "optimizer.learning_rate"),
        *(f"train.{key}" for key in ("steps", "ema_decays", "sample_every", "checkpoint_every")),
    }
    assert differences(settings("mnist"), settings("mnist", "one_gpu")) == {"model.dtype", "data.resident"}
    ablation = settings("imagenet_ablation"), settings("imagenet_ablation", "one_gpu")
    assert differences(*ablation) == {"train.micro_batch"}
    for name, size in (("mnist", "cpu"), ("mnist", "best_cpu"), ("mnist", "one_gpu"), ("imagenet_ablation", "one_gpu")):
        assert f" {size} " in (CONFIGS / f"{name}.py").read_text()
        settings(name, f"{size},tiny")
    assert "mae.lambda_cls" in differences(settings("mae_mnist"), settings("mae_mnist", "features"))
    settings("mae_mnist", "features,tiny")


def test_the_network_that_starts_from_released_weights_is_theirs():
    tuned, released = settings("finetune"), settings("imagenet_latent", "b")
    assert tuned.train.start == f"hf://{RELEASED_REPO}/latent_B_sota"
    assert (tuned.model, tuned.features, tuned.data.vae) == (released.model, released.features, released.data.vae)
    assert settings("finetune", "tiny").train.start is None


def test_512_pixels_are_the_recipe_of_256():
    large, coarse = settings("imagenet_latent", "b_512"), settings("imagenet_latent", "b_512_patch_4")
    assert differences(settings("imagenet_latent", "b"), large) == {"data.image_size", "features.options"}
    assert differences(large, coarse) == {"model.patch_size"}
    encoder = settings("mae_latent_256_512px")
    assert differences(settings("mae_latent_256"), encoder) == {"data.image_size"}


def test_variants_that_there_are_not():
    for name, variant in (("mnist", "logkde"), ("mnist", "tiny,drift_gauss,logkde_gauss"), ("mae_latent_256", "drift")):
        with pytest.raises(ConfigError, match=rf"^--config=.*{name}\.py:.*: variant '{variant}': use .*tiny") as error:
            settings(name, variant)
        assert "\n" not in str(error.value)


# --- at full size, by shapes alone ------------------------------------------------------------------------------------


STEPS_SHOWN = ("imagenet_latent_b", "imagenet_pixel_b", "finetune", "cifar10")
"""Their steps at full size repeat that of the ablation with other sizes, and are traced with `DRIFTING_FULL_TESTS`."""


@pytest.mark.parametrize("name", names("train"))
def test_a_generator_at_full_size(name: str, golden: Path):
    config = settings(name)
    image_shape, classes = images_of(config)
    classes = 1 if config.data.unconditional else classes
    space = dataclasses.replace(sample_space(config.data.vae, image_shape, abstract=True), image_dtype="uint8")
    check_sizes(config, space.shape, classes)
    # For the digits' encoder, which is not published, stand the samples alone.
    features = parse({"features": {"encoders": ()}}).features if name == "digits" else config.features  # type: ignore[union-attr]
    encoder = feature_encoder(features, space, abstract=True)
    parts, empty_state = set_up(config, space, encoder, classes)
    state = jax.eval_shape(empty_state)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    published = json.loads((golden / "counts.json").read_text())["generator"]
    if name == "imagenet_latent_b_512":  # four times the positions, and nothing else
        assert space.shape == (64, 64, 4) and state.params["pos_embed"].shape == (1024, 768)
        count -= 3 * 256 * 768
        name = "imagenet_latent_b"
    if name.startswith("imagenet"):
        kind, size = name.split("_")[1:] if name != "imagenet_ablation" else ("latent", "ablation")
        (found,) = (file for file in published if file.lower().startswith(kind) and f"_{size}." in file.lower())
        assert count == published[found]["total"]
    if name.endswith("_l") or (name in STEPS_SHOWN and not FULL):
        return  # the step is that of the smaller model, or what the tiny form of the same file trains
    new = config.bank.push if config.bank.per_class else config.loss.labels * config.loss.positives
    batch = {
        "image": jax.ShapeDtypeStruct((new, *image_shape), space.image_dtype),
        "label": jax.ShapeDtypeStruct((new,), jnp.int32),
        "id": jax.ShapeDtypeStruct((new,), jnp.uint32),
    }
    widths = jax.ShapeDtypeStruct((len(config.loss.widths),), jnp.float32)
    step = partial(train_step, parts)
    after, metrics = jax.eval_shape(step, state, batch, encoder.params, widths, jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    maps = {"imagenet_ablation": 86, "imagenet_latent_b": 86, "finetune": 86, "imagenet_pixel_b": 99, "cifar10": 86}
    assert metrics["loss"].shape == () and len(metrics["maps"]) == maps.get(name, 1)


@pytest.mark.parametrize("name", names("pretrain"))
def test_an_encoder_at_full_size(name: str, golden: Path):
    config = settings(name)
    image_shape, classes = images_of(config)
    space = sample_space(config.data.vae, image_shape, abstract=True)
    check_sizes(config, space.shape, classes)
    arguments = networks.mae_arguments(config.mae, space.shape[2], classes)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: networks.autoencoder(arguments, jax.random.key(0))))
    published = json.loads((golden / "counts.json").read_text())["mae"]
    if name.endswith("640"):  # the smaller encoder was released with a classifier that had never been trained
        expected = published[f"{name.removeprefix('mae_')}.yaml"]["total"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    if name == "mae_latent_256":
        encoder = sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(params)["encoder"]))
        assert encoder == published["latent_ablation_256.yaml"]["encoder"]
    optimizer = recipe.optimizer_of(config.optimizer, config.train.steps)
    state = jax.eval_shape(partial(make_state, optimizer=optimizer, ema_decays=(0.9,)), nnx.to_pure_dict(params))
    batch = {
        "image": jax.ShapeDtypeStruct((4, *image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    step = partial(mae_step, MAEStepParts(mae_recipe_of(config), graphdef, space, optimizer))
    after, metrics = jax.eval_shape(step, state, batch, space.params, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert ("cls_loss" in metrics) == (config.mae.lambda_cls > 0)


# --- tiny, in earnest -------------------------------------------------------------------------------------------------

TWINS = {
    "finetune": "imagenet_ablation",
    "imagenet_latent_b": "imagenet_ablation",
    "imagenet_latent_b_512": "imagenet_ablation",
    "imagenet_latent_l": "imagenet_ablation",
    "imagenet_pixel_l": "imagenet_pixel_b",
    "fashion_mnist": "mnist",
}
"""Tiny, they are the other but for numbers and would compile the same again, see the test below."""

SHOWN_ELSEWHERE = {"imagenet_ablation", "mae_latent_256", "mae_latent_256_512px", "mae_latent_640", "cifar10"}
"""In test_latents.py a twin of theirs goes all the way from a folder of images to samples; the encoders of cifar10 are
those of imagenet_pixel_b."""


def tiny_ones(command: str) -> list[Any]:
    """Each of these, tiny, compiles a program of its own."""
    repeated = pytest.mark.skipif(not FULL, reason="repeats others; set DRIFTING_FULL_TESTS=1")
    return [
        pytest.param(name, marks=repeated if name in SHOWN_ELSEWHERE else ())
        for name in names(command)
        if name not in DIGITS and name not in TWINS
    ]


@pytest.mark.parametrize("name", tiny_ones("train"))
def test_a_tiny_generator_trains_two_steps_and_draws(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    given = f"--config={CONFIGS / name}.py:tiny"
    assert main(["train", given, f"--workdir={tmp_path}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(np.isfinite(list(line.values())).all() for line in lines)
    assert main(["sample", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "samples.png").is_file() and (tmp_path / "samples" / "step_0000002.png").is_file()
    capsys.readouterr()


@pytest.mark.parametrize("name", TWINS)
def test_the_tiny_twin_differs_in_numbers_alone(name: str):
    one, other = (to_dict(settings(of, "tiny")) for of in (TWINS[name], name))
    found = {f"{s}.{key}" for s, keys in other.items() for key, value in keys.items() if one[s][key] != value}
    numbers = {"eval.alpha", "guidance.exponent", "guidance.p_one", "loss.widths", "optimizer.learning_rate"}
    numbers |= {"optimizer.weight_decay", "model.attention_dtype", "model.remat"}
    assert found <= numbers | {"data.name", "data.path"}
    assert len(one["loss"]["widths"]) == len(other["loss"]["widths"])


@pytest.mark.parametrize("name", tiny_ones("pretrain"))
def test_a_tiny_encoder_trains_two_steps_and_is_used(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["pretrain", f"--config={CONFIGS / name}.py:tiny", f"--workdir={tmp_path}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(np.isfinite(list(line.values())).all() for line in lines)
    config = settings(name, "tiny")
    channels = config.data.channels
    source = make_source("synthetic", image_size=config.data.image_size, channels=channels, classes=4)
    features = parse({"features": {"mae": str(tmp_path / "encoder")}}).features  # type: ignore[union-attr]
    space = sample_space(config.data.vae, source.shape)
    encoder = feature_encoder(features, space)
    maps = jax.eval_shape(encoder.features, encoder.params, jax.ShapeDtypeStruct((2, *space.shape), jnp.float32))
    assert "layer2_mean" in maps and set(encoder.checksums) == {"mae"}
    capsys.readouterr()
