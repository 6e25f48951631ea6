"""Pre-training: the classifier's ramp, a mask each step, the artifact, and the resume that all training has."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drifting.assembly.pretraining import mae_recipe_of, prepare_pretraining
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.config.schema import FeaturesConfig, MAEConfig, OptimizerConfig, PretrainConfig, RunConfig
from drifting.data.sources.digits import digits
from drifting.errors import ConfigError
from drifting.training import encoder as module
from drifting.training.encoder import describe_pretraining, pretrain
from drifting.weights.artifact import flatten, load_artifact
from tests.support.runs import assert_same_run, metrics, saved

CONFIG = PretrainConfig(
    mae=MAEConfig(base_channels=4, layers=(1, 1), lambda_cls=0.5, cls_steps=6, cls_ramp_steps=4),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, decay="cosine"),
    train=RunConfig(
        steps=12,
        batch_size=32,
        ema_decays=(0.5, 0.9),
        log_every=1,
        sample_every=6,
        checkpoint_every=5,
        tensorboard=False,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    assert pretrain(CONFIG, workdir) == 12
    return workdir


def test_the_weight_of_the_classifier_ramps_up_in_the_last_steps():
    weights = [float(mae_recipe_of(CONFIG).classifier_weight(jnp.int32(step))) for step in range(12)]
    np.testing.assert_allclose(weights, [0] * 7 + [0.125, 0.25, 0.375, 0.5, 0.5])
    at_once = dataclasses.replace(CONFIG, mae=dataclasses.replace(CONFIG.mae, cls_ramp_steps=0))
    assert [float(mae_recipe_of(at_once).classifier_weight(jnp.int32(step))) for step in (6, 7, 11)] == [0, 0.5, 0.5]
    never = dataclasses.replace(CONFIG, mae=dataclasses.replace(CONFIG.mae, lambda_cls=0.0))
    assert float(mae_recipe_of(never).classifier_weight(jnp.int32(11))) == 0


def test_the_loss_is_weighted_as_the_ramp_says(finished: Path):
    lines = metrics(finished)
    assert [line["step"] for line in lines] == list(range(1, 13))
    names = "loss recon_loss cls_loss accuracy mask_ratio grad_norm grad_norm_clipped param_norm learning_rate"
    for number, line in enumerate(lines):
        assert set(line) == {"step", *names.split()}
        weight = float(mae_recipe_of(CONFIG).classifier_weight(jnp.int32(number)))
        expected = weight * line["cls_loss"] + (1 - weight) * line["recon_loss"]
        np.testing.assert_allclose(line["loss"], expected, rtol=1e-5)
    assert lines[5]["recon_loss"] < lines[0]["recon_loss"]


def test_masks_are_drawn_anew_each_step_and_follow_the_key(finished: Path):
    ratios = [line["mask_ratio"] for line in metrics(finished)]
    assert len(set(ratios)) > 6
    key = jax.random.key(CONFIG.train.seed)
    for step, ratio in enumerate(ratios):
        mask_key, _ = jax.random.split(jax.random.fold_in(key, step))
        mask = mae_recipe_of(CONFIG).masks(mask_key, (32, 8, 8, 1))
        np.testing.assert_allclose(mask.mean(), ratio, rtol=1e-5)


def test_masks_are_squares_of_tokens():
    mae = MAEConfig(patch_size=2, input_patch_size=2, mask_ratio_min=0.3, mask_ratio_max=0.3)
    recipe = mae_recipe_of(PretrainConfig(mae=mae))
    mask = np.asarray(recipe.masks(jax.random.key(0), (500, 8, 8, 1)))
    assert mask.shape == (500, 4, 4, 1) and set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(mask[:, ::2, ::2], mask[:, 1::2, 1::2])
    assert abs(mask.mean() - 0.3) < 5 * np.sqrt(0.21 / 2000)


def test_the_artifact_is_the_first_average_and_gives_features(finished: Path):
    _, arrays, _ = saved(finished)
    encoder = feature_encoder(
        FeaturesConfig(options={"mae": {"weights": str(finished / "encoder")}}), sample_space(None, (8, 8, 1))
    )
    kernel = encoder.params["mae"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["['ema']['0.5']['encoder']['conv1']['kernel']"])
    assert np.any(np.asarray(kernel) != arrays["['params']['encoder']['conv1']['kernel']"])
    features = encoder.features(encoder.params, jnp.asarray(digits().__getitems__([0, 1])[0]))
    assert features["layer2"].shape == (2, 16, 8) and all(np.isfinite(f).all() for f in features.values())
    metadata = json.loads((finished / "encoder" / "metadata.json").read_text())
    assert (metadata["step"], metadata["ema_decay"], metadata["data"]) == (12, 0.5, "digits")
    assert metadata["class_names"] == list("0123456789")


def test_a_crash_changes_nothing_in_the_end(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workdir = tmp_path / "run"

    class Killed(Exception):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module.ReconstructionDrawer, "__call__", killed)  # at step 6, one after the checkpoint
        pretrain(CONFIG, workdir)
    assert not (workdir / "encoder").exists()
    assert pretrain(CONFIG, workdir) == 12
    assert_same_run(workdir, finished)
    for name in ("metadata.json", "params.safetensors"):
        assert (workdir / "encoder" / name).read_bytes() == (finished / "encoder" / name).read_bytes()


def test_a_missing_artifact_of_a_finished_run_is_made_again(finished: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "encoder")
    assert pretrain(CONFIG, workdir) == 12
    for name in ("metadata.json", "params.safetensors"):
        assert (workdir / "encoder" / name).read_bytes() == (finished / "encoder" / name).read_bytes()


def test_pictures_show_images_masks_and_reconstructions(finished: Path):
    pictures = sorted((finished / "samples").iterdir())
    assert [path.name for path in pictures] == ["step_0000006.png", "step_0000012.png"]
    with Image.open(pictures[0]) as first, Image.open(pictures[1]) as last:
        rows = [np.array_split(np.asarray(image), 3) for image in (first, last)]
    assert all(np.array_equal(rows[0][i], rows[1][i]) for i in (0, 1))  # the same images under the same masks
    assert not np.array_equal(rows[0][2], rows[1][2]) and not np.array_equal(rows[0][0], rows[0][1])


def test_without_a_classifier_and_with_larger_tokens():
    config = PretrainConfig(
        mae=MAEConfig(base_channels=4, layers=(1,), input_patch_size=2),
        train=RunConfig(steps=3),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
    )
    images, labels = digits().__getitems__(np.arange(16))
    losses = []
    with prepare_pretraining(config) as run:
        state = run.initial_state()
        for _ in range(8):
            state, found = run.step(state, {"image": images, "label": labels})
            losses.append(float(found["loss"]))
            assert found["loss"] == found["recon_loss"] and "accuracy" not in found
    assert np.mean(losses[4:]) < np.mean(losses[:4])


def test_description():
    with prepare_pretraining(CONFIG) as run:
        lines = list(describe_pretraining(run))
        count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(run.empty).params))
    assert lines[0].startswith(f"model: mae, {count:,} parameters, on ") and lines[1].startswith("data: digits")
    assert lines[2] == "loss: squared error of masked tokens, a classifier in the last 6 steps"
    with prepare_pretraining(dataclasses.replace(CONFIG, mae=MAEConfig(base_channels=4, layers=(1, 1)))) as run:
        assert list(describe_pretraining(run))[2] == "loss: squared error of masked tokens"


def test_an_encoder_starts_from_another(finished: Path, tmp_path: Path):
    source = Path(shutil.copytree(finished, tmp_path / "one"))
    then = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, start=str(source)))
    with prepare_pretraining(then) as run:
        state, first = run.initial_state(), flatten(load_artifact(source / "encoder").params)
        for params in (state.params, *state.ema.values()):
            for name, value in flatten(params).items():
                np.testing.assert_array_equal(value, first[name])
    assert pretrain(then, tmp_path / "two") == 12
    facts = load_artifact(tmp_path / "two" / "encoder").metadata["start"]
    assert (facts["from"], facts["step"]) == (str(source), 12)
    shutil.rmtree(source / "encoder")
    assert pretrain(then, tmp_path / "two") == 12
    with pytest.raises(ConfigError, match=r"train\.start=.*has no encoder, which `drifting pretrain` writes when it"):
        pretrain(then, tmp_path / "three")
    assert not (tmp_path / "three").exists()
