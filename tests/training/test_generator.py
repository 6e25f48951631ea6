"""What a generator's training sets up: batches, banks that cover every class, metrics by name, warnings, pictures."""

import dataclasses
import json
import logging
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drifting.assembly.feed import make_feed
from drifting.assembly.pools import banks_of
from drifting.assembly.run import Run, prepare
from drifting.assembly.spaces import sample_space
from drifting.cli.commands import main
from drifting.config.schema import Config, ModelConfig, OptimizerConfig
from drifting.data.batches import ClassBalanced, Pipeline
from drifting.data.source import ArraySource
from drifting.data.sources.digits import digits
from drifting.data.sources.latents import latents
from drifting.data.sources.synthetic import synthetic
from drifting.errors import ConfigError
from drifting.method import bank
from drifting.method.objective import MapMetrics
from drifting.method.state import TrainState
from drifting.training.generator import describe_training
from drifting.training.saved_banks import bank_packing
from drifting.training.watch import CollapseWatch, GridDrawer, named_metrics
from tests.support.caches import finished_cache
from tests.support.runs import (
    finish,
    finished_run,
    metrics,
    saved,
    tiny_config,
    train_arguments,
    train_command,
    tree,
)

PIXELS = sample_space(None, (8, 8, 1))


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def source_of(counts: list[int]) -> ArraySource:
    """So many images of each class; the pixels are the image's number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.broadcast_to(
        np.arange(len(labels), dtype=np.float32)[:, None, None, None] / 1000, (len(labels), 2, 2, 1)
    )
    return ArraySource(images, labels, tuple(f"c{i}" for i in range(len(counts))))


def made(config: Config, source: Any, vae: str | None = None) -> Run:
    """A run with a network of no size."""
    model, data = ModelConfig(name="mlp", hidden_size=8, depth=2), dataclasses.replace(config.data, vae=vae)
    return prepare(dataclasses.replace(config, model=model, data=data), source=source)


def fill(config: Config, source: Any) -> tuple[TrainState, Any]:
    run = made(config, source)
    return run.initial_state(), run.feed


def test_banks_are_filled_until_every_class_can_be_drawn_and_no_longer():
    config = tiny_config(bank=dict(push=8))
    state, pipeline = fill(config, digits())
    counts = np.asarray(bank.fill(state.banks.by_class))
    assert counts.min() >= config.loss.positives and np.all(np.asarray(bank.fill(state.banks.unconditional)) >= 2)
    batches = pipeline.state()["position"]
    again, shorter = make_feed(config, digits()), bank.empty_bank(10, config.bank.per_class, (8, 8, 1))
    for _ in range(batches - 1):
        batch = next(again)
        shorter = bank.push(shorter, batch["image"], batch["label"], batch["id"])
    assert np.asarray(bank.fill(shorter)).min() < config.loss.positives


def test_a_rare_class_costs_one_epoch_and_a_warning(caplog: pytest.LogCaptureFixture):
    source = source_of([30, 1, 30])
    config = tiny_config(bank=dict(push=8))
    with caplog.at_level(logging.INFO, "drifting"):
        state, pipeline = fill(config, source)
    assert "banks: filling them, with at most 8 batches of 8 real samples" in caplog.text
    assert "data: 1 of 3 classes with fewer samples than loss.positives=4" in caplog.text
    assert pipeline.state()["position"] == 8  # ceil(61 / 8)
    held = np.asarray(state.banks.by_class.samples[0, 1, :, 0, 0, 0])
    assert int(bank.fill(state.banks.by_class)[0, 1]) >= 1 and set(held[held > 0].tolist()) == {np.float32(0.03)}


def test_classes_without_samples_are_an_error_that_names_them():
    source = source_of([30, 30])
    source.class_names, source.num_classes = ("c0", "c1", "nothing", "none"), 4
    with pytest.raises(ConfigError, match=r"2 of 4 classes of 'array' have no image: nothing, none; leave them out"):
        make_feed(tiny_config(), source)


def test_which_banks_there_are():
    both = banks_of(tiny_config(), PIXELS, 10)
    assert both is not None and both.unconditional is not None
    without = dict(loss=dict(unconditional=0), guidance=dict(alpha_max=1.0))
    classes = banks_of(tiny_config(**without), PIXELS, 10)
    assert classes is not None and classes.unconditional is None
    config = tiny_config(bank=dict(per_class=0), **without)
    assert banks_of(config, PIXELS, 10) is None
    state, pipeline = fill(config, digits())
    assert state.banks is None and pipeline.state() == {"position": 0}


def test_batches_with_and_without_banks(caplog: pytest.LogCaptureFixture):
    config = tiny_config()
    pipeline = make_feed(config, digits())
    assert isinstance(pipeline, Pipeline) and pipeline.batch_size == 16
    assert make_feed(config, source_of([5, 4])).batch_size == 9  # no more than there are
    config = tiny_config(bank=dict(per_class=0), loss=dict(labels=3, positives=4, unconditional=0))
    pipeline = make_feed(config, digits())
    assert isinstance(pipeline, ClassBalanced)
    labels = np.asarray(next(pipeline)["label"]).reshape(3, 4)
    assert len(set(labels[:, 0])) == 3 and np.all(labels == labels[:, :1])
    with caplog.at_level(logging.WARNING, "drifting"):
        rare = make_feed(config, source_of([9, 2, 9]))
    assert caplog.text.count("1 of 3 classes with fewer samples than loss.positives=4") == 1
    assert np.bincount(np.asarray(next(rare)["label"])).tolist() == [4, 4, 4]


@pytest.mark.parametrize("kind", ["bytes", "latents"])
def test_a_checkpoint_names_the_banked_samples_which_are_read_again(
    kind: str, tmp_path_factory: pytest.TempPathFactory
):
    """To the last bit, mirrored as they were, and zero where a ring is not full."""
    config = tiny_config(bank=dict(per_class=48, push=32), data=dict(flip=True))
    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 4, 1), dtype=np.uint8)
    source: Any = ArraySource(pixels, np.arange(150) % 3, ("a", "b", "c"))
    if kind == "latents":
        source = latents(finished_cache(tmp_path_factory))
        config = tiny_config(bank=dict(per_class=4, push=32), data=dict(flip=True))
    state, _ = fill(config, source)
    packing = bank_packing(made(config, source))
    packed = packing.pack(state)
    assert all(held["words"] is None for held in packed.banks.values())
    size, whole = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (packed.banks, state.banks))
    assert size < whole / 4
    restored = packing.unpack(packed)
    assert restored.banks.by_class.samples.dtype == (jnp.float16 if kind == "latents" else jnp.uint8)
    held = np.asarray(bank.fill(state.banks.by_class))
    assert (held > 0).all() and (kind == "latents" or (held < 48).any())
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_samples_that_a_network_makes_are_saved_themselves():
    """Encoding images again on another device would not give the same latents to the last bit."""
    source = synthetic(16, classes=2)
    run = made(tiny_config(), source, "random://smoke")
    packing, state = bank_packing(run), run.empty()
    words = packing.pack(state).banks["class"]["words"]
    assert words is state.banks.by_class.words and words.shape == (1, 2, 8, 8 * 8 * 8 // 2)


def test_banks_of_a_checkpoint_of_version_0_1_are_read():
    """It holds samples in their own shape, where they cannot be read again."""
    run = made(tiny_config(), synthetic(16, classes=2), "random://smoke")
    packing, empty = bank_packing(run), jax.jit(run.empty)()
    words = jax.random.bits(jax.random.key(0), empty.banks.by_class.words.shape, jnp.uint32)
    by_class = dataclasses.replace(empty.banks.by_class, words=words)
    state = dataclasses.replace(empty, banks=dataclasses.replace(empty.banks, by_class=by_class))
    saved = packing.pack(state)
    for name, held in saved.banks.items():
        del held["words"]
        held["samples"] = (by_class if name == "class" else empty.banks.unconditional).samples
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), saved)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), packing.target({"bank_sets": 1})) == shapes
    restored = packing.unpack(saved)
    np.testing.assert_array_equal(restored.banks.by_class.words, words)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_named_metrics():
    maps = {
        name: MapMetrics(*(jnp.float32(x) for x in (i, i + 0.5)), jnp.asarray([1.0, 2.0]) * i, jnp.float32(9))
        for i, name in enumerate("ab")
    }
    named = named_metrics((0.05, 0.4), {"loss": jnp.float32(7), "maps": maps})
    assert named == {
        "loss": 7.0,
        "loss/a": 0.0, "gap/a": 0.5, "scale/a": 9.0, "field_norm/a/0.05": 0.0, "field_norm/a/0.4": 0.0,
        "loss/b": 1.0, "gap/b": 1.5, "scale/b": 9.0, "field_norm/b/0.05": 1.0, "field_norm/b/0.4": 2.0,
    }  # fmt: skip


# The metric `collapse` of real short runs on the digits: no_op_steps, warmup_steps, steps, then step: value.
SHORT_RUNS = [
    (0, 50, 60, {1: 0.0, 10: 0.017, 20: 0.071, 30: 0.114, 38: 0.277, 42: 0.676, 50: 0.285, 56: 0.31, 60: 0.353}),
    (0, 50, 200, {1: 0.0, 20: 0.071, 48: 0.288, 52: 0.282, 54: 0.304, 60: 0.353, 100: 0.52, 148: 0.53}),
    (0, 5, 60, {1: 0.0, 4: 0.015, 6: 0.049, 10: 0.12, 18: 0.211, 24: 0.593, 30: 0.316, 34: 0.338, 60: 0.585}),
]


@pytest.mark.parametrize("resumed", [0, 10, 20, 48, 60])
@pytest.mark.parametrize("no_op,warm_up,steps,curve", SHORT_RUNS)
def test_short_runs_are_no_collapse(
    no_op: int, warm_up: int, steps: int, curve: dict[int, float], resumed: int, caplog: pytest.LogCaptureFixture
):
    watch = CollapseWatch(OptimizerConfig(no_op_steps=no_op, warmup_steps=warm_up), steps)
    with caplog.at_level(logging.WARNING, "drifting"):
        for step, collapse in curve.items():
            if step > resumed:
                watch(step, {"collapse": collapse})
    assert not caplog.records


@pytest.mark.parametrize(
    ("no_op", "warm_up", "steps", "curve", "words"),
    [
        (
            0,
            5000,
            60,
            {1: 0.0, 10: 0.0, 32: 0.001, 60: 0.001},
            "train.steps=60 end within the 5000 of optimizer.",
        ),
        (1, 1, 2, {1: 0.0, 2: 0.0}, "train.steps=2 end within the 2 of "),
        (0, 0, 1, {1: 0.0}, "nearly alike still after train.steps=1: train longer"),
        (0, 0, 15, {1: 0.0, 14: 0.1, 15: 0.05}, "nearly alike still after train.steps=15: train longer"),
        (0, 5, 60, {1: 0.0, 30: 0.1, 60: 0.2}, "nearly alike still after train.steps=60: train longer"),
    ],
)
def test_a_run_that_ends_before_it_can_be_judged_says_so_once_at_its_end(
    no_op: int, warm_up: int, steps: int, curve: dict[int, float], words: str, caplog: pytest.LogCaptureFixture
):
    watch = CollapseWatch(OptimizerConfig(no_op_steps=no_op, warmup_steps=warm_up), steps)
    with caplog.at_level(logging.WARNING, "drifting"):
        for step, collapse in curve.items():
            assert not caplog.records
            watch(step, {"collapse": collapse})
    (found,) = [record.getMessage() for record in caplog.records]
    assert found.startswith("collapse 0.") and " at the end: " in found and words in found


def test_collapse_is_warned_of_when_it_begins(caplog: pytest.LogCaptureFixture):
    watch = CollapseWatch(OptimizerConfig(no_op_steps=2, warmup_steps=8), steps=100)
    looks = ((1, 0.0), (30, 0.2), (50, 0.1), (55, 0.2), (60, 0.29), (65, 0.28), (70, 0.29), (80, 0.5), (90, 0.2))
    with caplog.at_level(logging.WARNING, "drifting"):
        for step, collapse in looks:
            watch(step, {"collapse": collapse})
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 2  # neither at the start, nor while it rises, nor again while it lasts
    assert found[0].startswith("collapse 0.28 at step 65:") and found[1].startswith("collapse 0.20 at step 90:")


def test_the_published_runs_are_watched_soon_after_their_warm_up(caplog: pytest.LogCaptureFixture):
    watch = CollapseWatch(OptimizerConfig(warmup_steps=5000), steps=30_000)
    with caplog.at_level(logging.WARNING, "drifting"):
        for step, collapse in ((5900, 0.2), (5999, 0.1), (6000, 0.1)):
            assert not caplog.records
            watch(step, {"collapse": collapse})
    assert len(caplog.records) == 1


def test_description():
    config = tiny_config()
    run = prepare(config)
    lines = list(describe_training(run))
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(run.empty).params))
    assert lines[0].startswith(f"model: dit, {count:,} parameters, on ")
    assert lines[1].startswith("data: digits, 1,400 samples")
    held = config.bank
    banks = f"banks of {held.per_class} a class and {held.unconditional} of any, {held.push} new ones a step"
    assert lines[2] == f"real samples: out of {banks}"
    assert lines[3] == "loss: log_kde, gaussian kernel of width 0.4"
    assert lines[4] == "features: the samples themselves: 1 map, 1 drift problem a label"
    for place, words in (("device", "on the device"), ("host", "in the host's memory"), (None, "read for each step")):
        changed = tiny_config(data=dict(resident=place), bank=dict(per_class=0))
        assert (
            list(describe_training(dataclasses.replace(run, config=changed)))[2] == f"real samples: out of all, {words}"
        )


def test_what_a_run_leaves(run: Path):
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "samples",
        "seals",
        "timings.jsonl",
    ]
    pictures = sorted((run / "samples").iterdir())
    assert [path.name for path in pictures] == ["step_0000050.png", "step_0000100.png", "step_0000120.png"]
    with Image.open(pictures[0]) as first, Image.open(pictures[-1]) as last:
        assert first.size == last.size and first.mode == "LA"
        assert np.any(np.asarray(first) != np.asarray(last))
        assert json.loads(first.text["Rows"])["names"] == list("0123456789")
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, *range(4, 121, 4)]
    wanted = "loss gap collapse field_norm grad_norm grad_norm_clipped param_norm learning_rate bank_fill alpha"
    for line in lines:
        assert set(wanted.split()) | {"gap/global", "scale/global", "field_norm/global/0.4"} <= set(line)
        assert line["grad_norm_clipped"] <= min(2.0, line["grad_norm"]) + 1e-6
    assert lines[-1]["learning_rate"] == pytest.approx(2e-4)


def test_pictures_use_the_average_that_evaluation_uses(tmp_path: Path):
    config = tiny_config(eval=dict(ema_decay=0.99))
    run = prepare(config)
    params = jax.jit(run.empty)().params
    brighter = params | {"final": {"kernel": params["final"]["kernel"], "bias": params["final"]["bias"] + 1}}
    state = TrainState(jnp.int32(0), params, {}, {"0.9": params, "0.99": brighter})
    GridDrawer(run, tmp_path)(7, state)
    with Image.open(tmp_path / "samples" / "step_0000007.png") as image:
        left, pixels = json.loads(image.text["Rows"])["left"], np.asarray(image)
        shown = pixels[:, left:, 0][pixels[:, left:, 1] > 0]
        assert shown.size and shown.min() == 255  # a new generator draws 0, grey; plus 1 is white


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_run_tells_what_it_does(run: Path, tmp_path: Path):
    """Standard error of a short run of its own, from the first line to the last: nothing from the libraries."""
    shutil.copytree(run, tmp_path / "run")
    done = finish(train_command(tmp_path / "run", "--config.train.steps=122"))
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    about = (
        "model: dit, ",
        "data: digits, 1,400 samples",
        "real samples: out of banks of ",
        "loss: log_kde, gaussian",
        "features: the samples themselves",
    )
    assert [line[: len(words)] for line, words in zip(lines, about, strict=False)] == list(about)
    assert lines[5] == f"train: going on after step 120 of {tmp_path / 'run'}"
    assert lines[-1].startswith(f"train: done: step 122 of 122 in {tmp_path / 'run'} after 0:")
    assert all(line.startswith(("train: ", "train 12", "warning: collapse")) for line in lines[6:-1])
    assert saved(tmp_path / "run")[0] == metrics(tmp_path / "run")[-1]["step"] == 122


def test_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]):
    before = tree(run)
    assert main(train_arguments(run)) == 0
    assert capsys.readouterr() == ("", f"train: finished already, 120 steps in {run}\n")
    assert tree(run) == before


def test_an_image_that_cannot_be_read_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Found only when it is read, long after the settings were right."""
    images, labels = digits().__getitems__(np.arange(60))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "data" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image[..., 0] + 1) * 127).astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "data" / "3" / "broken.png").write_bytes(b"\x89PNG nothing")
    data = [
        f"--config.data.{key}"
        for key in ("name=imagefolder", f"path={tmp_path / 'data'}", "image_size=8", "channels=1")
    ]
    assert main(train_arguments(tmp_path / "run", *data)) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "broken.png" in said
    assert said.splitlines()[-1].startswith("drifting: error: data after step ")


def test_ctrl_c_before_the_first_step(tmp_path: Path):
    """While it is still setting up there is nothing to save: exit code 130, no traceback, as later."""
    process = subprocess.Popen(train_command(tmp_path / "run"), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("model:")
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=240)[1]
    assert process.returncode == 130 and "Traceback" not in rest
