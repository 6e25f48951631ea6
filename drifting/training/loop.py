"""The loop both trainings share: feed batches, log, draw, save, stop cleanly, go on exactly where it was."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from drifting.config.schema import TrainingConfig, to_dict
from drifting.devices.interrupts import StopRequested
from drifting.devices.memory import peak_memory
from drifting.devices.processes import StopRequests, agreed, everyones, is_writer, stop_requests, wait_for_all
from drifting.errors import CheckpointError, DriftingError, InputError, MachineError, TrainingError, counted
from drifting.runs.checkpoints import CHECKPOINTS, Checkpoints
from drifting.runs.directory import check_config, check_identity, write_config
from drifting.runs.lock import check_free, in_use
from drifting.runs.metrics import MetricsWriter, WandbRun, check_metrics, import_wandb, last_metrics_step
from drifting.runs.progress import Progress, duration
from drifting.runs.stopwatch import Stopwatch, spoken
from drifting.runs.watchdog import Watch
from drifting.training.course import Course
from drifting.training.trace import PROFILE_FOLDER, Trace

logger = logging.getLogger("drifting")

OUT_OF_REACH = -1
"""What a process tells the others, in place of a step, where it cannot read the checkpoints now."""

# If these are finite after a step, so is every number that its checkpoint holds.
FINITE_METRICS = ("loss", "grad_norm", "param_norm")


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    draw: bool
    score: bool
    save: bool

    @property
    def tell(self) -> bool:
        """Whether there is anything to do for a person."""
        return self.log or self.draw or self.score


def run_loop(course: Course) -> int:
    """Trains until `config.train.steps`, from the latest checkpoint if there is one; returns the step reached.

    A run that was killed and is started again ends with the same state and the same `metrics.jsonl` as one that was
    not: state, data position and metrics go back to the checkpoint together. On SIGTERM and Ctrl-C the step is finished
    and saved first, and the step reached is less than `config.train.steps`.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it before its last step; it is saved.
        ConfigError: `workdir` holds a run with other settings or facts, or another process trains there.
        TrainingError: the loss or its gradient is not finite, or a batch cannot be read; the last checkpoint is intact.
        InputError: the checkpoint is of another model.
    """
    began, workdir, train, label = time.monotonic(), course.workdir, course.config.train, course.label
    if train.wandb_project is not None and is_writer():
        import_wandb()
    check_folder(workdir, course.config)
    checkpoints = Checkpoints(workdir, keep=train.keep_checkpoints)
    with _alone(workdir), closing(checkpoints), Watch(workdir, train.stuck_after) as watch:
        start, saved, packed = _latest(course, checkpoints)
        if start:
            course = replace(course, identity=saved["identity"] | course.identity)  # what it began with is told on
            course.feed.restore(saved["data"])
            watch.finished(start)
        if is_writer():
            write_config(workdir, course.config)
            checkpoints.set_aside(start)
        wait_for_all("configuration")
        loop = _Loop(course, checkpoints, tuple(course.about), Stopwatch(course.samples))
        owed = loop.owed(start, saved.get("values"))
        if start >= train.steps and not owed:
            logger.info("%s: finished already, %s in %s", label, counted(start, "step"), workdir)
            if course.callbacks.finish is not None:
                course.callbacks.finish(start, course.packing.unpack(packed))
            return start
        for line in loop.about:
            logger.info(line)
        if not start and (lost := checkpoints.lost()) is not None:
            remedy = f"to go on from there stop this, and put {workdir / CHECKPOINTS} back as it was"
            logger.warning("%s: the checkpoint after step %d is gone, training begins anew; %s", label, lost, remedy)
        logger.info("%s: %s %s", label, f"going on after step {start} of" if start else "writing to", workdir)
        with stop_requests() as stop:
            # Said once requests to stop are heard: from this line on a run that is stopped is saved.
            logger.info("%s: compiling the first step, which can take a minute", label)
            with _reading(start, checkpoints):
                state = course.packing.unpack(packed) if start else course.initial()
            # Placed alike, so that a new and a restored state are trained by one and the same compiled step.
            state = jax.device_put(state, jax.tree.map(lambda array: array.sharding, state))
            step, state = loop.run(start, state, owed, stop, watch)
            checkpoints.wait()
        if step < train.steps and stop.by_hand():
            where = f"saved after step {step} of {train.steps} in {workdir}"
            raise KeyboardInterrupt(f"{where}, the same command goes on from there")
        ended = "done" if step >= train.steps else "stopped and saved, the same command goes on from there"
        seconds = duration(time.monotonic() - began)
        logger.info("%s: %s: step %d of %d in %s after %s", label, ended, step, train.steps, workdir, seconds)
        if step >= train.steps and course.callbacks.finish is not None:
            course.callbacks.finish(step, state)
        return step


def check_folder(workdir: Path, config: TrainingConfig) -> None:
    """Checks that a run of these settings can begin or go on in a folder, before anything is read or built for it.

    Raises:
        ConfigError: it is no folder, it holds another run, its metrics are damaged, or another process trains there.
        MachineError: it cannot be read now.
    """
    check_config(workdir, config)
    check_metrics(workdir)
    if jax.process_count() == 1:  # of several, the first may have begun already
        check_free(workdir, "workdir")


@contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """The run's first process trains in the folder and no other run's; where one does, all processes of this end."""
    with ExitStack() as stack:
        if is_writer():
            try:
                stack.enter_context(in_use(workdir, "workdir"))
            except DriftingError:
                agreed(OUT_OF_REACH)  # which the others hear in place of the latest step
                raise
        yield


def _latest(course: Course, checkpoints: Checkpoints) -> tuple[int, dict[str, Any], Any]:
    """The step of the latest checkpoint (0: there is none), its JSON, and its state, packed.

    Raises:
        ConfigError: the run depends on other facts than the course.
    """
    start = agreed(_newest(checkpoints) if is_writer() else 0)
    if start == OUT_OF_REACH:
        raise MachineError(f"{course.workdir}: process 0 cannot use the folder, and says why")
    if not start:
        return 0, {}, None
    return _restore(checkpoints, start, course)


def _newest(checkpoints: Checkpoints) -> int:
    """The step of the newest intact checkpoint, 0 without one. Where that cannot be told, the others learn it, too."""
    try:
        return checkpoints.latest_intact() or 0
    except DriftingError:
        agreed(OUT_OF_REACH)
        raise


@dataclass(frozen=True)
class _Loop:
    """The steps of a course in one process."""

    course: Course
    checkpoints: Checkpoints
    about: tuple[str, ...]
    stopwatch: Stopwatch

    def run(
        self, step: int, state: Any, owed: dict[str, float] | None, stop: StopRequests, watch: Watch
    ) -> tuple[int, Any]:
        """Trains from `step` on; `owed` are numbers of that step which are still to be written, drawn and scored."""
        metrics, stopped, first = None, False, step + 1
        with self._writer(step) as writer, self._progress(step) as progress, self._trace() as trace:
            if owed:
                stopped = self._tell(step, state, owed, self._due(step, stopped=False), writer, stop)
            while step < self.course.config.train.steps and not stopped:
                with _reading(step, self.checkpoints), self.stopwatch.waiting():
                    batch = next(self.course.feed)
                previous = metrics
                trace.before(step + 1, previous)
                planned = self._due(step + 1, stopped=False)
                measure = planned.tell or planned.save
                state, metrics = self.course.step_fn(state, batch, measure)
                step += 1
                if previous is not None:  # at most two steps in flight: bounded memory, prompt interrupts
                    jax.block_until_ready(previous["loss"])
                if step == first:
                    jax.block_until_ready(metrics["loss"])
                    self.stopwatch.start(step)
                trace.after(step, metrics)
                watch.finished(step)
                self.checkpoints.attend()
                stopped = stop.after(step)
                due = self._due(step, stopped)
                if not (due.tell or due.save):
                    if progress is not None:
                        progress.update(step)
                    continue
                values = self.course.callbacks.flatten(jax.device_get(metrics))
                self._require_finite(step, values)
                measured = self._measured(step)
                if progress is not None and measure:
                    shown = {name: values[name] for name in self.course.callbacks.shown}
                    progress.update(step, shown, spoken(measured))
                with self.stopwatch.apart():
                    if due.save:
                        self._save(step, state, values, due)
                    if stopped and (due.draw or due.score) and step < self.course.config.train.steps:
                        break  # the machine may be gone in a moment; what is left out is owed to the next start
                    if self._tell(step, state, values, due, writer, stop, measured):
                        stopped = True
                        if not due.save:
                            self._save(step, state, values, due)
        return step, state

    def _due(self, step: int, stopped: bool) -> Due:
        train, callbacks = self.course.config.train, self.course.callbacks
        last = step == train.steps

        def at(every: int) -> bool:
            return every > 0 and (last or step % every == 0)

        score = callbacks.evaluate is not None and callbacks.evaluate_every > 0
        return Due(
            log=step == 1 or at(train.log_every),
            draw=at(train.sample_every),
            score=score and (step == 1 or at(callbacks.evaluate_every)),  # at step 1 to prove the set-up
            save=last or stopped or at(train.checkpoint_every),
        )

    def _save(self, step: int, state: Any, values: dict[str, float], due: Due) -> None:
        course = self.course
        facts = {"identity": course.identity, "data": course.feed.state(), "layout": course.packing.facts}
        if due.tell:  # a run that is killed before it has told them tells them later
            facts["values"] = values
        if course.callbacks.keep is not None:
            course.callbacks.keep(step, state)
        self.checkpoints.save(step, course.packing.pack(state), facts)

    def _tell(
        self,
        step: int,
        state: Any,
        values: dict[str, float],
        due: Due,
        writer: MetricsWriter | None,
        stop: StopRequests,
        measured: Mapping[str, float] | None = None,
    ) -> bool:
        """Draws, scores, writes; the line of metrics comes last and stands for all. Returns whether it was stopped."""
        callbacks, label = self.course.callbacks, self.course.label
        if due.draw:
            picture = callbacks.draw(step, state)
            if writer is not None and picture is not None:
                writer.show(step, picture.parent.name, picture)
        if due.score and callbacks.evaluate is not None:
            try:
                with stop.at_once():
                    values = {**values, **callbacks.evaluate(step, state)}
            except StopRequested:
                logger.info("%s: the scores of step %d are left out, and made up for at the next start", label, step)
                return True
        if (due.log or due.score) and writer is not None:
            writer.write(step, values, measured)
            callbacks.watch(step, values)
        return False

    def owed(self, step: int, values: dict[str, float] | None) -> dict[str, float] | None:
        """The numbers of a step that was saved but not told before the run ended; None if nothing is owed."""
        due = self._due(step, stopped=False)
        if not values or not due.tell:
            return None
        # Lines of later steps, which are written again, come after that of this one.
        written = (last_metrics_step(self.course.workdir) or 0) >= step
        told = (due.log or due.score) and is_writer() and written
        return None if agreed(int(told)) else values

    def _writer(self, step: int) -> AbstractContextManager[MetricsWriter | None]:
        """What writes the metrics: in one process."""
        train = self.course.config.train
        if not is_writer():
            return nullcontext()
        wandb = None
        if train.wandb_project is not None:
            where = (train.wandb_project, train.wandb_entity, train.wandb_group, train.wandb_tags)
            wandb = WandbRun(*where, settings=to_dict(self.course.config))
        return MetricsWriter(
            self.course.workdir, tensorboard=train.tensorboard, wandb=wandb, last_step=step, about=self.about
        )

    def _trace(self) -> Trace:
        return Trace(self.course.workdir / PROFILE_FOLDER, self.course.config.train.profile)

    def _measured(self, step: int) -> dict[str, float]:
        """How fast the steps were since the last look, and the memory they need; `step` is finished."""
        return self.stopwatch.lap(step) | {"speed/device_memory_gb": peak_memory()}

    def _progress(self, step: int) -> AbstractContextManager[Progress | None]:
        return (
            Progress(self.course.config.train.steps, start=step, label=self.course.label)
            if is_writer()
            else nullcontext()
        )

    def _require_finite(self, step: int, values: Mapping[str, float]) -> None:
        # Not finite once, not finite ever after: looking at this step's numbers covers all since the last look.
        for name in FINITE_METRICS:
            if not math.isfinite(values[name]):
                kept, remedy = _kept(self.checkpoints), self.course.callbacks.remedy
                raise TrainingError(f"{name} is {values[name]} at step {step}; {kept}; {remedy}")


def _restore(checkpoints: Checkpoints, start: int, course: Course) -> tuple[int, dict[str, Any], Any]:
    """The newest checkpoint up to `start` that can be read: its step, its JSON and its state, packed.

    Raises:
        ConfigError: the run depends on other facts than the course.
        InputError: all are damaged; says what is wrong with the newest.
        CheckpointError: one cannot be restored, and is not damaged as far as can be told.
        MachineError: whether it can cannot be told now, here or in another process.
    """
    wrong: InputError | None = None
    for step in [step for step in checkpoints.steps() if step <= start]:
        try:
            saved = checkpoints.read_run(step)
            # Before the state is read: that of other data has other shapes, which would look like damage.
            check_identity(course.workdir, saved["identity"], course.identity)
            restored = checkpoints.restore(step, course.packing.target(saved.get("layout", {})))
        except InputError as error:
            wrong = wrong or error
            logger.warning("%s; trying the checkpoint before it", error)
        except (MachineError, CheckpointError):
            everyones(OUT_OF_REACH)
            raise
        else:
            # Where a process could not read what the others could, all go back to what it could read.
            least = min(reached := everyones(step))
            if least == OUT_OF_REACH:
                raise MachineError(f"step {step}: another process cannot read its checkpoint now, and says why")
            return (step, saved, restored) if least == max(reached) else _restore(checkpoints, least, course)
    raise wrong or InputError("there is no checkpoint")


@contextmanager
def _reading(step: int, checkpoints: Checkpoints) -> Iterator[None]:
    """Data that cannot be read, such as a damaged image, ends the training."""
    try:
        yield
    except InputError as error:
        raise TrainingError(f"data after step {step}: {error}; {_kept(checkpoints)}") from error


def _kept(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    saved = checkpoints.latest()
    return "no checkpoint was written yet" if saved is None else f"the checkpoint after step {saved} is intact"
