"""The files of scores, and the tables that show them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drifting.errors import ConfigError
from drifting.runs.files import write_json

Scores = dict[str, Any]

EVAL_FILE = re.compile(r"eval-(\d+)\.json")

CHOSEN = ("num", "seed", "uint8", "ema_decay", "vae", "labels_sha256", "encoder", "encoder_weights", "neighbours")

FORMAT, VERSION = "drifting-scores", 1

COLUMNS = ("fid", "sfid", "inception_score", "frechet_distance", "precision", "recall", "f1")


def _check_settings(out: Path, about: Mapping[str, Any], alphas: Sequence[float | None]) -> None:
    """Raises `ConfigError` where a file of scores is there that was made with other settings than these."""
    if not out.exists():
        return
    try:
        old = json.loads(out.read_text(encoding="utf-8"))
        was = _settings(old, [one.get("alpha") for one in old["scores"]])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"--out={out}: is there and holds no scores; choose another, or remove it") from error
    wanted = _settings(about, alphas)
    if changed := [f"{key} was {was[key]!r}, is {wanted[key]!r}" for key in wanted if was[key] != wanted[key]]:
        raise ConfigError(f"--out={out}: was scored otherwise ({'; '.join(changed)}); choose another, or remove it")


def _settings(content: Mapping[str, Any], alphas: Sequence[float | None]) -> dict[str, Any]:
    """What a person chose of the content of a file of scores. A run that was trained on or anew is scored anew."""
    reference = content.get("reference")
    if isinstance(reference, dict):  # it may have been moved
        reference = reference.get("statistics_sha256")
    return {key: content.get(key) for key in CHOSEN} | {"reference": reference, "alpha": alphas}


def _write(out: Path, about: Mapping[str, Any], scores: list[Scores]) -> None:
    # It is imported here because it loads JAX, which whoever only reads scores need not wait for.
    from drifting.sampling.files import software

    write_json(out, {"format": FORMAT, "version": VERSION, **about, "software": software(), "scores": scores})


def latest_scores(workdir: Path) -> Scores | None:
    """What `drifting evaluate` found of a run at its latest step, the best guidance scale; None if it has not run.

    Returns:
        The scores, and `step seed uint8 data`; the lowest `fid` or `frechet_distance` is the best.
    """
    files = {int(match[1]): file for file in workdir.glob("eval-*.json") if (match := EVAL_FILE.fullmatch(file.name))}
    if not files:
        return None
    found = json.loads(files[max(files)].read_text(encoding="utf-8"))
    best: Scores = min(found["scores"], key=lambda scores: scores[distance_name(scores)])
    return best | {key: found[key] for key in ("step", "seed", "uint8", "data") if key in found}


def distance_name(scores: Mapping[str, Any]) -> str:
    """`fid` where there is one, or `frechet_distance`."""
    return "fid" if "fid" in scores else "frechet_distance"


def score_table(scores: Sequence[Scores]) -> str:
    """The scores of each guidance scale; against a run's own data, beside those of held-out real samples."""
    if "frechet_ratio" in scores[0]:
        return "\n\n".join(_own_data_table(one) for one in scores)
    names = [name for name in COLUMNS if name in scores[0]]
    lines = ["".join(f"{name:>18}" for name in ("alpha", "images", *names))]
    for one in scores:
        alpha = f"{one['alpha']:g}" if "alpha" in one else "-"
        lines.append(f"{alpha:>18}{one['num']:>18,}" + "".join(f"{one[name]:18.4f}" for name in names))
    return "\n".join(lines)


def _own_data_table(scores: Scores) -> str:
    rows = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")
    lines = [f"{'':18}{'generated':>12}{'held-out':>12}"]
    lines += [f"{name:18}{scores[name]:12.4f}{scores[name + '_heldout']:12.4f}" for name in rows]
    lines.append(f"{'frechet_ratio':18}{scores['frechet_ratio']:12.2f}{1:12.2f}")
    lines.append(f"{scores['num']} images, alpha {scores['alpha']:g}")
    return "\n".join(lines)
