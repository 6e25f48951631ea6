"""The folder of a run and its `config.json`: who may write into it, and which settings may change on resuming."""

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar, overload

from drifting.config.parse import parse
from drifting.config.schema import AnyConfig, CacheBuild, Config, PretrainConfig, command_of, to_dict
from drifting.errors import ArgumentError, ConfigError, InputError, as_argument, require_argument
from drifting.runs.files import atomic_path, exists, read_json
from drifting.runs.places import check_checkpoint_path, check_utf8, is_stored

_RunKind = TypeVar("_RunKind", bound=AnyConfig)

CONFIG_FILE = "config.json"

SWEEP_FILE = "sweep.json"
"""What a folder of cells, each of them a run, is known by."""

ENCODER_FOLDER = "encoder"
"""Where `drifting pretrain` writes its encoder in the run's folder."""

RESUMABLE = (
    "train.steps",
    "train.micro_batch",
    "loss.kernel_backend",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.stuck_after",
    "train.profile",
    "train.tensorboard",
    "train.wandb_*",
    "data.path",
    "data.prefetch",
    "data.workers",
    "data.vae",
    "data.verify",
    "features.options.*.weights",
    "mesh.*",
    "eval.*",
    "cache.max_bad",
    "cache.workers",
)
"""Settings that may change when a run is resumed; `*` stands for anything. They do not alter what has been computed so
far, or (where data and weights lie) what is there is compared by itself."""


def is_resumable(key: str) -> bool:
    """Whether a setting may change when a run is resumed, by its dotted key."""
    return any(fnmatchcase(key, pattern) for pattern in RESUMABLE)


def check_config(workdir: Path, config: AnyConfig) -> None:
    """Checks that `workdir` holds no run, or one of these settings but for those that may change on resuming.

    Raises:
        ConfigError: the directory holds another run; says which settings differ.
    """
    if is_stored(workdir):
        with as_argument("workdir", workdir):
            workdir.require_bucket()
    if workdir.exists() and not workdir.is_dir():
        raise ArgumentError("workdir", workdir, "is a file; give a folder")
    if exists(workdir / SWEEP_FILE) and not exists(workdir / CONFIG_FILE):
        raise ArgumentError("workdir", workdir, "holds a sweep; give a run another folder, or one of its cells'")
    if isinstance(config, CacheBuild):
        check_utf8(workdir)
    else:
        check_checkpoint_path(workdir)
    if not exists(workdir / CONFIG_FILE) or not _has_begun(workdir, config):
        return
    old, new = read_config(workdir, type(config)), config
    changed = differences(to_dict(old), to_dict(new))
    fixed = None if _last_step(workdir) <= min(_falls_from(old), _falls_from(new)) else "train.steps"
    changed = {key: pair for key, pair in changed.items() if key == fixed or not is_resumable(key)}
    if changed:
        listed = "; ".join(f"{key} was {was!r}, is {now!r}" for key, (was, now) in changed.items())
        remedy = "put them back or choose another folder"
        if fixed in changed:
            why = "with optimizer.decay=constant train.steps could grow, and with wsd until the rate falls"
            remedy = f"{why}; here it is where a schedule ends: {remedy}"
        raise ArgumentError("workdir", workdir, f"holds a run with other settings ({listed}); {remedy}")


def _has_begun(workdir: Path, config: AnyConfig) -> bool:
    """Whether a step of the run is done, which leaves a line of metrics or a checkpoint. A cache is told by its facts.

    A run that ended before that has nothing which other settings could spoil.
    """
    if isinstance(config, CacheBuild):
        return True
    metrics = workdir / "metrics.jsonl"
    folders = [path for path in (workdir / name for name in ("checkpoints", "damaged", "seals")) if path.is_dir()]
    return (metrics.is_file() and metrics.stat().st_size > 0) or any(any(path.iterdir()) for path in folders)


def _falls_from(config: AnyConfig) -> float:
    """How many steps can be done before one depends on how many there will be; infinity: none does; -1: the first."""
    if isinstance(config, CacheBuild):
        return math.inf
    if isinstance(config, PretrainConfig) and config.mae.lambda_cls > 0:
        return -1
    optimizer = config.optimizer
    if optimizer.decay == "wsd":
        return config.train.steps - optimizer.decay_steps
    return math.inf if optimizer.decay == "constant" else -1


def _last_step(workdir: Path) -> int:
    """The last step of which there is a checkpoint, 0 without one."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def write_config(workdir: Path, config: AnyConfig) -> None:
    """Writes `config.json`, creating the directory.

    Raises:
        ConfigError: the directory cannot be made.
        MachineError: the file cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError("workdir", workdir, f"cannot be written ({error.strerror}); choose another") from error
    with atomic_path(workdir / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")


@overload
def read_config(workdir: Path) -> Config: ...


@overload
def read_config(workdir: Path, kind: type[_RunKind]) -> _RunKind: ...


def read_config(workdir: Path, kind: Any = Config) -> Any:
    """The settings of a run; keys that are younger than the run have their defaults.

    Args:
        workdir: the run's folder.
        kind: `Config`, `PretrainConfig` or `CacheBuild`.

    Raises:
        ConfigError: the directory holds no run, one of another command, or one that cannot be read.
    """
    path = workdir / CONFIG_FILE
    wanted = command_of(to_dict(kind()))
    remedy = f"holds no run (no {CONFIG_FILE}); give the folder of a `drifting {wanted}`"
    if is_stored(workdir):
        with as_argument("workdir", workdir):
            workdir.require_bucket()
    require_argument(exists(path), "workdir", workdir, remedy)
    try:
        settings = read_json(path, "restore it")
    except InputError as error:
        raise ArgumentError("workdir", workdir, str(error).removeprefix(f"{workdir}/")) from error
    sections = {"train", "cache", "study", *(field.name for field in dataclasses.fields(kind))}
    remedy = f"its {CONFIG_FILE} is another program's; give the folder of a `drifting {wanted}`"
    require_argument(not sections.isdisjoint(settings), "workdir", workdir, remedy)
    remedy = f"holds a run of `drifting {command_of(settings)}`; give one of `drifting {wanted}`"
    require_argument(command_of(settings) == wanted, "workdir", workdir, remedy)
    try:
        return parse(settings, kind)
    except ConfigError as error:
        raise ArgumentError("workdir", workdir, f"{CONFIG_FILE} is of another version ({error})") from error


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """`{key path: (old, new)}` of two nested settings, after a JSON round trip (tuples equal lists)."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) or isinstance(b, dict):
            out |= differences(a or {}, b or {}, f"{prefix}{key}.")
        elif (list(a) if isinstance(a, tuple) else a) != (list(b) if isinstance(b, tuple) else b):
            out[prefix + key] = (a, b)
    return out


def check_identity(workdir: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a run goes on with the data and weights that it was trained with.

    Args:
        workdir: the run's folder, for the message.
        saved: the facts that the run's checkpoint has of them.
        now: the same facts as they are now.

    Raises:
        ConfigError: one differs; says which.
    """
    for name, value in now.items():
        change = f"was trained with {name} {reprlib.repr(saved.get(name))}, now it is {reprlib.repr(value)}"
        remedy = "put back what it was trained with, or choose another folder"
        require_argument(saved.get(name) == value, "workdir", workdir, f"{change}; {remedy}")


def config_differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings in which runs differ: `{dotted key: {run: value}}`, of their `config.json` by name."""
    first = next(iter(configs.values()))
    keys = sorted({key for other in configs.values() for key in differences(dict(first), dict(other))})
    return {key: {name: _at(config, key) for name, config in configs.items()} for key in keys}


def _at(config: Mapping[str, Any], path: str) -> Any:
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
