"""Starting from weights: what is taken over, resized, mapped or drawn, and what is refused; of every network."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from drifting.assembly import networks
from drifting.assembly.run import prepare
from drifting.assembly.start import Beginner, start_of
from drifting.config import pretrain_config, train_config
from drifting.config.parse import parse
from drifting.config.schema import MAEConfig, ModelConfig, PretrainConfig
from drifting.errors import ConfigError, HubError
from drifting.networks.network import structure
from drifting.training.encoder import pretrain
from drifting.training.generator import train
from drifting.weights.artifact import flatten, save_artifact, unflatten
from drifting.weights.released import save_released
from tests.support.runs import finished_run, tiny_config

DIT = ModelConfig(hidden_size=16, depth=2, num_heads=2, patch_size=2, register_tokens=1, style_tokens=1)

NETWORKS: dict[str, dict[str, Any]] = {
    "dit": networks.generator_arguments(DIT, (8, 8, 1), 4),
    "mlp": networks.generator_arguments(ModelConfig(name="mlp", hidden_size=8, depth=3), (4, 4, 1), 4),
    "mae": networks.mae_arguments(MAEConfig(base_channels=4, layers=(1, 1), lambda_cls=0.1), 1, 4),
}

NAMES = ("cat", "dog", "cow", "hen")


@cache
def shapes_of(network: str, changes: str) -> Any:
    """The parameters of a network as shapes, by JSON of the changed arguments."""
    return structure(network, NETWORKS[network] | json.loads(changes))[1]


def drawn(network: str, **changes: Any) -> dict[str, np.ndarray]:
    """Numbers for every tensor of a network, by its name."""
    shapes = flatten(shapes_of(network, json.dumps(changes)))
    random = np.random.default_rng(7)
    return {name: random.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}


def saved(folder: Path, network: str, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> str:
    """A folder of weights of a network whose constructor arguments are changed."""
    tensors = drawn(network, **changes) if tensors is None else tensors
    kind, arguments = "mae" if network == "mae" else "generator", NETWORKS[network] | changes
    said: dict[str, Any] = {"class_names": list(NAMES)} if arguments.get("num_classes") == 4 else {}
    given = dict(model_config=arguments, params=unflatten(tensors), step=9, ema_decay=0.9, extra=said)
    save_artifact(folder, kind=kind, network=network if kind == "generator" else None, **given)
    return str(folder)


def beginner(network: str, classes: tuple[str, ...] = NAMES, **changes: Any) -> Beginner:
    changes = {"num_classes": len(classes)} | changes
    return Beginner(network, NETWORKS[network] | changes, shapes_of(network, json.dumps(changes)), classes)


@pytest.mark.parametrize("network", NETWORKS)
def test_alike_everything_is_taken_as_it_is(network: str, tmp_path: Path):
    tensors = drawn(network)
    start = start_of(saved(tmp_path / "net", network, tensors), (), beginner(network))
    assert start.taken.keys() == tensors.keys() == flatten(beginner(network).params).keys()
    for name, value in start.taken.items():
        np.testing.assert_array_equal(value, tensors[name])
    assert start.facts["step"] == 9 and len(start.facts["sha256"]) == 64 and start.facts["classes"] == [0, 1, 2, 3]
    assert start.told == f"start: the parameters of {tmp_path / 'net'}, after 9 steps; the same 4 classes"


def other(value: Any) -> Any:
    """Another value of the same type that is as right."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "bfloat16"
    return [1, 2] if isinstance(value, list) else value * 2


@pytest.mark.parametrize(("network", "argument"), [(name, key) for name in NETWORKS for key in NETWORKS[name]])
def test_every_argument_adapts_or_is_refused_by_name(network: str, argument: str, tmp_path: Path):
    """Whichever constructor argument differs: what was learned is of use still, or one line says what does not fit."""
    value = NETWORKS[network][argument]
    reference = saved(tmp_path / "net", network, **{argument: other(value)})
    here = beginner(network)
    if argument in here.kind.adaptable:
        taken = start_of(reference, (), here).taken
        wanted = flatten(here.params)
        assert {name: value.shape for name, value in taken.items()}.items() <= {
            name: leaf.shape for name, leaf in wanted.items()
        }.items()
        assert wanted.keys() - taken.keys() <= here.class_axes.keys()
        return
    known = f"^train.start='{re.escape(reference)}': .*{argument} is .* there and .* here.*: .* set them alike"
    with pytest.raises(ConfigError, match=known) as error:
        start_of(reference, (), here)
    assert "\n" not in str(error.value)


def test_another_network_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model\.name is 'mlp' there and 'dit' here"):
        start_of(saved(tmp_path / "net", "mlp"), (), beginner("dit"))
    with pytest.raises(ConfigError, match="holds a 'mae', expected a 'generator'"):
        start_of(saved(tmp_path / "mae", "mae"), (), beginner("dit"))
    with pytest.raises(ConfigError, match="there is no such folder"):
        start_of(str(tmp_path / "gone"), (), beginner("dit"))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", ["is missing", "is unknown", "has other sizes", "is not finite"])
def test_a_tensor_that_does_not_fit_is_named(network: str, fault: str, tmp_path: Path):
    tensors, here = drawn(network), beginner(network)
    names = sorted(tensors.keys() - here.class_axes.keys() - set(getattr(here.kind, "position_tables", ())))
    for number, name in enumerate(names[:: len(names) // 2]):
        changed = dict(tensors)
        value = changed.pop(name)
        if fault == "is unknown":
            changed |= {name: value, f"{name}_more": value}
        elif fault == "has other sizes":
            changed[name] = np.concatenate([value, value])
        elif fault == "is not finite":
            changed[name] = np.where(np.arange(value.size).reshape(value.shape) == 1, np.nan, value)
        with pytest.raises(ConfigError, match=f"^train.start=.*{re.escape(name)}"):
            start_of(saved(tmp_path / str(number), network, changed), (), here)


CLASSES: dict[str, tuple[tuple[str, ...], tuple[int, ...], list[int] | None]] = {
    "the same": (NAMES, (), [0, 1, 2, 3]),
    "as many, without names": (("0", "1", "2", "3"), (), [0, 1, 2, 3]),
    "as many, of other names": (("ant", "bee", "cow", "hen"), (), None),
    "fewer": (("cat", "dog"), (), None),
    "more": ((*NAMES, "fox"), (), None),
    "one": (("all",), (), None),
    "fewer, mapped": (("hen", "cat"), (3, 0), [3, 0]),
    "more, mapped": ((*NAMES, "fox"), (0, 1, 2, 3, 1), [0, 1, 2, 3, 1]),
    "one, mapped": (("all",), (2,), [2]),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", CLASSES)
def test_classes_are_taken_mapped_or_drawn(network: str, case: str, tmp_path: Path):
    names, chosen, expected = CLASSES[case]
    tensors, here = drawn(network), beginner(network, names)
    start = start_of(saved(tmp_path / "net", network, tensors), chosen, here)
    assert start.facts["classes"] == expected and here.class_axes
    for name, axis in here.class_axes.items():
        if expected is None:
            assert name not in start.taken and f"{name}" in start.told and "drawn anew" in start.told
        else:
            np.testing.assert_array_equal(start.taken[name], np.take(tensors[name], expected, axis))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [((0, 1), "name one of the 4 classes of train.start for each of the 4 here"), ((0, 1, 2, 4), "has classes 0 to 3")],
)
def test_classes_that_there_are_not(chosen: tuple[int, ...], words: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"^train\.start_classes={re.escape(repr(chosen))}: .*{words}"):
        start_of(saved(tmp_path / "net", "dit"), chosen, beginner("dit"))


def test_a_classifier_comes_and_goes(tmp_path: Path):
    """An encoder without a classifier begins one with, and the other way round."""
    tensors = drawn("mae")
    without = start_of(saved(tmp_path / "with", "mae", tensors), (), beginner("mae", num_classes=0))
    assert without.taken.keys() == {name for name in tensors if not name.startswith("classifier")}
    reference = saved(tmp_path / "without", "mae", num_classes=0)
    assert "classifier/kernel" not in start_of(reference, (), beginner("mae")).taken
    with pytest.raises(ConfigError, match=r"start_classes=.*: no parameter there depends on a class"):
        start_of(reference, (0, 1, 2, 3), beginner("mae"))


def test_positions_are_resized_for_another_resolution(tmp_path: Path):
    """A table that is linear in the place stays so, but at the border, where tokens have no neighbours."""
    tensors, numbers = drawn("dit", input_size=16), np.arange(16)
    (row, column), (fine_row, fine_column) = ((np.mgrid[:n, :n][..., None] + 0.5) / n for n in (8, 16))
    tensors["pos_embed"] = np.float32(row + 2 * column + numbers).reshape(64, 16)
    reference = saved(tmp_path / "net", "dit", tensors, input_size=16)
    start = start_of(reference, (), beginner("dit", input_size=32))
    found = start.taken.pop("pos_embed").reshape(16, 16, 16)
    expected = fine_row + 2 * fine_column + numbers
    np.testing.assert_allclose(found[4:-4, 4:-4], expected[4:-4, 4:-4], rtol=1e-5)
    assert np.abs(found - expected).max() < 0.2 and start.facts["positions"] == ((8, 8), (16, 16))
    assert start.told.endswith("; the same 4 classes; pos_embed resized from 8x8 to 16x16")
    wide = start_of(reference, (), beginner("dit", input_size=[16, 24]))
    assert wide.taken["pos_embed"].shape == (96, 16) and "resized from 8x8 to 8x12" in wide.told
    for name, value in start.taken.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_released_weights_do_not_name_their_classes(tmp_path: Path):
    tensors = drawn("dit")
    given = dict(model_config=NETWORKS["dit"], params=unflatten(tensors), step=None, ema_decay=None)
    save_released(tmp_path / "net", kind="generator", **given)
    start = start_of(str(tmp_path / "net"), (), beginner("dit"))
    assert start.facts["classes"] == [0, 1, 2, 3] and start.told.endswith("net; the same 4 classes")
    for name, value in start.taken.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_a_run_begins_with_the_average_of_another_and_all_else_anew(tmp_path_factory: pytest.TempPathFactory):
    workdir = finished_run(tmp_path_factory)
    with prepare(tiny_config(train=dict(start=str(workdir), ema_decays=(0.5, 0.9)))) as run:
        state = run.initial_state()
        assert run.start is not None and run.start.facts["step"] == 120 and run.start.facts["ema_decay"] == 0.9
        for params in (state.params, *state.ema.values()):
            for name, value in flatten(params).items():
                np.testing.assert_array_equal(value, run.start.taken[name])
        assert int(state.step) == 0 and all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
        assert len(state.ema) == 2 and np.any(run.start.taken["final/kernel"])
    with pytest.raises(ConfigError, match=r"train\.start=.*: starts a network of config\.model"):
        prepare(tiny_config(train=dict(start=str(workdir))), network=lambda rngs: None)


BEFORE_ANYTHING: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing there": ("dit", {"start": "gone"}, "train.start='gone': there is no such folder"),
    "no reference": ("dit", {"start": "hf://a"}, "train.start='hf://a': not a reference"),
    "an encoder": ("dit", {"start": "mae"}, "train.start='mae': holds a 'mae', expected a 'generator'"),
    "a generator": ("mae", {"start": "dit"}, "train.start='dit': holds a 'generator', expected a 'mae'"),
    "a run of the other kind": ("mae", {"start": "run"}, "train.start='run': "),
    "no such class": (
        "dit",
        {"start": "dit", "start_classes": (0, 4)},
        "train.start_classes=(0, 4): train.start has",
    ),
    "no such class, encoder": ("mae", {"start": "mae", "start_classes": (9,)}, "train.start_classes=(9,): train.start"),
    "no such class of a run": ("dit", {"start": "run", "start_classes": (99,)}, "train.start_classes=(99,): train.st"),
    "no connection": ("dit", {"start": "hf://a/b"}, "train.start='hf://a/b': "),
    "no connection, encoder": ("mae", {"start": "hf://a/b"}, "train.start='hf://a/b': "),
}


@pytest.mark.parametrize("case", BEFORE_ANYTHING)
def test_what_needs_no_network_is_said_before_the_data_are_looked_at(
    case: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    network, settings, words = BEFORE_ANYTHING[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for kind in ("dit", "mae"):
        saved(tmp_path / kind, kind)
    (tmp_path / "run").symlink_to(finished_run(tmp_path_factory))
    config = train_config() if network == "dit" else pretrain_config()
    config.data.update(name="imagefolder", path="no such data")
    config.train.update(settings)
    with pytest.raises((ConfigError, HubError)) as error:
        if network == "dit":
            train(parse(config), tmp_path / "new")
        else:
            pretrain(parse(config, PretrainConfig), tmp_path / "new")
    assert str(error.value).startswith(words) and "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_as_many_classes_are_named_as_the_data_have():
    with pytest.raises(ConfigError, match=r"^train\.start_classes=\(0, 1\): name one of .* for each of the 10 here"):
        prepare(tiny_config(data=dict(vae="no such vae"), train=dict(start="run", start_classes=(0, 1))))
