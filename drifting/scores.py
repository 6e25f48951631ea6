"""Scores of a run: draw images, compare them with the real ones it was trained on, beside real ones it never saw."""

import json
from pathlib import Path
from typing import Any

from drifting import build
from drifting.config import ConfigError
from drifting.evaluate.pixels import pixel_scores
from drifting.monitor import atomic_path
from drifting.sample import TrainedGenerator, balanced_labels

EVAL_FILE = "eval.json"


def evaluate(
    workdir: Path, *, alpha: float | None = None, num_samples: int | None = None, ema_decay: float | None = None
) -> dict[str, Any]:
    """Scores of a run on its pixels, written to `eval.json` with everything needed to repeat them.

    Args:
        workdir: the run. alpha: guidance scale; None: `eval.alpha`.
        num_samples: images, the classes in turn; None: `eval.num_samples`. ema_decay: which average.

    Returns:
        The keys of `pixel_scores`, and `step alpha seed ema_decay data`.

    Raises:
        ConfigError: no such run or average, or no held-out data.
    """
    trained = TrainedGenerator(workdir, ema_decay)
    settings = trained.config.eval
    scale = trained.alpha(alpha)
    labels = balanced_labels(num_samples or settings.num_samples, trained.train_source.num_classes)
    images = trained.draw(labels, settings.seed, scale, settings.batch_size).clip(-1, 1)
    try:
        heldout = build.source(trained.config.data, split="heldout")
    except ValueError as error:
        raise ConfigError(f"evaluate needs held-out samples: {error}") from error
    train_images, train_labels = trained.train_source.__getitems__(range(len(trained.train_source)))
    heldout_images, heldout_labels = heldout.__getitems__(range(len(heldout)))
    scores: dict[str, Any] = pixel_scores(
        images, labels, train_images, train_labels, heldout_images, heldout_labels, settings.neighbours
    )
    scores |= {"step": trained.step, "alpha": scale, "seed": settings.seed, "ema_decay": trained.ema_decay}
    scores |= {"data": trained.config.data.name}
    with atomic_path(workdir / EVAL_FILE) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def score_table(scores: dict[str, Any]) -> str:
    """The scores for a person, generated beside held-out real samples."""
    rows = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")
    lines = [f"{'':18}{'generated':>12}{'held-out':>12}"]
    lines += [f"{name:18}{scores[name]:12.4f}{scores[name + '_heldout']:12.4f}" for name in rows]
    lines.append(f"{'frechet_ratio':18}{scores['frechet_ratio']:12.2f}{1:12.2f}")
    lines.append(f"{scores['n_generated']} images, alpha {scores['alpha']:g}, step {scores['step']}")
    return "\n".join(lines)
