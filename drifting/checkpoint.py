"""Checkpoints and run directories: state, data position and configuration together, written by Orbax.

    RUN/config.json      every setting of the run
    RUN/checkpoints/N/   after step N: `state` (one pytree) and `run` (JSON: settings, data position, encoder's checksum)
"""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from drifting.config import AnyConfig, ConfigError, differences, to_dict
from drifting.monitor import atomic_path

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"

# Settings that may change when a run is resumed: they do not alter what has been computed so far.
RESUMABLE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.tensorboard",
    "train.wandb_project",
    "data.path",
    "data.prefetch",
    "features.path",
    "eval.",
)


def write_config(workdir: Path, config: AnyConfig) -> None:
    """Writes `config.json`, or checks the one that is there.

    Raises:
        ConfigError: the directory holds a run with other settings; says which.
    """
    path = workdir / CONFIG_FILE
    new = json.loads(json.dumps(to_dict(config)))
    if path.exists():
        changed = differences(read_config(workdir), new)
        changed = {key: pair for key, pair in changed.items() if not key.startswith(RESUMABLE)}
        if changed:
            listed = "; ".join(f"{key} was {old!r}, is {now!r}" for key, (old, now) in changed.items())
            raise ConfigError(f"--workdir={workdir}: holds a run with other settings ({listed}); choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


def read_config(workdir: Path) -> dict[str, Any]:
    """The settings of a run as a nested dict.

    Raises:
        ConfigError: the directory holds no run.
    """
    path = workdir / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--workdir={workdir}: holds no run ({CONFIG_FILE} is missing)") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error


class Checkpoints:
    """The checkpoints of one run.

    Saving is asynchronous: the state is copied first, so that its buffers may be donated to the next step, and written
    in the background. A checkpoint appears only when whole; what a killed process leaves is ignored and cleaned up.

    Args:
        workdir: the run directory.
        keep: how many of the latest to keep.
        read_only: for tools that look at a run which may still be going on.
    """

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        self._directory = (workdir / CHECKPOINTS).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        exists = self._directory.is_dir() or not read_only
        self._manager = ocp.CheckpointManager(self._directory, options=options) if exists else None

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step() if self._manager is not None else None

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Starts saving after `step`. `state`: a pytree of arrays; `run`: JSON. Saving a step twice does nothing."""
        assert self._manager is not None
        if self._manager.latest_step() == step:
            return
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=arguments, force=True)

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """State and JSON of a step. `target`: a pytree of `jax.ShapeDtypeStruct` like the state that was saved.

        Raises:
            ValueError: the checkpoint does not hold such a state.
        """
        assert self._manager is not None
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(target, restore_args=restore_args), run=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=arguments)
        except (ValueError, KeyError, TypeError) as error:
            message = " ".join(str(error).split())[:300]
            raise ValueError(f"{self._directory / str(step)}: not a checkpoint of this model ({message})") from error
        return restored["state"], restored["run"]

    def restore_part(self, step: int, name: str, target: Any) -> Any:
        """One top-level part of the state, such as `ema`, without reading the rest."""
        assert self._manager is not None
        part = {name: target}
        arguments = ocp.args.PyTreeRestore(
            part, restore_args=ocp.checkpoint_utils.construct_restore_args(part), partial_restore=True
        )
        # A fresh manager: Orbax fixes the kind of handler of an item at its first use.
        with ocp.CheckpointManager(self._directory, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
            return manager.restore(step, args=ocp.args.Composite(state=arguments))["state"][name]

    def wait(self) -> None:
        """Blocks until everything started is on disk; raises what went wrong."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()


def abstract(tree: Any) -> Any:
    """The tree's shapes and dtypes, placed as its arrays are (or on the default device), as a target for `restore`."""

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, tree)
