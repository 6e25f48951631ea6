"""Checkpoints hold the whole state, appear whole or not at all, and can be read while the run goes on."""

import asyncio
import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.config.schema import CacheBuild, Config, MAEConfig, OptimizerConfig, PretrainConfig, RunConfig, to_dict
from drifting.errors import CheckpointError, ConfigError, InputError
from drifting.method import bank
from drifting.method.optimizer import make_optimizer
from drifting.method.pool import Banks
from drifting.method.state import TrainState, make_state
from drifting.runs import checkpoints as module
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import check_config, read_config, write_config
from drifting.runs.files import sha256
from tests.support.runs import tree

RUN = {"identity": {"data": "x", "shape": [2, 2, 1]}, "data": {"position": 3}}


def small_state(seed: int = 0, neighbour_scale: Any = None) -> TrainState:
    optimizer = make_optimizer(lambda step: 1e-3, b1=0.9, b2=0.99, weight_decay=0.0, clip_norm=1.0)
    params = {"a": {"kernel": jax.random.normal(jax.random.key(seed), (3, 4))}, "b": jnp.arange(5.0) + seed}
    images = jax.random.normal(jax.random.key(seed), (7, 2, 2, 1))
    labels = jnp.asarray([0, 1, 2, 0, 0, 0, 0])
    by_class = bank.push(bank.empty_bank(3, 4, (2, 2, 1)), images, labels, jnp.arange(7))
    banks = Banks(by_class, bank.empty_bank(1, 5, (2, 2, 1), jnp.bfloat16))
    return make_state(params, optimizer, ema_decays=(0.9, 0.999), banks=banks, neighbour_scale=neighbour_scale)


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def save(workdir: Path, *steps: int, keep: int = 1) -> None:
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(step, small_state(step), RUN | {"step": step})
    checkpoints.close()


@pytest.mark.parametrize("scale", [None, jnp.ones(3)], ids=["", "neighbour_scale"])
def test_the_whole_state_comes_back(tmp_path: Path, scale: Any):
    state = small_state(1, scale)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, state, RUN)
    checkpoints.wait()
    restored = checkpoints.restore(5, abstract(jax.eval_shape(lambda: small_state(0, scale))))
    assert_same(jax.device_get(restored), jax.device_get(state))
    assert checkpoints.read_run(5) == RUN and checkpoints.latest() == 5
    checkpoints.close()


def test_saving_goes_on_in_the_background_of_donated_steps(tmp_path: Path):
    """The buffers of a state that is being saved are donated to the next steps at once, and the file holds the old."""
    advance = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    state = {"big": jnp.zeros((500, 1000)), "small": jnp.zeros(3)}
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(1, 4):
        state = advance(state)
        checkpoints.save(step, state, RUN)
    for _ in range(20):
        state = advance(state)
    checkpoints.wait()
    for step in range(1, 4):
        for array in jax.tree.leaves(jax.device_get(checkpoints.restore(step, abstract(state)))):
            np.testing.assert_array_equal(array, step)
    checkpoints.close()


def test_a_part_without_the_rest(tmp_path: Path):
    save(tmp_path, 2)
    state = small_state(2)
    target = {"0.999": abstract(jax.eval_shape(lambda: small_state().params))}
    part = Checkpoints(tmp_path).restore_part(2, "ema", target)
    assert set(part) == {"0.999"}
    assert_same(jax.device_get(part["0.999"]), jax.device_get(state.ema["0.999"]))


def test_only_the_latest_are_kept(tmp_path: Path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    assert Checkpoints(tmp_path).latest() == 4


def test_nothing_yet(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.latest() is None
    checkpoints.wait()
    checkpoints.close()
    assert not (tmp_path / "new").exists()


def test_looking_at_a_run_changes_nothing(tmp_path: Path):
    """A run that is going on writes to temporary folders, which a reader must not take for leftovers."""
    save(tmp_path, 4)
    shutil.copytree(tmp_path / "checkpoints" / "4", tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp")
    before = tree(tmp_path)
    reader = Checkpoints(tmp_path)
    assert reader.latest() == 4
    reader.read_run(4)
    reader.restore(4, abstract(jax.eval_shape(small_state)))
    reader.restore_part(4, "ema", {"0.9": abstract(jax.eval_shape(lambda: small_state().params))})
    reader.close()
    assert tree(tmp_path) == before


def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path: Path):
    save(tmp_path, 4)
    leftover = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "4", leftover)
    save(tmp_path, 8)
    assert not leftover.exists() and Checkpoints(tmp_path).read_run(8)["step"] == 8


def test_a_removal_that_was_cut_short_does_no_harm(tmp_path: Path):
    """Old checkpoints are removed file by file: what a kill leaves of one must not hinder the newer ones."""
    save(tmp_path, 4, 8, keep=2)
    shutil.rmtree(tmp_path / "checkpoints" / "4" / "state")
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").unlink()
    assert Checkpoints(tmp_path).latest() == 8
    save(tmp_path, 12, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "8"]


@pytest.mark.parametrize("target", [{"b": jnp.zeros(3)}, {"a": jnp.zeros(4)}, {}], ids=["tree", "shape", "empty"])
def test_a_checkpoint_of_another_model_is_one_clear_line(tmp_path: Path, target: Any):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, {"a": jnp.zeros(3)}, RUN)
    checkpoints.close()
    assert_not_blamed(tmp_path, 4, abstract(target))


@pytest.mark.parametrize("before", ["", "before", "damaged before"])
@pytest.mark.parametrize(
    ("name", "left"),
    [("data", None), ("data", 0.5), ("manifest.ocdbt", None), ("manifest.ocdbt", 0.5), ("_METADATA", 0.5)],
)
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, name: str, left: float | None, before: str):
    """A file of it is missing, or only its first half is there. The one before is spoken of where it can be used."""
    state = {"a": jax.random.normal(jax.random.key(0), (300, 400))}
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        for step in (2, 4) if before else (4,):
            checkpoints.save(step, state, RUN)
    if before == "damaged before":
        data_file(tmp_path, 2).unlink()
    folder = tmp_path / "checkpoints" / "4" / "state"
    largest = max(folder.rglob("*/d/*"), key=lambda path: path.stat().st_size)
    file = largest if name == "data" else folder / name
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[: int(len(content) * left)])
    assert_damage(tmp_path, 4, abstract(state), there_is_one_before=before == "before")


def assert_damage(workdir: Path, step: int, target: Any, *, there_is_one_before: bool) -> None:
    kept = tree(workdir)
    with pytest.raises(InputError, match=rf"/checkpoints/{step}/\S+: is damaged or missing; .") as error:
        Checkpoints(workdir).restore(step, target)
    line = str(error.value)
    if there_is_one_before:
        assert line.endswith(f"remove {workdir / 'checkpoints' / str(step)} to use the one before")
    else:
        assert "remove" not in line and "before" not in line
    assert "\n" not in line and tree(workdir) == kept


def assert_not_blamed(workdir: Path, step: int, target: Any, said: str = "", sealed: bool = True) -> None:
    """A checkpoint that nothing calls damaged is not called so, and no advice costs it."""
    kept = tree(workdir)
    with pytest.raises(CheckpointError, match=rf"/checkpoints/{step}: cannot be restored \(") as error:
        Checkpoints(workdir).restore(step, target)
    line = str(error.value)
    files = "its files are as they were written" if sealed else "no seal tells of damage"
    assert said in line and f"; {files}, and nothing was changed: " in line and "\n" not in line
    assert not re.search("remove|delete|move|before|is damaged", line) and tree(workdir) == kept


RAISED = (
    RuntimeError("Unable to cast Python instance"), ValueError("a\nb"), KeyError("x"), TypeError(), Exception("bare"),
    FileNotFoundError(2, "No such file or directory"), AssertionError(), NotImplementedError("x"), RecursionError(),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), ExceptionGroup("several", [OSError("x")]),
    StopIteration(), json.JSONDecodeError("x", "", 0), EOFError(), ImportError("x"), AttributeError("x"),
)  # fmt: skip
"""What libraries may raise, foreseen or not."""


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    save(folder, 4, 8, keep=2)
    return folder


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_restore_raises_only_the_seal_tells_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_checkpoints: Path, raised: Exception
):
    workdir, target = tmp_path / "run", abstract(jax.eval_shape(small_state))
    shutil.copytree(two_checkpoints, workdir)

    def fail(*_: Any, **__: Any) -> Any:
        raise raised

    monkeypatch.setattr(module.ocp.Checkpointer, "restore", fail)
    for step in (4, 8):
        assert_not_blamed(workdir, step, target, type(raised).__name__)
    for seal, content in ((workdir / "seals" / "8.json", "{"), (workdir / "seals" / "8.json", None)):
        seal.write_text(content) if content else seal.unlink()
        assert_not_blamed(workdir, 8, target, type(raised).__name__, sealed=False)
    shutil.copy(two_checkpoints / "seals" / "8.json", workdir / "seals")
    data_file(workdir, 8).write_bytes(b"other")
    assert_damage(workdir, 8, target, there_is_one_before=True)
    data_file(workdir, 4).write_bytes(b"other")
    assert_damage(workdir, 4, target, there_is_one_before=False)


@pytest.mark.parametrize(
    "behind", [KeyboardInterrupt(), asyncio.CancelledError()], ids=lambda error: type(error).__name__
)
def test_ctrl_c_in_a_restore_is_no_fault_of_the_checkpoint(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, behind: BaseException
):
    def fail(*_: Any, **__: Any) -> Any:
        try:
            raise behind
        except BaseException as error:
            raise Exception("Encountered error while reading") from error

    monkeypatch.setattr(module.ocp.Checkpointer, "restore", fail)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(two_checkpoints).restore(8, abstract(jax.eval_shape(small_state)))


NO_UTF_8 = "its path is no UTF-8, as checkpoints need; rename it"


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, NO_UTF_8) for name in (b"x\xff", b"\x80", b"a\xc3")]
    + [(name, "no checkpoint can be kept in .*; rename it") for name in (b"\\", b"a\\", b"\\a", b"a\\b", b"x.__lock")],
)
def test_a_path_that_holds_no_checkpoints_is_said_by_whoever_writes_and_reads(tmp_path: Path, name: bytes, words: str):
    for workdir in (tmp_path / os.fsdecode(name) / "run", tmp_path / os.fsdecode(name)):
        for user in (Checkpoints, lambda place: check_config(place, Config())):
            with pytest.raises(ConfigError, match=f"{words}$"):
                user(workdir)
        if words != NO_UTF_8:
            check_config(workdir, CacheBuild())  # a cache has no checkpoints


@pytest.mark.parametrize(
    "name", ["a b", "a?b#c", "a%20b", "a\nb", "{x}", "é", "it's", "a:b", "a|b", "*", "..", "x__lock", "..a"]
)
def test_any_other_path_holds_checkpoints(tmp_path: Path, two_checkpoints: Path, name: str):
    (tmp_path / "below").mkdir()
    workdir = tmp_path / "below" / name / "run"
    shutil.copytree(two_checkpoints, workdir)
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest_intact()
    assert step == 8
    assert_same(
        jax.device_get(checkpoints.restore(step, abstract(jax.eval_shape(small_state)))), jax.device_get(small_state(8))
    )


# --- config.json ------------------------------------------------------------------------------------------------------


def test_a_config_comes_back(tmp_path: Path):
    for config in (Config(), PretrainConfig(mae=MAEConfig(layers=(1, 2)))):
        write_config(tmp_path / "new" / "run", config)
        assert read_config(tmp_path / "new" / "run", type(config)) == config
        check_config(tmp_path / "new" / "run", config)
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["config.json"]


def test_keys_younger_than_the_run_have_their_defaults(tmp_path: Path):
    write_config(tmp_path, Config())
    settings = to_dict(Config())
    del settings["loss"]["neighbour_decay"], settings["guidance"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_config(tmp_path) == Config()
    check_config(tmp_path, Config())


RESUMED = dict(steps=7, log_every=7, sample_every=7, checkpoint_every=7, keep_checkpoints=7, tensorboard=False)


def begin(workdir: Path, config: Config | PretrainConfig) -> None:
    """A run of these settings that has done a step."""
    write_config(workdir, config)
    (workdir / "metrics.jsonl").write_text('{"step": 1}\n')


def test_what_may_change_on_resuming(tmp_path: Path):
    config = Config()
    begin(tmp_path, config)
    changed = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, **RESUMED),
        data=dataclasses.replace(config.data, path="moved", prefetch=0),
        features=dataclasses.replace(config.features, options={"mae": {"weights": "moved"}}),
        eval=dataclasses.replace(config.eval, alpha=2.0, batch_size=7),
    )
    check_config(tmp_path, changed)


def test_a_name_that_begins_like_one_that_may_change_is_another(tmp_path: Path):
    config = Config()
    begin(tmp_path, config)
    for key in ("size", "dtype", "weights_dtype"):
        other = dataclasses.replace(config.features, options={"mae": {key: 64}})
        with pytest.raises(ConfigError, match=r"features\.options\S* was "):
            check_config(tmp_path, dataclasses.replace(config, features=other))


def test_all_that_differs_is_listed(tmp_path: Path):
    config = Config()
    begin(tmp_path, config)
    other = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, widths=(0.1, 0.2)),
        train=dataclasses.replace(config.train, seed=3, steps=7),
    )
    with pytest.raises(ConfigError) as error:
        check_config(tmp_path, other)
    listed = "(loss.widths was (0.4,), is (0.1, 0.2); train.seed was 0, is 3)"
    assert listed in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(optimizer=OptimizerConfig(decay="cosine")),
        PretrainConfig(MAEConfig(lambda_cls=0.5), optimizer=OptimizerConfig()),
    ],
)
def test_the_end_of_a_schedule_may_not_move(tmp_path: Path, config: Any):
    begin(tmp_path, config)
    with pytest.raises(ConfigError, match=r"train\.steps was 30000, is 40000"):
        check_config(tmp_path, dataclasses.replace(config, train=dataclasses.replace(config.train, steps=40_000)))


def test_folders_that_hold_no_such_run(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path, tmp_path / "nowhere", file):
        with pytest.raises(ConfigError, match=r"holds no run \(no config\.json\)"):
            read_config(path)
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        check_config(file, Config())
    with pytest.raises(ConfigError, match="cannot be written"):
        write_config(file / "below", Config())
    check_config(tmp_path, Config())
    check_config(tmp_path / "nowhere", Config())


def test_a_run_of_the_other_command(tmp_path: Path):
    begin(tmp_path, PretrainConfig(train=RunConfig()))
    for call in (lambda: read_config(tmp_path), lambda: check_config(tmp_path, Config())):
        with pytest.raises(ConfigError, match="holds a run of `drifting pretrain`; give one of `drifting train`"):
            call()


@pytest.mark.parametrize("text", ["{", "[1]", '{"loss": {"widhts": [1.0]}}', '{"loss": 3}'])
def test_a_damaged_config(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"config\.json(: cannot be read| is of another version) \(.+\)|holds no JSON object"
    ):
        read_config(tmp_path)


# --- what disks do ----------------------------------------------------------------------------------------------------


def data_file(workdir: Path, step: int) -> Path:
    """The largest file of a checkpoint's state."""
    folder = workdir / "checkpoints" / str(step) / "state"
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("how", ["byte", "truncated", "missing"])
def test_the_one_before_is_used_where_the_newest_is_damaged(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path, 4, 8, keep=2)
    file = data_file(tmp_path, 8)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if how == "truncated" else content)
    if how == "missing":
        file.unlink()
    before = tree(tmp_path)
    with caplog.at_level(logging.WARNING, "drifting"):
        assert Checkpoints(tmp_path, keep=2).latest_intact() == 4
    assert re.search(r"checkpoints/8/state/\S+: is damaged or missing; using the checkpoint before it", caplog.text)
    assert tree(tmp_path) == before  # looking changes nothing
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.set_aside(4)
    checkpoints.save(8, small_state(8), RUN | {"step": 8})
    checkpoints.close()
    assert Checkpoints(tmp_path).latest_intact() == 8 and Checkpoints(tmp_path).read_run(8)["step"] == 8
    assert (tmp_path / "damaged" / "8").is_dir()


def test_seals_are_kept_for_what_is_kept(tmp_path: Path):
    save(tmp_path, 4, 8, 12, keep=2)
    assert sorted(path.stem for path in (tmp_path / "seals").iterdir()) == ["12", "8"]
    (tmp_path / "seals" / "12.json").unlink()  # as a kill right after the writing leaves it
    assert Checkpoints(tmp_path).latest_intact() == 12 and not Checkpoints(tmp_path).sealed(12)
    (tmp_path / "seals" / "12.json").write_text('{"state/d/0": null}')  # a seal that could not be made whole is none
    assert Checkpoints(tmp_path).latest_intact() == 12 and not Checkpoints(tmp_path).sealed(12)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\0" * 40, b'{"state/d/0": 3}', b"\xff"])
def test_a_damaged_seal_is_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes):
    """It was written whole; a checkpoint that cannot be compared with it is passed over, and left where it is."""
    save(tmp_path, 8, 12, keep=2)
    seal = tmp_path / "seals" / "12.json"
    seal.write_bytes(content)
    before = tree(tmp_path)
    assert Checkpoints(tmp_path).latest_intact() == 8 and tree(tmp_path) == before
    (warned,) = (record.getMessage() for record in caplog.records)
    assert re.search(rf"^{seal}: .*; remove it to use the checkpoint without; using the checkpoint before it$", warned)
    (tmp_path / "seals" / "8.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"^{seal}: .*remove it .*no other checkpoint is intact"):
        Checkpoints(tmp_path).latest_intact()


def test_a_missing_seal_is_told_to_every_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path, 4)
    assert Checkpoints(tmp_path).latest_intact() == 4 and not caplog.records
    (tmp_path / "seals" / "4.json").unlink()
    assert Checkpoints(tmp_path).latest_intact() == 4
    (warned,) = (record.getMessage() for record in caplog.records)
    assert re.search(r"checkpoints/4: has no seal in \S+/seals, so damage in it would not be noticed$", warned)


def test_asking_for_the_newest_reads_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every byte is hashed once, before a state is restored, and not for a message that names the step."""
    save(tmp_path, 4, 8, keep=2)
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr(module, "sha256", counted)
    assert Checkpoints(tmp_path).latest() == 8 and not read
    assert Checkpoints(tmp_path).latest_intact() == 8 and read and len(set(read)) == len(read)


def test_a_checkpoint_is_sealed_as_soon_as_it_is_there(tmp_path: Path):
    """Not when the next one is saved: what is newest is what a run goes on from."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, small_state(3), RUN)
    limit = time.monotonic() + 60
    while not checkpoints.sealed(3):
        checkpoints.attend()
        assert time.monotonic() < limit
        time.sleep(0.01)
    data = max((tmp_path / "checkpoints" / "3").rglob("d/*"), key=lambda path: path.stat().st_size)
    changed = bytearray(data.read_bytes())
    changed[len(changed) // 2] ^= 1
    data.write_bytes(changed)
    checkpoints.close()
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"/3/\S+: is damaged or missing, and no other checkpoint is intact: restore"):
        Checkpoints(tmp_path).latest_intact()  # not None, with which a run would begin anew
    assert tree(tmp_path) == before


def test_a_full_disk_is_one_line_and_leaves_what_there_was(tmp_path: Path):
    """A file system of two megabytes, which needs the right to mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        state = {"a": jax.random.normal(jax.random.key(0), (200_000,))}
        checkpoints = Checkpoints(small, keep=5)
        checkpoints.save(1, state, RUN)
        with pytest.raises(CheckpointError) as error:
            for step in range(2, 9):
                checkpoints.save(step, state, RUN | {"step": step})
        assert "\n" not in str(error.value)
        message = (
            r"small/checkpoints: .*\(no space is left on the disk\); that after step (\d+) is safe; make room and run"
        )
        found = re.search(message, str(error.value))
        assert found and Checkpoints(small).latest_intact() == int(found[1])
        restored = Checkpoints(small).restore(int(found[1]), abstract(state))
        np.testing.assert_array_equal(restored["a"], state["a"])
        checkpoints.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize("copied", [(), ("run",), ("state",)])
def test_a_folder_that_was_not_copied_whole_is_passed_over(
    tmp_path: Path, copied: tuple[str, ...], caplog: pytest.LogCaptureFixture
):
    save(tmp_path, 4)
    folder = tmp_path / "checkpoints" / "8"
    folder.mkdir()
    for name in copied:
        shutil.copytree(folder.parent / "4" / name, folder / name)
    before = tree(tmp_path)
    assert Checkpoints(tmp_path).latest_intact() == 4 and tree(tmp_path) == before
    (warned,) = (record.getMessage() for record in caplog.records)
    assert re.search(r"checkpoints/8/(run|state): is missing; using the checkpoint before it$", warned)
    shutil.rmtree(folder.parent / "4")
    with pytest.raises(InputError, match=r"checkpoints/8/(run|state): is missing, and no other checkpoint is intact"):
        Checkpoints(tmp_path).latest_intact()


def test_checkpoints_that_are_gone_are_missed(tmp_path: Path):
    assert Checkpoints(tmp_path).lost() is None
    save(tmp_path, 4)
    assert Checkpoints(tmp_path).lost() is None
    (tmp_path / "checkpoints" / "4").rename(tmp_path / "checkpoints" / "four")
    assert Checkpoints(tmp_path).lost() == 4
    shutil.rmtree(tmp_path / "checkpoints")
    assert Checkpoints(tmp_path).lost() == 4
