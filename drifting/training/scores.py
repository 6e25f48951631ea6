"""Scores in the course of a training, and the best state so far."""

import logging
import shutil
from pathlib import Path
from typing import Any

from drifting.assembly.networks import generator_arguments
from drifting.config.schema import Config, ema_decay
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.networks.network import Generator
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.directory import write_config
from drifting.sampling.generator import TrainedGenerator, Usage
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels
from drifting.scoring.against_own_data import OwnData
from drifting.scoring.against_reference import Judge, Scores
from drifting.scoring.results import distance_name

logger = logging.getLogger("drifting")

BEST = "best"

TRIAL = 64
"""Images that are scored at step 1: enough to find what is wrong with the set-up."""


class TrainingEvaluator:
    """Scores the averaged generator, always at the same seeds; keeps the best in the folder `best` of the run.

    That folder is a run directory by itself: `drifting sample --workdir=RUN/best`.

    Args:
        config, generator, space, identity, workdir: of the run.

    Raises:
        ConfigError: the reference cannot be read or does not fit, or the data cannot be compared pixel by pixel.
    """

    def __init__(
        self, config: Config, generator: Generator, space: SampleSpace, identity: dict[str, Any], workdir: Path
    ) -> None:
        evaluation, self._config, self._identity, self._workdir = config.eval, config, identity, workdir
        self._decay = ema_decay(config)
        usage = Usage.of_run(config, identity)
        arguments = generator_arguments(config.model, space.shape, len(usage.class_names))
        trained = TrainedGenerator(generator, {}, arguments, space, usage, None, self._decay, {**identity}, config)
        labels = balanced_labels(evaluation.every_samples or evaluation.num_samples, len(usage.class_names))
        self._images = GeneratedImages(
            trained,
            labels,
            source=str(workdir),
            seed=evaluation.seed,
            alpha=trained.alpha(None),
            batch_size=evaluation.batch_size,
        )
        self._judge: Judge | None = None
        if evaluation.reference is not None:
            path, k = Path(evaluation.reference), evaluation.neighbours
            self._judge = Judge(path, evaluation.encoder, self._images.shape, k)
        else:
            self._own = OwnData(trained, str(workdir), evaluation.neighbours)
        self._checkpoints = Checkpoints(workdir / BEST)
        self._best = self._kept()

    def _kept(self) -> float:
        """The distance of what is in `best`."""
        step = self._checkpoints.latest()
        return float("inf") if step is None else float(self._checkpoints.read_run(step)["distance"])

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Scores `eval/NAME` of the state after `step`, of few images at step 1."""
        images = self._images.with_params(state.ema[str(self._decay)], step)
        if step == 1:
            images = images.of(images.labels[: max(TRIAL, self._config.eval.neighbours + 1)])
        scores = self._scores(images)
        distance = float(scores[distance_name(scores)])
        if step > 1 and distance < self._best:
            self._keep(step, state, distance)
        return {f"eval/{name}": float(value) for name, value in scores.items()}

    def _scores(self, images: GeneratedImages) -> Scores:
        if self._judge is None:
            return self._own.scores(images)
        work = self._workdir / "eval.parts"
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: steps are scored anew
        scores = self._judge.scores(images, work)
        shutil.rmtree(work, ignore_errors=True)
        assert scores is not None
        return scores

    def _keep(self, step: int, state: TrainState, distance: float) -> None:
        self._best = distance
        write_config(self._workdir / BEST, self._config)
        run = {"identity": self._identity, "data": {}, "distance": distance}
        self._checkpoints.save(step, {"ema": state.ema}, run)
        self._checkpoints.wait()
        logger.info("evaluate: step %d is the best so far, distance %.4g; kept in %s", step, distance, BEST)
