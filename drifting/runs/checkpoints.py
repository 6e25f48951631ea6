"""Checkpoints: state and data position together, written by Orbax.

`RUN/checkpoints/N/` is what there was after step N: `state`, one pytree, and `run`, JSON with the position in the data
and the facts the run depends on. `RUN/seals/N.json` holds the checksums of its files. In an object store a checkpoint
is there once its `commit_success.txt` is, which comes last and goes first.
"""

import errno
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from drifting.devices.backend import require_devices
from drifting.errors import (
    CheckpointError,
    DriftingError,
    InputError,
    MachineError,
    one_line,
    refusal,
    was_interrupted,
    while_reading,
)
from drifting.runs.files import HASH_THREADS, check_readable, exists, read_json, sha256, write_json
from drifting.runs.places import check_checkpoint_path, is_stored
from drifting.runs.staging import (
    COMMITTED,
    clean_staging,
    needs_staging,
    readable_checkpoint,
    remove_staging,
    upload_checkpoint,
)

logger = logging.getLogger("drifting")

CHECKPOINTS, SEALS, DAMAGED = "checkpoints", "seals", "damaged"

UNTOUCHED = "the checkpoints are as they were"
"""What is safe where one cannot be read now: nothing is moved, removed or begun anew."""

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""What the system says where a disk or a quota is full."""


class Checkpoints:
    """The checkpoints of one run.

    Saving is asynchronous: the state is copied first, so that its buffers may be donated to the next step, and written
    in the background. A checkpoint appears only when whole; what a killed process leaves is ignored, and removed at
    the next save. As soon as it is there it is sealed, in the background, too: `seals/N.json` holds the SHA-256 of its
    files, so that what a disk or a copy has damaged is noticed. Whoever does not save changes nothing, so a run that is
    going on can be read.

    Args:
        workdir: the run directory.
        keep: how many of the latest to keep.

    Raises:
        ArgumentError: checkpoints cannot be kept at the path of `workdir`.
    """

    def __init__(self, workdir: Path, keep: int = 1) -> None:
        check_checkpoint_path(workdir)
        self._directory = (workdir / CHECKPOINTS).absolute()
        self._staging: Path | None = None
        self._seals, self._aside = workdir / SEALS, workdir / DAMAGED
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._unsealed: int | None = None
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: list[Future[None]] = []

    def steps(self) -> list[int]:
        """The steps of all checkpoints, the newest first.

        Raises:
            MachineError: the folder cannot be read now; there may be some.
        """
        if is_stored(self._directory):
            whole = [path.parent.name for path in self._directory.glob(f"*/{COMMITTED}")]
            return sorted((int(name) for name in whole if name.isdecimal()), reverse=True)
        if not exists(self._directory):
            return []
        with while_reading(self._directory, UNTOUCHED):
            names = os.listdir(self._directory)  # Orbax would take some refusals for an empty folder
            return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, damaged or not, or None. Nothing of it is read."""
        return next(iter(self.steps()), None)

    def lost(self) -> int | None:
        """The last step after which a checkpoint was sealed, where there is none any more; None: nothing is lost."""
        sealed = [] if self.steps() or not exists(self._seals) else self._seals.glob("*.json")
        return max((int(path.stem) for path in sealed if path.stem.isdecimal()), default=None)

    def latest_intact(self) -> int | None:
        """The step of the newest checkpoint that is not damaged, or None where there is none at all.

        Every byte of it is read and hashed, so this is asked once, before its state is restored. Damaged ones are
        warned of, and one whose damage would not be noticed.

        Raises:
            InputError: there are some, and all are damaged. A run that began anew would bury them.
            MachineError: whether the newest is damaged cannot be told now.
        """
        steps, problems = self.steps(), []
        for step in steps:
            problem = self._damage(step)
            if problem is None:
                if not self.sealed(step):
                    folder = self._directory / str(step)
                    logger.warning("%s: has no seal in %s, so damage in it would not be noticed", folder, self._seals)
                return step
            problems.append(problem)
            if step != steps[-1]:
                logger.warning("%s; using the checkpoint before it", problem)
        if problems:
            remedy = f"restore one from a copy, or move {self._directory} away to begin anew"
            raise InputError(f"{problems[0]}, and no other checkpoint is intact: {remedy}")
        return None

    def set_aside(self, step: int) -> None:
        """Moves all checkpoints after `step` out of the way: those of a run that goes on from there.

        What has been moved there before stays: `damaged/8`, then `damaged/8.1`, and so on.
        """
        for later in self.steps():
            if later > step:
                self._aside.mkdir(exist_ok=True)
                names = chain([str(later)], (f"{later}.{number}" for number in count(1)))
                place = next(self._aside / name for name in names if not exists(self._aside / name))
                moved = self._directory / str(later)
                if is_stored(moved) and is_stored(place):
                    moved.move_tree(place, first=COMMITTED)
                else:
                    os.rename(moved, place)
                (self._seals / f"{later}.json").unlink(missing_ok=True)
                logger.warning("%s: moved to %s", self._directory / str(later), place)

    def sealed(self, step: int) -> bool:
        """Whether a checkpoint has a seal, without which a wrong byte in it is not noticed.

        Raises:
            InputError: it has one that is damaged.
        """
        return self._seal_of(step) is not None

    def _seal_of(self, step: int) -> dict[str, str] | None:
        """SHA-256 of each file of a checkpoint; None where it has no seal, or one of files that could not be read.

        A seal is written whole or not at all, so one that says less was damaged later, as the checkpoint may be.
        """
        path = self._seals / f"{step}.json"
        if not exists(path):
            return None
        try:
            sealed = read_json(path)
        except InputError:
            sealed = {}
        if not sealed or any(not isinstance(checksum, str | None) for checksum in sealed.values()):
            wrong = "is empty or damaged, so its checkpoint cannot be compared with it"
            raise InputError(f"{path}: {wrong}; remove it to use the checkpoint without")
        return None if None in sealed.values() else sealed

    def _damage(self, step: int) -> str | None:
        """What differs from the seal of a checkpoint, or without one what it lacks; None where there is nothing."""
        folder = self._directory / str(step)
        try:
            sealed = self._seal_of(step)
        except InputError as error:
            return str(error)
        if sealed is None:
            check_readable(folder)
            missing = next((name for name in ("run", "state") if not exists(folder / name)), None)
            return None if missing is None else f"{folder / missing}: is missing"
        found = _checksums(folder, list(sealed))
        wrong = [name for name, checksum in sealed.items() if found.get(name) != checksum]
        return f"{folder / wrong[0]}: is damaged or missing" if wrong else None

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Starts saving after `step`. `state`: a pytree of arrays; `run`: JSON.

        Raises:
            CheckpointError: this one, or the one before, cannot be written.
        """
        self.wait()
        with self._writing():
            if self._manager is None:
                options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
                if needs_staging(self._directory):
                    self._staging = clean_staging(self._directory)
                self._manager = ocp.CheckpointManager(os.fspath(self._staging or self._directory), options=options)
            # An earlier checkpoint of that number may have left it.
            (self._seals / f"{step}.json").unlink(missing_ok=True)
            arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
            self._manager.save(step, args=arguments, force=True)
        self._unsealed = step

    def attend(self) -> None:
        """Looks whether what is being saved is on disk by now, and then has it sealed. To be called after each step.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._unsealed is not None and self._manager is not None and not self._manager.is_saving_in_progress():
            self._written()

    def wait(self) -> None:
        """Blocks until everything started is on disk, and sealed.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._written()
        with self._writing():
            while self._sealing:
                self._sealing.pop().result()

    def _written(self) -> None:
        """Waits for the checkpoint that is being saved, and begins to seal it."""
        if self._manager is None:
            return
        with self._writing():
            self._manager.wait_until_finished()
            step, self._unsealed = self._unsealed, None
            if step is not None and jax.process_index() == 0:
                self._sealing.append(self._sealer.submit(self._seal, step))

    def _seal(self, step: int) -> None:
        folder = self._directory / str(step)
        if is_stored(folder) and self._staging is not None:
            upload_checkpoint(self._staging / str(step), folder)
            kept = {str(step) for step in self.steps()[: self._keep]}
            for other in folder.parent.iterdir():  # older ones, and what killed processes have left
                if other.name not in kept:
                    other.rmtree(missing_ok=True, first=COMMITTED)
        try:
            found = _checksums(folder)
        except MachineError as error:  # a seal that says less than all would call the checkpoint damaged later
            logger.warning("%s; the checkpoint after step %d has no seal, so damage would not be noticed", error, step)
            return
        self._seals.mkdir(exist_ok=True)
        write_json(self._seals / f"{step}.json", found)
        kept = {str(other) for other in self.steps()}
        for path in self._seals.glob("*.json"):
            if path.stem not in kept:
                path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever keeps a checkpoint from being written, of many kinds and out of threads, as one line."""
        try:
            yield
        except Exception as error:
            self._unsealed = None
            reason = refusal(error) or one_line(f"{type(error).__name__}: {error}")[:300]
            full = any(words in reason for words in FULL)
            reason = "no space is left on the disk" if full else reason
            try:
                kept = self.steps()
                safe = f"that after step {kept[0]} is safe" if kept else "there is none yet"
            except MachineError:
                safe = UNTOUCHED if is_stored(self._directory) else "there is none yet"
            remedy = "make room" if full else "mend that"
            raise CheckpointError(
                f"{self._directory}: a checkpoint cannot be written ({reason}); {safe}; {remedy} and run the same "
                "command again"
            ) from error

    def close(self) -> None:
        """Waits, and ends the background threads."""
        if self._manager is not None:
            try:
                self.wait()
            finally:
                self._sealer.shutdown()
                manager, self._manager = self._manager, None
                with suppress(Exception):  # `wait` has reported it
                    manager.close()
                if self._staging is not None:
                    remove_staging(self._directory)

    def restore(self, step: int, target: Any) -> Any:
        """The state of a step. `target`: a pytree of `jax.ShapeDtypeStruct` like the state that was saved.

        Raises:
            InputError: the checkpoint is damaged.
            CheckpointError: it does not hold such a state, or cannot be restored for another reason.
        """
        return self._read(step, state=_restore_args(target))["state"]

    def restore_part(self, step: int, name: str, target: Any) -> Any:
        """One top-level part of the state, such as `ema`, without reading the rest.

        Raises:
            InputError: the checkpoint is damaged.
            CheckpointError: it does not hold such a part, or cannot be restored for another reason.
        """
        return self._read(step, state=_restore_args({name: target}, partial_restore=True))["state"][name]

    def read_run(self, step: int) -> dict[str, Any]:
        """The JSON of a step.

        Raises:
            InputError: the checkpoint is damaged.
            CheckpointError: it cannot be restored for another reason.
        """
        return self._read(step, run=ocp.args.JsonRestore())["run"]

    def _read(self, step: int, **items: Any) -> Any:
        path = self._directory / str(step)
        require_devices()
        try:
            with (
                while_reading(path, UNTOUCHED),
                readable_checkpoint(path) as here,
                ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader,
            ):
                return reader.restore(here, args=ocp.args.Composite(**items))
        except DriftingError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds, a bare Exception among them
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            check_readable(path)  # they may call a file missing that they may not open
            self._require_undamaged(step)
            said = one_line(f"{type(error).__name__}: {error}")[:300]
            files = "its files are as they were written" if self._has_usable_seal(step) else "no seal tells of damage"
            remedy = "use the settings and the versions that wrote it, or report this"
            raise CheckpointError(
                f"{path}: cannot be restored ({said}); {files}, and nothing was changed: {remedy}"
            ) from error

    def _has_usable_seal(self, step: int) -> bool:
        try:
            return self.sealed(step)
        except InputError:
            return False

    def _require_undamaged(self, step: int) -> None:
        """Raises `InputError` where the seal of a checkpoint says that its files are not those that were written."""
        if not self._has_usable_seal(step) or (damage := self._damage(step)) is None:
            return
        before = any(other < step and self._damage(other) is None for other in self.steps())
        remedy = f"remove {self._directory / str(step)} to use the one before" if before else "restore a copy"
        raise InputError(f"{damage}; {remedy}")


def _checksums(folder: Path, names: list[str] | None = None) -> dict[str, str | None]:
    """The checksum of each file in a folder, or of those named; None where there is none.

    It is SHA-256, for which every byte is read. A store keeps checksums of its own, and compares what comes and goes.

    Raises:
        MachineError: one cannot be read now.
    """
    if is_stored(folder):
        return dict(folder.checksums())
    checksum = sha256 if names is None else _sha256_or_none
    if names is None:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: checksum(folder / name), names), strict=True))


def _sha256_or_none(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none.

    Raises:
        MachineError: it cannot be read now.
    """
    try:
        return sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _restore_args(target: Any, **options: bool) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(target, restore_args=restore_args, **options)


def abstract(tree: Any, shardings: Any = None) -> Any:
    """The tree's shapes and dtypes as a target for `restore`, placed by the tree `shardings` or on one device."""
    if shardings is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: here, tree)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, shardings)
