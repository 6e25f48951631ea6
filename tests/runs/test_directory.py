"""The folder of a run: for every setting there is, whether it may change when the run goes on."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from drifting.config.parse import parse
from drifting.config.schema import CacheBuild, Config, PretrainConfig, to_dict
from drifting.config.sections import inner_type, literal_words
from drifting.errors import ConfigError
from drifting.runs.directory import check_config, is_resumable, write_config

MAY_CHANGE = {
    "train": "steps micro_batch log_every sample_every checkpoint_every keep_checkpoints stuck_after tensorboard "
    "profile wandb_project wandb_entity wandb_group wandb_tags",
    "data": "path prefetch workers vae verify",
    "loss": "kernel_backend",
    "mesh": "data fsdp",
    "eval": "alpha num_samples batch_size seed ema_decay neighbours reference real_images encoder every every_samples "
    "diagnose",
    "cache": "max_bad workers",
}
"""Settings that do not alter what has been computed. Each other one, of every section, makes another run."""


def settings() -> list[tuple[Any, str]]:
    """Every setting of every kind of run, by its dotted key."""
    found = []
    for kind in (Config, PretrainConfig, CacheBuild):
        for section, section_kind in typing.get_type_hints(kind).items():
            found += [(kind, f"{section}.{field.name}") for field in dataclasses.fields(section_kind)]
    return found


def changed(kind: Any, path: str) -> dict[str, Any]:
    """The settings of `kind` with one of them changed to some value of its type."""
    section, _, key = path.partition(".")
    everything = to_dict(kind())
    was = everything[section][key]
    annotated = typing.get_type_hints(typing.get_type_hints(kind)[section])[key]
    hint = inner_type(annotated)
    values: dict[Any, list[Any]] = {int: [3, 4], float: [0.25, 0.75], str: ["a", "b"], bool: [True, False]}
    values |= {tuple[int, ...]: [(1,), (2,)], tuple[float, ...]: [(0.25,), (0.5,)], tuple[str, ...]: [("a",), ("b",)]}
    values |= {dict[str, Any]: [{"a": 1}], dict[str, dict[str, Any]]: [{"a": {"size": 1}}]}
    everything[section][key] = next(value for value in literal_words(annotated) or values[hint] if value != was)
    return everything


def begin(folder: Path, config: Any) -> None:
    """A run of these settings that has done a step."""
    write_config(folder, config)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')


def test_a_folder_without_a_step_done_takes_other_settings(tmp_path: Path):
    """One that was stopped while it compiled, say. The files of a cache are there before it has a last one."""
    write_config(tmp_path, Config())
    other = Config.of(loss={"labels": 5})
    for trace in ("", "checkpoints", "metrics.jsonl"):
        (tmp_path / trace).mkdir(exist_ok=True) if trace != "metrics.jsonl" else (tmp_path / trace).touch()
        check_config(tmp_path, other)
    (tmp_path / "checkpoints" / "10").mkdir()
    with pytest.raises(ConfigError, match=r"other settings \(loss\.labels was 64, is 5\)"):
        check_config(tmp_path, other)
    begin(tmp_path / "pretrain", PretrainConfig())
    with pytest.raises(ConfigError, match=r"with optimizer\.decay=constant train\.steps could grow"):
        check_config(tmp_path / "pretrain", PretrainConfig.of(train={"steps": 7}))
    write_config(tmp_path / "cache", CacheBuild())
    with pytest.raises(ConfigError, match=r"other settings \(cache\.flip"):
        check_config(tmp_path / "cache", CacheBuild.of(cache={"flip": False}))


def test_a_rate_that_falls_at_the_end_lets_a_run_grow_until_then(tmp_path: Path):
    """The rate of steps 0 to 79 is the same whether there are 100 or 120, that of the step after 80 is not."""
    falling = dict(decay="wsd", decay_steps=20, warmup_steps=10)

    def of(steps: int) -> Config:
        return Config.of(optimizer=falling, train={"steps": steps})

    begin(tmp_path, of(100))
    for step, grows in ((40, True), (80, True), (81, False)):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        if grows:
            check_config(tmp_path, of(120))
            continue
        with pytest.raises(ConfigError, match=r"train\.steps was 100, is 120\); .*with wsd until the rate falls"):
            check_config(tmp_path, of(120))
    with pytest.raises(ConfigError, match=r"train\.steps was 100, is 90"):
        check_config(tmp_path, of(90))


@pytest.mark.parametrize(("kind", "path"), settings(), ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_every_setting_is_listed_as_resumable_or_refused(kind: Any, path: str, tmp_path: Path):
    section, _, key = path.partition(".")
    begin(tmp_path, kind())
    other = parse(changed(kind, path), kind)
    if key in MAY_CHANGE.get(section, "").split():
        check_config(tmp_path, other) if path != "train.steps" or kind is Config else None
        return
    with pytest.raises(ConfigError, match=rf"other settings \({path}"):
        check_config(tmp_path, other)


def test_where_the_weights_of_any_encoder_lie_may_change_and_nothing_else_about_it(tmp_path: Path):
    def options(**mae: Any) -> Config:
        return Config.of(features={"options": {"mae": {"weights": "here", "size": 32, **mae}, "own": {"depth": 2}}})

    begin(tmp_path, options())
    check_config(tmp_path, options(weights="there"))
    for name, value in {"size": 64, "dtype": "bfloat16", "weights_size": 3}.items():
        with pytest.raises(ConfigError, match=rf"features\.options\.mae\.{name} was"):
            check_config(tmp_path, options(**{name: value}))


@pytest.mark.parametrize(
    "key", ["features.mae_size", "features.options.mae.size", "train.steps_more", "data.vae_dtype"]
)
def test_a_key_that_begins_like_a_resumable_one_is_not_resumable(key: str):
    assert not is_resumable(key)
