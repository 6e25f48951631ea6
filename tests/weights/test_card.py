"""Model cards: a front matter that the hub understands, and everything needed to use and to judge the weights."""

import json
import re
from typing import Any

import pytest
from huggingface_hub import ModelCard

from drifting.errors import ArgumentError
from drifting.weights.card import model_card

GENERATOR: dict[str, Any] = dict(
    kind="generator",
    network="dit",
    model_config=dict(patch_size=2, hidden_size=64, depth=4, input_size=8, num_classes=10, dtype="bfloat16"),
    step=120_000,
    ema_decay=0.9995,
    data="digits",
    class_names=[str(digit) for digit in range(10)],
)

SETTINGS: dict[str, Any] = dict(
    loss=dict(objective="log_kde", kernel="gauss", widths=[0.02, 0.2]),
    data=dict(name="array", path="digits.npz"),
    features=dict(options={"mae": {"weights": "hf://me/encoder"}}),
    optimizer=dict(learning_rate=2e-4),
)


def card(**changes: Any) -> str:
    options = dict(repo="me/digits", parameters=1_234_567, settings=SETTINGS, scores=None) | changes
    return model_card(options.pop("metadata", GENERATOR), **options)


def rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.*?) \| (.*) \|$", text, re.MULTILINE))


def test_front_matter_is_what_the_hub_reads():
    data = ModelCard(card()).data
    assert (data.library_name, data.tags) == ("drifting", ["drifting", "jax", "image-generation"])
    assert data.pipeline_tag == "unconditional-image-generation" and data.license is None
    assert ModelCard(card(license_id="apache-2.0")).data.license == "apache-2.0"


@pytest.mark.parametrize(
    ("start", "base"),
    [("hf://Goodeat/drifting/latent_B_sota", "Goodeat/drifting"), ("hf://me/net@v1", "me/net"), ("demo", None)],
)
def test_the_weights_that_a_training_started_from_are_its_base_on_the_hub(start: str, base: str | None):
    text = card(metadata=GENERATOR | {"start": {"from": start}})
    assert ModelCard(text).data.base_model == base and rows(text)["started from"] == start
    assert "started from" not in rows(card())


def test_commands_name_the_repository():
    assert "drifting sample --weights=hf://me/digits --out=" in card()
    assert 'drifting.load("hf://me/digits")' in card() and "generator.sample([0, 1, 2, 3], seed=0)" in card()
    encoder = card(metadata=dict(kind="mae", model_config=dict(layers=[1, 2], base_channels=8), step=1))
    assert (
        "--config.features.options.mae.weights=hf://me/digits" in encoder
        and rows(encoder)["blocks of the stages"] == "1, 2"
    )


def test_facts_of_model_and_training():
    facts = rows(card())
    assert facts["network"] == "diffusion transformer" and facts["parameters"] == "1,234,567"
    assert (facts["width"], facts["patch size"], facts["computes in"]) == ("64", "2", "bfloat16")
    assert (facts["data"], facts["steps"]) == ("digits", "120,000")
    assert facts["decay of the averaged parameters (EMA)"] == "0.9995"
    assert (facts["objective"], facts["kernel widths"], facts["learning rate"]) == ("log_kde", "0.02, 0.2", "0.0002")
    assert facts["class names"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    many = card(metadata=GENERATOR | {"class_names": [f"c{i}" for i in range(1000)]})
    assert rows(many)["class names"].endswith("c19, and 980 more")
    mlp = card(metadata=GENERATOR | {"network": "mlp", "model_config": dict(hidden_size=8)})
    assert rows(mlp)["network"] == "MLP"


def test_scores_are_shown_if_there_are_any():
    assert "## Scores" not in card()
    facts = rows(card(scores={"frechet_distance": 1.23456789, "data": "digits|8x8"}))
    assert facts["frechet_distance"] == "1.235" and facts["data"] == r"digits\|8x8"


def test_settings_are_whole():
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", card(), re.DOTALL)]
    assert blocks == [GENERATOR["model_config"], SETTINGS]


def test_without_settings():
    facts = rows(card(settings=None, metadata=dict(kind="generator", model_config={}, step=None, ema_decay=None)))
    assert set(facts) == {"network", "parameters"}


def test_other_kinds_have_no_card():
    with pytest.raises(ArgumentError, match="kind=vae: there is no model card for it"):
        card(metadata=dict(kind="vae"))
