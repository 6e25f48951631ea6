"""What commands have compiled is kept in the user's cache folder, within bounds, and nowhere that cannot be."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from drifting.cli.compiled import COMPILED_BYTES, compiled_folder, keep_compiled
from tests.support.runs import TINY

COUNT = """
import json, sys
import drifting.cli.commands as commands
assert "jax" not in sys.modules
arguments = json.loads(sys.argv[1])
counts = []
for workdir in arguments.pop("workdirs"):
    counts.append({"hits": 0, "misses": 0})
    if len(counts) == 1:
        commands.keep_compiled()
        import jax
        def listen(event, **_):
            for name in counts[-1]:
                counts[-1][name] += event == f"/jax/compilation_cache/cache_{name}"
        jax.monitoring.register_event_listener(listen)
    else:
        jax.clear_caches()
    assert commands.main(["train", f"--workdir={workdir}", *arguments["flags"]]) == 0
print(json.dumps(counts))
"""
"""Trains in several folders in one process that forgets what it has compiled in between, as a second start does."""


def count(folder: Path, **environment: str) -> list[dict[str, int]]:
    flags = [f"--config={TINY}", "--config.train.steps=1", "--config.train.sample_every=0", "--config.model.name=mlp"]
    flags += ["--config.model.num_heads=None", "--config.model.depth=2", "--config.train.log_every=1"]
    arguments = {"workdirs": [str(folder / "a"), str(folder / "b")], "flags": flags}
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps(arguments)],
        capture_output=True, text=True, check=False, timeout=300, env=inherited | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found: list[dict[str, int]] = json.loads(done.stdout)
    return found


def test_the_second_start_compiles_nothing(tmp_path: Path):
    home = tmp_path / "cache"
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # so that the smallest programs count, too
    first, second = count(tmp_path, XDG_CACHE_HOME=str(home), **every)
    assert first["misses"] > 2 and second["misses"] == 0 and second["hits"] >= first["misses"] / 2
    (kept,) = (home / "drifting" / "compiled").iterdir()
    assert len(list(kept.glob("*-cache"))) >= first["misses"] / 2


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A user without settings of JAX's cache, whose cache folder is of the test."""
    for name in [name for name in os.environ if "CACHE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return monkeypatch


def changes() -> dict[str, str]:
    """What `keep_compiled` adds to the environment."""
    before = dict(os.environ)
    keep_compiled()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def forget(environment: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("JAX_") and "CACHE" in name]:
        environment.delenv(name)


def test_where_and_how_much_is_kept(environment: pytest.MonkeyPatch, tmp_path: Path):
    found = changes()
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(compiled_folder()) and compiled_folder().is_dir()
    assert int(found["JAX_COMPILATION_CACHE_MAX_SIZE"]) == COMPILED_BYTES > 0
    assert compiled_folder().is_relative_to(tmp_path / "cache" / "drifting")
    forget(environment)
    environment.delenv("XDG_CACHE_HOME")
    environment.setenv("HOME", str(tmp_path / "home"))
    assert changes()["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "home" / ".cache" / "drifting"))
    forget(environment)


@pytest.mark.parametrize("setting", [("JAX_COMPILATION_CACHE_DIR", "mine"), ("JAX_ENABLE_COMPILATION_CACHE", "false")])
def test_what_the_user_says_stays(environment: pytest.MonkeyPatch, tmp_path: Path, setting: tuple[str, str]):
    environment.setenv(*setting)
    assert changes() == {} and not (tmp_path / "cache").exists()


COMPILE = """
import sys
from drifting.cli.compiled import keep_compiled
keep_compiled()
import jax
def double(x):
    return 2 * x
def triple(x):
    return 3 * x
for name in sys.argv[1:]:
    jax.jit(globals()[name])(1.0)
"""


def test_what_a_crash_left_of_a_program_is_kept_anew(tmp_path: Path):
    """One file of two, or half of one: JAX would keep no further program, or compile that one at each start."""
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XDG_CACHE_HOME": str(tmp_path)}
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}

    def compile_in_a_process(*names: str) -> dict[str, Path]:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, *names],
            capture_output=True, text=True, check=True, timeout=60, env=inherited | settings,
        )  # fmt: skip
        assert done.stderr == ""
        (folder,) = (tmp_path / "drifting" / "compiled").iterdir()
        return {f"{path.name.partition('-')[0]}-{path.name[-5:]}": path for path in folder.glob("*-?????")}

    kept = compile_in_a_process("double")
    assert set(kept) == {"jit_double-cache", "jit_double-atime"}
    whole = kept["jit_double-cache"].read_bytes()
    kept["jit_double-atime"].unlink()
    kept = compile_in_a_process("triple")
    assert set(kept) == {"jit_triple-cache", "jit_triple-atime"}
    kept = compile_in_a_process("double")
    assert len(kept) == 4
    kept["jit_double-cache"].write_bytes(whole[: len(whole) // 2])
    kept["jit_triple-cache"].unlink()
    kept = compile_in_a_process("double")
    assert set(kept) == {"jit_double-cache", "jit_double-atime"}
    assert len(kept["jit_double-cache"].read_bytes()) == len(whole)


def test_half_a_program_stays_while_another_process_may_be_writing_it(environment: pytest.MonkeyPatch, tmp_path: Path):
    changes()
    forget(environment)
    half = compiled_folder() / "jit_f-0-cache"
    half.write_bytes(b"0")
    with FileLock(compiled_folder() / ".lockfile"):
        changes()
        assert half.exists()
    forget(environment)
    changes()
    assert not half.exists()


UNUSABLE = """
import json, os, sys, warnings
from drifting.cli.compiled import keep_compiled
shown = warnings.showwarning
for round, (place, most) in enumerate(json.loads(sys.argv[1])):
    os.environ["JAX_COMPILATION_CACHE_DIR"], warnings.showwarning = place, shown
    print(place, file=sys.stderr)
    keep_compiled()
    import jax
    from jax.experimental.compilation_cache import compilation_cache
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    jax.config.update("jax_compilation_cache_max_size", most)
    for number in range(3):
        jax.jit(lambda x: x * (number + 10 * round))(1.0)
    warnings.warn(f"mine {round}")
"""


def test_a_folder_of_the_users_that_cannot_be_used_is_one_line(tmp_path: Path):
    """A place that cannot be made, one without its library, an address that nobody knows, one with too little room."""
    (tmp_path / "file").write_text("")
    below, room, usable = str(tmp_path / "file" / "below"), str(tmp_path / "room"), str(tmp_path / "usable")
    unusable = [(below, -1), ("/proc/zz", -1), ("az://a/b", -1), ("zz://a/b", -1), (f"file://{room}", -1), (room, 9)]
    given = [*unusable, (usable, -1)]
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", UNUSABLE, json.dumps(given)], capture_output=True, text=True, check=True, timeout=60,
        env={name: value for name, value in os.environ.items() if "CACHE" not in name} | settings,
    )  # fmt: skip
    lines = iter(done.stderr.splitlines())
    for number, (place, _) in enumerate(given):
        assert next(lines) == place
        if place != usable:
            assert re.fullmatch(rf"JAX_COMPILATION_CACHE_DIR={place}: .+; programs are compiled .+", next(lines))
        assert next(lines).endswith(f"UserWarning: mine {number}")
    assert list(Path(usable).iterdir()) and next(lines, None) is None


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_where_there_is_no_place_nothing_is_kept(environment: pytest.MonkeyPatch, tmp_path: Path, place: str):
    def homeless(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    if place == "a file":
        (tmp_path / "cache").write_text("")
    else:
        environment.delenv("XDG_CACHE_HOME")
        environment.setattr(Path, "home", homeless)
    assert changes() == {}
