"""An encoder of somebody else, in this one file: trained with, scored in and reported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.cli.commands import main
from drifting.method.encoders import ENCODERS, Encoder, EncoderKind
from drifting.method.space import SampleSpace
from drifting.networks import NETWORKS
from drifting.networks.network import Network
from drifting.scoring import image_features
from drifting.scoring.image_features import ScoreEncoderKind, ScoreEncoderParts
from drifting.weights.artifact import save_artifact
from drifting.weights.references import network
from tests.support.runs import TINY, metrics


class Edges(nnx.Module):
    """Differences of neighbouring pixels, each multiplied by a weight."""

    def __init__(self, *, gain: float, dtype: str, remat: bool = False, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jnp.full((2,), gain))

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = x[:, 1:, :-1] - x[:, :-1, :-1], x[:, :-1, 1:] - x[:, :-1, :-1]
        return jnp.concatenate([rows * self.weight[0], columns * self.weight[1]], axis=-1)


@dataclass(frozen=True)
class EdgesOptions:
    weights: str | None = None
    dtype: str = "float32"
    pooled: bool = True

    def __post_init__(self) -> None:
        if self.dtype != "float32":
            raise ValueError(f"dtype={self.dtype!r}: use float32")


def make(options: EdgesOptions, found: Network, space: SampleSpace) -> Encoder:
    if space.image_shape[2] != 1:
        raise ValueError(f"weights={options.weights!r}: takes grey images")

    def features(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        maps = nnx.merge(found.graphdef, params)(x)
        found_maps = {"edges": maps.reshape(len(x), -1, maps.shape[-1])}
        return found_maps | ({"edges_mean": maps.mean(axis=(1, 2))[:, None]} if options.pooled else {})

    return Encoder(features, of_images=True)


def for_scores(weights: str, shape: tuple[int, int, int]) -> ScoreEncoderParts:
    found = network(weights or None, "edges", dtype="float32", remat=False)

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {"features": nnx.merge(found.graphdef, params)(images / 127.5 - 1.0).reshape(len(images), -1)[:, :16]}

    return ScoreEncoderParts(found.params, function, found.checksum)


@pytest.fixture
def edges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One entry in each registry, and a folder with weights."""
    monkeypatch.setitem(NETWORKS, "edges", Edges)
    monkeypatch.setitem(ENCODERS, "edges", EncoderKind("edges", EdgesOptions, make))
    monkeypatch.setitem(image_features.SCORE_ENCODERS, "edges", ScoreEncoderKind(for_scores))
    params = nnx.to_pure_dict(nnx.state(Edges(gain=2.0, dtype="float32", rngs=nnx.Rngs(0))))
    arguments = {"gain": 2.0, "dtype": "float32", "remat": False}
    save_artifact(tmp_path / "net", kind="edges", model_config=arguments, params=params, step=1, ema_decay=None)
    return tmp_path / "net"


def command(workdir: Path, weights: Path, *more: str) -> list[str]:
    flags = ["--config.features.encoders=('edges',)", f"--config.features.options.edges.weights={weights}"]
    size = ["--config.model.name=mlp", "--config.model.num_heads=None", "--config.model.depth=2"]
    steps = ["--config.train.steps=3", "--config.train.log_every=1", "--config.train.sample_every=0"]
    return ["train", f"--config={TINY}", f"--workdir={workdir}", *flags, *size, *steps, *more]


def test_it_trains_scores_and_is_reported(edges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert main(command(run, edges)) == 0
    assert "features: edges " in capsys.readouterr().err
    lines = metrics(run)
    assert {"gap/global", "gap/edges", "gap/edges_mean"} <= set(lines[-1]) and np.isfinite(lines[-1]["loss"])
    reference, scores = tmp_path / "digits.npz", tmp_path / "scores.json"
    data = ["--config", str(TINY), f"--encoder=edges:{edges}", f"--out={reference}"]
    assert main(["reference", *data]) == 0
    assert main(["evaluate", f"--workdir={run}", "--num=64", f"--reference={reference}", f"--out={scores}"]) == 0
    found = json.loads(scores.read_text())
    assert found["encoder"] == "edges" and np.isfinite(found["scores"][0]["frechet_distance"])
    assert main(["report", f"--workdir={run}", f"--out={tmp_path / 'report.html'}"]) == 0
    assert "edges" in (tmp_path / "report.html").read_text(encoding="utf-8")
    # It goes on only with the same weights, wherever they lie.
    assert main(command(run, edges, "--config.train.steps=4")) == 0
    assert main(command(run, edges, "--config.train.steps=4", "--config.features.options.edges.pooled=False")) == 2
    assert "features.options.edges.pooled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.features.options.edges.size=3",
            "features.options.edges.size=3: there is no such key; known keys: w",
        ),
        ("--config.features.options.edges.pooled=3", "features.options.edges.pooled=3: expected bool"),
        ("--config.features.options.edges.dtype=bfloat16", "features.options.edges.dtype='bfloat16': use float32"),
        ("--config.features.options.edge.size=3", "features.options='edge': use one of mae, convnext, dinov2, edges"),
        ("--config.features.encoders=('edge',)", "features.encoders='edge': use one of mae, convnext, dinov2, edges"),
        (
            "--config.features.options.edges.weights=nowhere",
            "features.options.edges.weights='nowhere': there is no such",
        ),
    ],
)
def test_its_settings_are_read_strictly(
    edges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, message: str
):
    assert main(command(tmp_path / "run", edges, flag)) == 2
    assert capsys.readouterr().err.startswith(f"drifting: error: {message}")
    assert not (tmp_path / "run").exists()
