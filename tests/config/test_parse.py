"""Configurations are strict both ways: every key, every type, the round trips, and one clear line for each mistake."""

import dataclasses
import json
import typing
from typing import Any

import pytest
from ml_collections import ConfigDict

from drifting.config.parse import annotation, parse, to_config_dict
from drifting.config.schema import CacheBuild, Config, PretrainConfig, command_of, to_dict
from drifting.config.sections import accepts_none, literal_words, unknown_key, wrong_type
from drifting.config.variants import cache_config, pretrain_config, train_config
from drifting.errors import ConfigError
from drifting.runs.directory import differences

KINDS = {Config: train_config, PretrainConfig: pretrain_config, CacheBuild: cache_config}


def keys() -> list[tuple[Any, str, Any]]:
    """Every setting there is: kind, dotted path, annotated type."""
    found = []
    for kind in KINDS:
        for section, section_kind in typing.get_type_hints(kind).items():
            found += [(kind, f"{section}.{key}", hint) for key, hint in typing.get_type_hints(section_kind).items()]
    return found


def at(path: str, value: Any) -> dict[str, Any]:
    section, _, key = path.partition(".")
    return {section: {key: value}}


def read(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part)
    return config


def plain(hint: Any) -> Any:
    return next(t for t in typing.get_args(hint) if t is not type(None)) if accepts_none(hint) else hint


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips(kind: Any):
    assert parse(KINDS[kind](), kind) == parse({}, kind) == kind()
    train = {} if kind is CacheBuild else {"train": {"ema_decays": [0.5, 0.25], "steps": 3}}
    config = parse({"data": {"path": "x"}} | train, kind)
    assert parse(to_config_dict(config), kind) == config
    assert parse(json.loads(json.dumps(to_dict(config))), kind) == config
    assert config.data.path == "x" and (kind is CacheBuild or config.train.ema_decays == (0.5, 0.25))


def test_the_keys_left_out_of_a_section_have_the_defaults_of_the_whole():
    """The optimisers of the two trainings start from other defaults."""
    settings = {"optimizer": {"b1": 0.5}}
    assert parse(settings).optimizer == dataclasses.replace(Config().optimizer, b1=0.5)
    assert parse(settings, PretrainConfig).optimizer == dataclasses.replace(PretrainConfig().optimizer, b1=0.5)
    assert Config().optimizer.decay != PretrainConfig().optimizer.decay


@pytest.mark.parametrize(("kind", "path", "hint"), keys())
def test_every_key_takes_its_type_and_no_other(kind: Any, path: str, hint: Any):
    good = {int: 3, float: 0.5, str: "a", bool: False, tuple[int, ...]: (1, 2), tuple[float, ...]: (0.5, 2.0)}
    good |= {tuple[str, ...]: ("a", "b"), dict[str, Any]: {"x": (1, 2)}, dict[str, dict[str, Any]]: {"x": {"y": "z"}}}
    bad = {int: 0.5, float: "0.5", str: 3, bool: 1, tuple[int, ...]: (0.5,), tuple[float, ...]: 0.5}
    bad |= {tuple[str, ...]: "ab", dict[str, Any]: 3, dict[str, dict[str, Any]]: {"x": 3}}
    kind_of_value = plain(hint)
    if words := literal_words(kind_of_value):
        good[kind_of_value], bad[kind_of_value] = words[0], 3
        with pytest.raises(ConfigError, match=f"^{path}='{words[0]}s': use one of .*did you mean '{words[0]}'"):
            parse(at(path, f"{words[0]}s"), kind)
    assert read(parse(at(path, good[kind_of_value]), kind), path) == good[kind_of_value]
    if typing.get_origin(hint) is not dict:  # a section by itself, whose keys are open
        assert annotation(kind, path, None) == hint
    with pytest.raises(ConfigError) as error:
        parse(at(path, bad[kind_of_value]), kind)
    message = str(error.value)
    assert message.startswith(path) and "expected" in message and "\n" not in message
    if accepts_none(hint):
        assert read(parse(at(path, None), kind), path) is None
    else:
        with pytest.raises(ConfigError, match=f"{path}=None: expected"):
            parse(at(path, None), kind)


@pytest.mark.parametrize(("kind", "path", "hint"), [key for key in keys() if plain(key[2]) in (int, float, bool)])
def test_integers_booleans_and_floats_are_not_mixed_up(kind: Any, path: str, hint: Any):
    if plain(hint) is float:
        value = read(parse(at(path, 2), kind), path)
        assert value == 2.0 and type(value) is float
    wrong = 1 if plain(hint) is bool else True
    with pytest.raises(ConfigError, match=f"{path}={wrong}: expected"):
        parse(at(path, wrong), kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(loss=dict(widhts=(1.0,))), "loss.widhts=(1.0,): there is no such key; did you mean loss.widths?"),
        (dict(los=dict(widths=(1.0,))), "los: there is no such key; did you mean loss?"),
        (
            dict(zzz=3),
            "zzz=3: there is no such key; known keys: model, loss, bank, guidance, features, data,",
        ),
        (dict(loss=3), "loss=3: expected a section of keys, not a value"),
        (dict(loss=dict(widths=("a",))), "loss.widths[0]='a': expected float, for example 0.2"),
        (dict(loss=dict(widths=0.3)), "loss.widths=0.3: expected a tuple of float, for example (0.3,)"),
        (dict(model=dict(patch_size="x")), "model.patch_size='x': expected int, for example 2"),
    ],
)
def test_a_mistake_is_one_line_of_key_value_and_remedy(settings: Any, message: str):
    with pytest.raises(ConfigError) as error:
        parse(settings)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_key_made_up_in_a_file_is_found():
    settings = train_config()
    settings.loss.widhts = (0.3,)
    with pytest.raises(ConfigError, match=r"loss\.widhts"):
        parse(settings)


def test_a_config_dict_knows_the_types():
    settings = train_config()
    settings.model.hidden_size = 32  # None by default, and still typed
    with pytest.raises(TypeError):
        settings.model.depth = "x"
    with pytest.raises(TypeError):
        settings.train.steps = 0.5
    assert parse(settings).model.hidden_size == 32


def test_annotation():
    assert annotation(Config, "model.cond_dim", 1) == int | None
    assert accepts_none(int | None) and not accepts_none(int)
    for path, words in {
        "loss.widhts": "loss.widhts=7: there is no such key; did you mean loss.widths?",
        "lss.widths": "lss: there is no such key; did you mean loss?",
        "loss": "loss=7: a section; set its keys, for example loss.objective=...",
        "loss.widths.x": "loss.widths.x=7: loss.widths is a setting and has no keys of its own",
    }.items():
        with pytest.raises(ConfigError) as error:
            annotation(Config, path, 7)
        assert str(error.value) == words


def test_messages():
    assert wrong_type("a.b", "x", int | None) == "a.b='x': expected int or None, for example 2"
    assert wrong_type("a.b", "x", tuple[int, ...]) == "a.b='x': expected a tuple of int, for example (2,)"
    assert unknown_key("a.b", {}, ["x", "y"]) == "a.b: there is no such key; known keys: x, y"


def test_command_of():
    assert command_of(to_dict(Config())) == "train" and command_of(to_dict(PretrainConfig())) == "pretrain"
    assert command_of(ConfigDict({"mae": {}})) == "pretrain"


def test_differences():
    old = {"a": {"x": 1, "y": (1, 2)}, "b": 3, "c": {"z": 1}}
    new = {"a": {"x": 2, "y": [1, 2]}, "b": None, "d": {"z": 1}}
    expected = {"a.x": (1, 2), "b": (3, None), "c.z": (1, None), "d.z": (None, 1)}
    assert differences(old, new) == expected
    assert differences(old, old) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_are_frozen(kind: Any):
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().data.prefetch = 3


@pytest.mark.parametrize("kind", KINDS)
def test_settings_show_what_differs_from_the_defaults(kind: Any):
    assert repr(kind()) == f"{kind.__name__}.of()"
    config = kind.of(data={"path": "x", "image_size": 8})
    assert repr(config) == f"{kind.__name__}.of(data={{'path': 'x', 'image_size': 8}})"
    assert eval(repr(config), {kind.__name__: kind}) == config
