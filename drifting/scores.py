"""Scores of a run: draw images, compare them with the real ones it was trained on, beside real ones it never saw."""

import json
from pathlib import Path
from typing import Any

from drifting import build
from drifting.config import ConfigError
from drifting.data.source import Batch, LabelledSource
from drifting.evaluate.pixels import pixel_scores
from drifting.monitor import atomic_path
from drifting.sample import balanced_labels, draw
from drifting.trained import TrainedGenerator
from drifting.validate import require

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
        ConfigError: no such run or average, no held-out data, or other data than the run was trained on.
    """
    trained = TrainedGenerator.from_run(workdir, ema_decay)
    assert trained.config is not None
    settings, data = trained.config.eval, trained.config.data
    count = settings.num_samples if num_samples is None else num_samples
    require(count > settings.neighbours, "--num", count, f"must exceed eval.neighbours={settings.neighbours}")
    train, heldout = build.source(data), build.source(data, split="heldout")
    facts = build.data_facts(train)
    if changed := [name for name, value in facts.items() if trained.facts.get(name) != value]:
        raise ConfigError(f"data.name={data.name!r}: {', '.join(changed)} are not what {workdir} was trained with")
    scale = trained.alpha(alpha)
    labels = balanced_labels(count, train.num_classes)
    images = draw(trained, labels, settings.seed, scale, settings.batch_size).clip(-1, 1)
    scores: dict[str, Any] = pixel_scores(images, labels, *_all(train), *_all(heldout), settings.neighbours)
    scores |= {"step": trained.step, "alpha": scale, "seed": settings.seed, "ema_decay": trained.ema_decay}
    scores |= {"data": data.name}
    with atomic_path(workdir / EVAL_FILE) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def _all(source: LabelledSource) -> Batch:
    return source.__getitems__(range(len(source)))


def score_table(scores: dict[str, Any]) -> str:
    """The scores for a person, generated beside held-out real samples."""
    rows = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")
    lines = [f"{'':18}{'generated':>12}{'held-out':>12}"]
    lines += [f"{name:18}{scores[name]:12.4f}{scores[name + '_heldout']:12.4f}" for name in rows]
    lines.append(f"{'frechet_ratio':18}{scores['frechet_ratio']:12.2f}{1:12.2f}")
    lines.append(f"{scores['n_generated']} images, alpha {scores['alpha']:g}, step {scores['step']}")
    return "\n".join(lines)
