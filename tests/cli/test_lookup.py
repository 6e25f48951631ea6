"""What can be looked up: the experiments, their settings, and what every setting means."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

import drifting
from drifting.assembly.names import check_settings, known_names
from drifting.cli.catalogue import experiment, experiments
from drifting.cli.commands import COMMANDS, main
from drifting.cli.explanations import explanation_of
from drifting.cli.overrides import value_of
from drifting.cli.settings import load_settings, parse_flags
from drifting.config.meanings import COMMAND_SETTINGS, option_sections, sections, study_sections, typed
from drifting.config.parse import annotation, parse
from drifting.config.registered import ENCODER_OPTIONS, REGISTERED_NAMES, SCORE_ENCODER_NAMES
from drifting.config.schema import to_dict
from drifting.config.shipped import CONFIGS, OTHER_NAMES, experiment_file, experiment_names
from drifting.data.sources import SOURCES, option_kinds
from drifting.errors import ConfigError
from drifting.method.encoders import ENCODERS
from drifting.scoring.image_features import SCORE_ENCODERS
from drifting.studies import STUDIES
from tests.support.runs import ROOT, TINY

SECTIONS = [
    *sections(known_names()).values(),
    *option_sections("features.options", {name: encoder.options for name, encoder in ENCODERS.items()}, ("train",)),
    *option_sections("data.options", option_kinds(), tuple(COMMAND_SETTINGS)),
]

STUDY_SECTIONS = study_sections({name: study.settings for name, study in STUDIES.items()})

SETTINGS = [setting for section in SECTIONS for setting in section.settings]

EXPERIMENTS = experiments()


def test_no_published_text_ends_within_a_bracket():
    texts = [text for found in EXPERIMENTS for text in (found.result, *found.variants.values())]
    assert len(texts) > 40 and not [text for text in texts if text.count("(") != text.count(")")]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


# --- the experiments --------------------------------------------------------------------------------------------------


def test_every_file_is_an_experiment_or_another_name_of_one():
    files = {str(path.relative_to(CONFIGS).with_suffix("")): path for path in CONFIGS.rglob("*.py")}
    others = {name for name, path in files.items() if any(said in path.read_text() for said in OTHER_NAMES)}
    assert {*experiment_names()} == {*files} - others and len(others) == 10
    assert [one.name for one in EXPERIMENTS] == experiment_names()


@pytest.mark.parametrize("one", EXPERIMENTS, ids=lambda one: one.name)
def test_a_header_has_the_form_that_the_listing_reads(one: Any):
    """Headline, command, what is published or measured, of each variant or of the whole, and how it is tried out."""
    assert 20 < len(one.headline) < 130 and one.command in COMMANDS
    assert f"configs/{one.name}.py" in one.example or one.command == "study diagnose"
    assert all(one.variants.values()) and (one.variants or one.result)
    assert one.has_tiny or one.command == "sweep"
    function = "get_sweep" if one.command == "sweep" else "get_config"
    assert f"def {function}" in (CONFIGS / f"{one.name}.py").read_text()


def test_the_listing_names_all_of_it(capsys: pytest.CaptureFixture[str]):
    out = printed(capsys, "configs")
    flat = " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 120
    for one in EXPERIMENTS:
        assert one.headline in flat and one.result in flat
        assert all(f":{name} {text}" in flat for name, text in one.variants.items())
    assert [dataclasses.asdict(one) for one in EXPERIMENTS] == json.loads(printed(capsys, "configs", "--json"))
    assert "8.46 with widths" in experiment("imagenet_ablation").variants["drift"]


def test_an_experiment_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    digits = CONFIGS / "digits.py"
    assert [experiment_file(name) for name in ("digits", "digits.py", "configs/digits.py")] == [digits] * 3
    assert experiment_file("sweeps/kernel_width") == CONFIGS / "sweeps" / "kernel_width.py"
    assert [experiment_file(name) for name in ("digit", "../drifting/errors", "data", "")] == [None] * 4
    (tmp_path / "digits.py").write_text("")
    assert experiment_file("digits.py") == Path("digits.py") and experiment_file("digits") == digits


# --- the settings of an experiment ------------------------------------------------------------------------------------

RESOLVED = [
    ("digits", []),
    ("digits:tiny", ["--config.loss.widths=0.3", "--config.model.cond_dim=None"]),
    ("imagenet_ablation:logkde_gauss", ["--config.features.encoders=mae,convnext", "--config.train.steps=1e3"]),
    ("mae_imagenet:pixel_640,tiny", ["--noconfig.mae.remat"]),
    ("data/imagenet", ["--config.cache.shard_size=7"]),
    ("studies/curl", ["--config.study.kernels=laplace"]),
    ("studies/diagnose", []),
]


@pytest.mark.parametrize(("given", "changes"), RESOLVED, ids=[given for given, _ in RESOLVED])
def test_the_settings_that_are_printed_can_be_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, given: str, changes: list[str]
):
    wanted = parse_flags("config", COMMANDS["config"], [given, *changes]).config.settings
    file = tmp_path / "printed.py"
    file.write_text(printed(capsys, "config", given, *changes))
    assert parse(load_settings(str(file)), type(wanted)) == wanted
    as_json = json.loads(printed(capsys, "config", given, *changes, "--json"))
    assert as_json == json.loads(json.dumps(to_dict(wanted)))


def test_what_differs_from_a_default_is_marked(capsys: pytest.CaptureFixture[str]):
    out = printed(capsys, "config", str(TINY), "--config.loss.labels=7")
    assert "    config.loss.labels = 7  # default 64\n" in out and "    config.loss.kernel = 'gaussian'\n" in out


def test_help_shows_the_values_of_the_file(capsys: pytest.CaptureFixture[str]):
    out = printed(capsys, "train", f"--config={TINY}", "--config.loss.labels=7", "--help")
    assert " hidden_size=16 " in out and " labels=7 " in out and "--coordinator=" in out
    for line in ("train --config=nowhere --help", "config nowhere --help", "config --help --config=nowhere"):
        assert main(line.split()) == 2
        assert capsys.readouterr().err.startswith("drifting: error: --config=nowhere: there is no such file")
    assert " hidden_size=16 " in printed(capsys, "config", str(TINY), "--help")
    assert "settings and their defaults:" in printed(capsys, "config", "--help")


# --- what settings mean -----------------------------------------------------------------------------------------------


def test_names_that_are_known_without_the_registries_are_theirs():
    assert REGISTERED_NAMES | {"data.name": tuple(SOURCES)} == known_names()
    options = {name: tuple(field.name for field in dataclasses.fields(one.options)) for name, one in ENCODERS.items()}
    assert options == ENCODER_OPTIONS and tuple(SCORE_ENCODERS) == SCORE_ENCODER_NAMES


def test_what_is_said_without_the_registries_is_the_same(capsys: pytest.CaptureFixture[str]):
    found = [*SECTIONS, *STUDY_SECTIONS]
    for topic in ("train", "mesh", "mae", "eval.alpha", "optimizer.b1", "loss.widths", "mae.layers", "model.depth"):
        out = printed(capsys, "help", topic)
        assert out.endswith(f"{explanation_of(topic, found)}\n")


def test_every_setting_says_what_it_means():
    """Also those that are to come: whoever adds one says so where it is defined."""
    kinds = {section: kind for of in COMMAND_SETTINGS.values() for section, kind in typing.get_type_hints(of).items()}
    keys = {f"{section}.{key}" for section, kind in kinds.items() for key in typing.get_type_hints(kind)}
    assert keys <= {setting.key for setting in SETTINGS}
    assert [setting.key for setting in SETTINGS if not 4 < len(setting.text) < 120 or "  " in setting.text] == []
    assert [section.name for section in SECTIONS if not section.text] == []


def test_every_setting_of_a_study_says_what_it_means(capsys: pytest.CaptureFixture[str]):
    """By its key, which several studies may have, and with the help of each study."""
    assert {section.name for section in STUDY_SECTIONS} == {name for name in COMMANDS if name.startswith("study ")}
    for section in STUDY_SECTIONS:
        below = " ".join(printed(capsys, "help", *section.name.split()).split())
        assert len(section.settings) > 4 and below.startswith("usage: drifting study ")
        for setting in section.settings:
            assert 4 < len(setting.text) < 120 and setting.text in below, setting
            alone = printed(capsys, "help", setting.key)
            of_study = alone.partition(f"{setting.key} of drifting {section.name}\n")[2]
            assert " ".join(of_study.split()).startswith(f"{setting.text} default {setting.default};"), alone


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_setting_is_explained_by_key_and_by_section(capsys: pytest.CaptureFixture[str], setting: Any):
    out = printed(capsys, "help", setting.key)
    assert out.startswith(f"{setting.key}\n") and max(map(len, out.splitlines())) <= 120
    flat = " ".join(out.split())
    assert setting.text in flat and f"default {setting.default};" in flat
    assert not setting.words or f"one of {', '.join(setting.words)}" in flat
    section, _, name = setting.key.rpartition(".")
    below = printed(capsys, "help", section)
    assert f"\n  {name} " in below and setting.text in " ".join(below.split())
    if name not in COMMANDS and name not in {section.name for section in SECTIONS}:
        assert setting.key in printed(capsys, "help", name)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.key.count(".") == 1], ids=lambda setting: setting.key)
def test_a_default_is_shown_as_it_is_typed(setting: Any):
    for command, default in setting.defaults.items():
        if not isinstance(default, dict):
            hint = annotation(COMMAND_SETTINGS[command], setting.key, None)
            assert value_of(setting.key, typed(default), hint) == default


WORDS = [setting for setting in SETTINGS if setting.words and setting.key.count(".") == 1]


@pytest.mark.parametrize("setting", WORDS, ids=lambda setting: setting.key)
def test_the_choices_are_those_that_are_taken(setting: Any):
    """A wrong word is answered with the same list."""
    section, _, key = setting.key.partition(".")
    command, default = next(iter(setting.defaults.items()))
    wrong: Any = ("nope",) if isinstance(default, tuple) else "nope"
    with pytest.raises(ConfigError, match=rf"^{setting.key}='nope': use one of {', '.join(setting.words)}( .*)?$"):
        model = {"hidden_size": 8, "depth": 1, "num_heads": 1} if section != "model" else {}
        check_settings(parse({"model": model, section: {key: wrong}} if command == "train" else {section: {key: wrong}},
                             COMMAND_SETTINGS[command]))  # fmt: skip


def test_the_page_of_settings_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == printed(capsys, "help", "--markdown"), "run: python -m scripts.reference_pages"
    assert all(f"| `{setting.key}` |" in page for setting in SETTINGS)


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]):
    for name in COMMANDS:
        if name != "help":
            assert printed(capsys, "help", *name.split()).startswith(printed(capsys, *name.split(), "--help"))
    assert "\ntrain: The loop" in printed(capsys, "help", "train")
    assert printed(capsys, "help") == printed(capsys, "--help")
    assert "drifting study NAME --help" in printed(capsys, "help", "study")


@pytest.mark.parametrize(
    ("topic", "close"),
    [("loss.objectiv", "loss.objective"), ("objectve", "loss.objective"), ("los", "loss"), ("zzz", ""),
     ("neighbors", "loss.neighbours"), ("mae.weight", "features.options.mae.weights"),
     ("features.mae.weigths", "features.options.mae.weights"), ("features.options.dinov", "features.options.dinov2"),
     ("data.parquet.lable", "data.options.parquet.label"), ("study.kernls", "study.kernels"),
     ("evalute", "evaluate"), ("smaple", "sample")],
)  # fmt: skip
def test_what_there_is_no_help_for(capsys: pytest.CaptureFixture[str], topic: str, close: str):
    assert main(["help", topic]) == 2
    meant = f"did you mean {close}? " if close else ""
    error = capsys.readouterr().err
    lists = "`drifting help` lists the commands, `drifting help --markdown` all settings"
    assert error == f"drifting: error: {topic}: there is no such command, section or setting; {meant}{lists}\n"


def test_the_version(capsys: pytest.CaptureFixture[str]):
    assert printed(capsys, "--version") == f"drifting {drifting.__version__}\n"
