"""Data on the device and in the host's memory: the law of the draws, what is kept, and steps that load nothing."""

import logging
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from drifting.assembly.feed import make_feed
from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, source_space
from drifting.cli.commands import main
from drifting.data.batches import ClassBalanced, Constant
from drifting.data.in_memory import InMemory, load_source
from drifting.data.source import ArraySource
from drifting.data.sources.digits import digits
from drifting.data.sources.latents import latents
from drifting.data.sources.synthetic import synthetic
from drifting.method import all_samples
from drifting.method.all_samples import AllSamples
from drifting.method.records import RecordFormat
from drifting.method.step import train_step
from tests.support.caches import finished_cache
from tests.support.runs import assert_same_run, tiny_config, train_arguments

COUNTS = (3, 1, 12, 200)


def numbers(mirror: bool = False) -> AllSamples:
    """Samples of 1 x 2 x 1 with the values i and -i, in classes of `COUNTS`, and three rows of padding."""
    total = sum(COUNTS)
    values = jnp.where(jnp.arange(total + 3) < total, jnp.arange(total + 3.0), jnp.nan)
    records = jnp.stack([values, -values], axis=1).reshape(-1, 1, 1, 2, 1)
    return of_records(records, jnp.asarray(np.cumsum([0, *COUNTS]), jnp.int32), mirror)


def of_records(records: jax.Array, starts: jax.Array, mirror: bool = False) -> AllSamples:
    record = RecordFormat(records.shape[2:], records.dtype)
    return AllSamples(record.pack(records), starts, record, mirror)


@pytest.mark.parametrize(("held", "count"), [(6, 3), (6, 6), (7, 2), (50, 4), (4, 5)])
def test_draws_are_uniform(held: int, count: int):
    """Every number and, without replacement, every pair of numbers is in a draw equally often."""
    rows = 8000
    draws = np.asarray(jax.jit(all_samples.distinct, static_argnums=2)(jax.random.key(0), jnp.full(rows, held), count))
    assert draws.shape == (rows, count) and draws.min() >= 0 and draws.max() < held
    if held < count:
        assert stats.chisquare(np.bincount(draws.ravel(), minlength=held)).pvalue > 1e-4
        return
    assert all(len(set(row)) == count for row in draws)
    member = np.zeros((rows, held))
    np.put_along_axis(member, draws, 1, axis=1)
    pairs = (member.T @ member)[np.triu_indices(held, 1)]
    # Each row gives count (count - 1) / 2 pairs; rows are independent, so 5 standard errors of a proportion each.
    p = count * (count - 1) / (held * (held - 1))
    assert abs(member.mean(axis=0) - count / held).max() < 5 * np.sqrt(count / held / rows)
    assert abs(pairs / rows - p).max() < 5 * np.sqrt(max(p * (1 - p), 1e-9) / rows) + 1e-12


def test_rows_of_one_draw_are_independent():
    draws = np.sort(all_samples.distinct(jax.random.key(1), jnp.full(6000, 4), 2), axis=1)
    subset = np.array([[0, 0, 1, 2], [0, 0, 3, 4], [0, 0, 0, 5]])[draws[:, 0], draws[:, 1]]  # the six pairs of 0 .. 3
    table = np.zeros((6, 6))
    np.add.at(table, (subset[0::2], subset[1::2]), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def test_samples_are_of_their_class_and_none_is_padding():
    labels = np.array([0, 1, 2, 3] * 20)
    drawn = np.asarray(jax.jit(AllSamples.of_class, static_argnums=3)(numbers(), jax.random.key(0), labels, 3))
    starts = np.cumsum([0, *COUNTS])
    assert drawn.shape == (80, 3, 1, 2, 1)
    for label, row in zip(labels, drawn[:, :, 0, 0, 0], strict=True):
        assert starts[label] <= row.min() and row.max() < starts[label + 1]
        assert len(set(row)) == min(3, COUNTS[label])
    anything = np.asarray(numbers().of_any(jax.random.key(0), jnp.zeros(300, jnp.int32), 7))[:, :, 0, 0, 0]
    assert all(len(set(row)) == 7 for row in anything) and set(anything.ravel()) == set(range(216))
    np.testing.assert_array_equal(drawn[..., 1, 0], -drawn[..., 0, 0])  # none is mirrored


def test_half_of_the_draws_are_mirrored_or_the_second_view():
    plain = numbers(mirror=True)
    records = plain.record.unpack(plain.words)
    views = of_records(jnp.concatenate([records, records[:, :, :, ::-1]], axis=1), plain.starts, True)
    for held in (plain, views):
        drawn = np.asarray(held.of_class(jax.random.key(0), jnp.full(500, 3), 4))[:, :, 0, 0, 0]
        mirrored = drawn < 0
        assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(mirrored.size)
        assert (mirrored.any(axis=1) & ~mirrored.all(axis=1)).mean() > 0.7  # a coin for each, not for the row


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_source_is_loaded_sorted_by_class_in_its_own_dtype():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], 10))
    source = ArraySource(pixels, labels, ("a", "b", "c"))
    held = load_source(source, flip=True, shards=4)
    assert held.record == RecordFormat((4, 4, 3), jnp.uint8) and held.words.shape == (32, 1, 12) and held.mirror
    np.testing.assert_array_equal(held.starts, [0, 10, 20, 30])
    np.testing.assert_array_equal(held.record.unpack(held.words)[:30, 0], pixels[np.argsort(labels, kind="stable")])
    rows = np.array([3, 3, 29])
    np.testing.assert_array_equal(
        InMemory(source, flip=True).read(rows, np.array([True, False, True]), None)[0],
        source.read(rows, np.array([True, False, True]), None)[0],
    )


def test_latents_are_loaded_as_moments_of_both_views(tmp_path_factory: pytest.TempPathFactory):
    source = latents(finished_cache(tmp_path_factory))
    for flip in (False, True):
        held, memory = load_source(source, flip), InMemory(source, flip)
        order, mirrored = np.argsort(source.labels, kind="stable"), np.arange(len(source)) % 2 == 1
        for view in range(1 + flip):
            expected = source.read(order, np.full(len(order), view == 1), None)[0]
            np.testing.assert_array_equal(held.record.unpack(held.words)[:, view], expected)
        if flip:
            rows = np.arange(len(source))
            np.testing.assert_array_equal(memory.read(rows, mirrored, None)[0], source.read(rows, mirrored, None)[0])
        assert held.words.shape[1] == 1 + flip and held.record.dtype == "float16"


def test_which_feed_there_is(caplog: pytest.LogCaptureFixture):
    config = tiny_config(data=dict(resident="host"))
    feed = make_feed(config, digits())
    assert isinstance(feed, ClassBalanced) and isinstance(feed.source, InMemory)
    batch = next(feed)
    assert batch["image"].shape == (3 * 6, 8, 8, 1) and isinstance(batch["image"], jax.Array)
    assert isinstance(make_feed(tiny_config(data=dict(resident="device")), digits()), Constant)
    few = ArraySource(np.zeros((5, 2, 2, 1), np.float32), np.array([0, 0, 0, 0, 1]), ("a", "b"))
    with caplog.at_level(logging.WARNING, "drifting"):
        make_feed(tiny_config(data=dict(resident="device")), few)
    assert caplog.text.count("1 of 2 classes with fewer samples than loss.positives=4") == 1


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_resident_step_moves_nothing_between_host_and_device():
    """Two steps under a guard that refuses every transfer; what they are fed is the same arrays each time."""
    source = synthetic(16, channels=3, classes=3)
    config = tiny_config(data=dict(name="synthetic", resident="device"), model=dict(patch_size=8))
    space = source_space("random://smoke", source)
    encoder = feature_encoder(config.features, space)
    parts, empty_state = set_up(config, space, encoder, 3)
    feed, held = make_feed(config, source), jax.jit(empty_state)()
    assert held.banks is None
    step = jax.jit(partial(train_step, parts), donate_argnums=0)
    # The VAE is asked for nothing but the scale of latents that were encoded before.
    moments = jax.random.normal(jax.random.key(3), (768, 1, 8, 8, 8), jnp.float16)
    starts = next(feed)["samples"].starts
    batch, widths, key = {"samples": of_records(moments, starts)}, jnp.asarray([0.4]), jax.random.key(0)
    held, _ = step(held, batch, encoder.params | space.params, widths, key)
    frozen = encoder.params | space.params
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            held, metrics = step(held, batch, frozen, widths, key)
    assert int(held.step) == 3 and np.isfinite(metrics["loss"]) and metrics["bank_fill"] == 1


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_run_goes_on_where_it_was(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Interrupted after half of its steps, it ends as the whole run does; a checkpoint holds no sample."""
    flags = [f"--config.data.resident={where}", "--config.data.flip=True", "--config.train.checkpoint_every=4"]
    flags += ["--config.model.name=mlp", "--config.model.num_heads=None", "--config.model.depth=2"]
    for name, lengths in {"whole": (8,), "parts": (4, 8)}.items():
        for steps in lengths:
            assert main(train_arguments(tmp_path / name, *flags, f"--config.train.steps={steps}")) == 0
    assert "going on after step 4" in capsys.readouterr().err
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
