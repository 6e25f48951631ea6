"""Scores in the course of a training, and the best state so far."""

import logging
from pathlib import Path
from typing import Any

from drifting.assembly.networks import generator_arguments
from drifting.config.schema import Config, ema_decay
from drifting.errors import ArgumentError, ConfigError
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.networks.network import Generator, Params
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.directory import write_config
from drifting.sampling.generator import TrainedGenerator, Usage
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels
from drifting.scoring.evaluate import judge_of
from drifting.scoring.image_features import check_encoder_kind
from drifting.scoring.metrics import rank

logger = logging.getLogger("drifting")

BEST_FOLDER = "best"

TRIAL_IMAGES = 64
"""Images that are scored at step 1: enough to find what is wrong with the set-up."""


def check_score_encoder(config: Config) -> None:
    """Checks that there is such an encoder as `eval.encoder`, which may be needed only after the training.

    Raises:
        ConfigError: there is none.
    """
    if config.eval.encoder is None:
        return
    try:
        check_encoder_kind(config.eval.encoder)
    except ArgumentError as error:
        raise ConfigError(f"eval.{error}") from error


class TrainingEvaluator:
    """Scores the averaged generator, always at the same seeds; keeps the best in the folder `best` of the run.

    That folder is a run directory by itself: `drifting sample --workdir=RUN/best`.

    Args:
        config, generator, space, identity, workdir: what the run has of the same names.

    Raises:
        ConfigError: the reference cannot be read or does not fit, or the data cannot be compared pixel by pixel.
    """

    def __init__(
        self, config: Config, generator: Generator, space: SampleSpace, identity: dict[str, Any], workdir: Path
    ) -> None:
        self._config, self._generator, self._space = config, generator, space
        self._identity, self._workdir, self._decay = identity, workdir, ema_decay(config)
        self._usage = Usage.of_run(config, identity)
        try:
            k = config.eval.neighbours
            self._judge = judge_of(config, identity, str(workdir), space.image_shape, k)
        except ArgumentError as error:
            raise ConfigError(f"eval.{error}") from error
        self._checkpoints = Checkpoints(workdir / BEST_FOLDER)
        self._best = self._rank_of_best()
        self._images: GeneratedImages | None = None

    def _rank_of_best(self) -> float:
        """The rank of what is in `best`."""
        step = self._checkpoints.latest()
        return float("inf") if step is None else float(self._checkpoints.read_run(step)["distance"])

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Scores `eval/NAME` of the state after `step`, of few images at step 1."""
        images = self._images_of(state.ema[str(self._decay)], step)
        if step == 1:
            images = images.of(images.labels[: max(TRIAL_IMAGES, self._config.eval.neighbours + 1)])
        scores = self._judge.scores(images)
        assert scores is not None  # one process scores alone
        if step > 1 and rank(scores) < self._best:
            self._keep(step, state, rank(scores))
        return {f"eval/{name}": float(value) for name, value in scores.items()}

    def _images_of(self, params: Params, step: int) -> GeneratedImages:
        """The images of these parameters; those of all steps share what the first ones have compiled."""
        if self._images is None:
            config, evaluation = self._config, self._config.eval
            classes = len(self._usage.class_names)
            trained = TrainedGenerator(
                generator=self._generator,
                params=params,
                arguments=generator_arguments(config.model, self._space.shape, classes),
                space=self._space,
                usage=self._usage,
                step=step,
                ema_decay=self._decay,
                facts=self._identity,
                config=config,
            )
            self._images = GeneratedImages(
                trained,
                balanced_labels(evaluation.every_samples or evaluation.num_samples, classes),
                source=str(self._workdir),
                seed=evaluation.seed,
                alpha=trained.alpha(None),
                batch_size=evaluation.batch_size,
            )
        return self._images.with_params(params, step)

    def _keep(self, step: int, state: TrainState, distance: float) -> None:
        self._best = distance
        write_config(self._workdir / BEST_FOLDER, self._config)
        run = {"identity": self._identity, "data": {}, "distance": distance}
        self._checkpoints.save(step, {"ema": state.ema}, run)
        self._checkpoints.wait()
        logger.info("evaluate: step %d is the best so far, distance %.4g; kept in %s", step, distance, BEST_FOLDER)
