"""The page of a model on the hub: a `README.md` with everything needed to use the weights and to judge them."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData, parse_hf_uri

from drifting.errors import require_argument
from drifting.weights.download import HUB_SCHEME

CARD_FILE = "README.md"

EXAMPLE_REPO = "OWNER/NAME"
"""Stands for the repository until it is known; `push_weights` puts its name in."""

CARD_TAGS = {"generator": ["drifting", "jax", "image-generation"], "mae": ["drifting", "jax", "masked-autoencoder"]}

CARD_TASKS = {"generator": "unconditional-image-generation", "mae": "image-feature-extraction"}

NETWORK_TITLES = {"dit": "diffusion transformer", "mlp": "MLP", "mae": "masked autoencoder"}

PROJECT_SENTENCE = "`drifting`, a JAX framework for [drifting generative models](https://arxiv.org/abs/2602.04770)"


def model_card(
    metadata: Mapping[str, Any],
    *,
    parameters: int,
    repo: str = EXAMPLE_REPO,
    settings: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    license_id: str | None = None,
) -> str:
    """The text of `README.md` for an artifact.

    Args:
        metadata: the artifact's, of kind `generator` or `mae`; `network`, `class_names` and `data` are shown if they
            are there.
        parameters: how many numbers the model has.
        repo: `OWNER/NAME` of the hub, for the commands.
        settings: the run's `config.json`.
        scores: the scores of the run, by name.
        license_id: the hub's name of a license, such as `apache-2.0`; None says nothing, which is up to the owner.

    Returns:
        Markdown after a YAML front matter.

    Raises:
        ArgumentError: an artifact of another kind.
    """
    kind, start = metadata["kind"], _start(metadata)
    require_argument(
        kind in CARD_TAGS, "kind", kind, f"there is no model card for it, only for {' and '.join(CARD_TAGS)}"
    )
    front = ModelCardData(
        license=license_id,
        library_name="drifting",
        tags=CARD_TAGS[kind],
        pipeline_tag=CARD_TASKS[kind],
        base_model=parse_hf_uri(start.rstrip("/")).id if start.startswith(HUB_SCHEME) else None,
    )
    parts = [f"---\n{front.to_yaml()}\n---\n\n# {repo.rpartition('/')[2]}", _introduction(kind), _usage(kind, repo)]
    parts.append("## Model\n\n" + _table(_model_facts(kind, metadata, parameters)))
    parts.append("## Training\n\n" + _table(_training_facts(metadata, settings or {})))
    if scores:
        parts.append("## Scores\n\n" + _table(scores))
    for title, content in (
        ("Model configuration", metadata["model_config"]),
        ("Settings of the run", settings),
    ):
        if content:
            parts.append(_details(title, content))
    return "\n\n".join(parts) + "\n"


def _introduction(kind: str) -> str:
    if kind == "mae":
        return (
            "A masked autoencoder whose frozen encoder is a feature space for training one-step generators with "
            f"{PROJECT_SENTENCE}."
        )
    return f"A generator that draws an image in one evaluation of its network, trained with {PROJECT_SENTENCE}."


def _usage(kind: str, repo: str) -> str:
    if kind == "mae":
        command = f"drifting train --config=CONFIG.py --workdir=RUN --config.features.options.mae.weights=hf://{repo}"
        code = f'from drifting.weights.load import load_weights\n\nartifact = load_weights("hf://{repo}", "{kind}")'
    else:
        command = f"drifting sample --weights=hf://{repo} --out=samples.png"
        code = (
            f'import drifting\n\ngenerator = drifting.load("hf://{repo}")\n'
            "images = generator.sample([0, 1, 2, 3], seed=0)  # [4, height, width, channels] in [-1, 1]"
        )
    return f"## Use\n\n```sh\n{command}\n```\n\n```python\n{code}\n```"


def _model_facts(kind: str, metadata: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    config, network = metadata["model_config"], metadata.get("network", kind)
    facts = {"network": NETWORK_TITLES.get(network, network), "parameters": f"{parameters:,}"}
    shown = {
        "hidden_size": "width",
        "base_channels": "channels of the first stage",
        "depth": "depth",
        "layers": "blocks of the stages",
        "patch_size": "patch size",
        "input_size": "height and width of a sample",
        "num_classes": "classes",
        "dtype": "computes in",
    }
    return facts | {text: config[key] for key, text in shown.items() if key in config}


def _training_facts(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    loss, optimizer = settings.get("loss", {}), settings.get("optimizer", {})
    usage = metadata.get("usage") or {}
    facts = {
        "height, width, channels of an image": usage.get("image_shape"),
        "VAE of its latents": usage.get("vae"),
        "guidance scale (alpha)": usage.get("alpha"),
        "guidance scales it was trained with": usage.get("alpha_range"),
        "data": metadata.get("data") or settings.get("data", {}).get("name"),
        "class names": ", ".join(_shortened(metadata.get("class_names", ()))),
        "started from": _start(metadata),
        "steps": f"{metadata['step']:,}" if metadata.get("step") is not None else None,
        "decay of the averaged parameters (EMA)": metadata.get("ema_decay"),
        "relative width of the averaged parameters (EMA)": metadata.get("ema_std"),
        "objective": loss.get("objective"),
        "kernel": loss.get("kernel"),
        "kernel widths": loss.get("widths"),
        "learning rate": optimizer.get("learning_rate"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _start(metadata: Mapping[str, Any]) -> str:
    """The weights that training began with, as its settings named them; '' where parameters were drawn."""
    return str((metadata.get("start") or {}).get("from", ""))


def _shortened(names: Any, most: int = 20) -> list[str]:
    return [str(name) for name in names[:most]] + ([f"and {len(names) - most} more"] if len(names) > most else [])


def _table(facts: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items())])


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _details(title: str, content: Any) -> str:
    block = json.dumps(content, indent=2)
    return f"<details><summary>{title}</summary>\n\n```json\n{block}\n```\n\n</details>"
