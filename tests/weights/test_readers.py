"""Seams: a network, a format and a generator of somebody else's, none of which the package knows."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.errors import InputError
from drifting.networks import NETWORKS, PRESETS
from drifting.sampling.generator import TrainedGenerator
from drifting.weights.artifact import Artifact, save_artifact
from drifting.weights.load import find_kind, load_folder, load_weights
from drifting.weights.readers import READERS, WeightsFormat
from drifting.weights.references import network
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub


class Toy(nnx.Module):
    """An encoder of images: one linear map of each pixel."""

    def __init__(self, *, channels: int, width: int, dtype: str = "float32", rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (channels, width)))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class Waves(nnx.Module):
    """A generator that knows no label."""

    def __init__(self, *, side: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.offset = nnx.Param(jax.random.normal(rngs.params(), (side, side, 1)))
        self.sample_shape = (side, side, 1)

    def __call__(self, noise: dict[str, jax.Array], labels: jax.Array, alpha: jax.Array) -> jax.Array:
        return jnp.sin(noise["image"] + self.offset[...])

    def sample_noise(self, key: jax.Array) -> dict[str, jax.Array]:
        return {"image": jax.random.normal(key, self.sample_shape)}


ARGUMENTS = dict(channels=3, width=5)

KERNEL = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def load_toy(folder: Path) -> Artifact:
    """A reader of somebody's library: `toy.json`, and `toy.bin` with bare numbers."""
    width = json.loads((folder / "toy.json").read_text())["columns"]
    kernel = np.frombuffer((folder / "toy.bin").read_bytes(), np.float32).reshape(-1, width)
    arguments = dict(channels=len(kernel), width=width)
    return Artifact("toy", arguments, {"kernel": kernel}, {"sha256": "of toy.bin"})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry each: the network, its preset, and the format of its files."""
    monkeypatch.setitem(NETWORKS, "toy", Toy)
    monkeypatch.setitem(PRESETS, "toy", {"tiny": ARGUMENTS})
    reader = WeightsFormat(
        load_toy,
        kind=lambda description: "toy",
        tensors="toy.bin",
        description="toy.json",
        field="library",
        values=("toys",),
    )
    monkeypatch.setitem(READERS, "toys", reader)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub."""
    with fake_hub.serve() as served:
        fake_hub.use(monkeypatch, served.url, tmp_path / "home")
        yield served


def write(folder: Path, library: str = "toys") -> Path:
    folder.mkdir()
    (folder / "toy.json").write_text(json.dumps({"library": library, "columns": 5}))
    (folder / "toy.bin").write_bytes(KERNEL.tobytes())
    return folder


@pytest.mark.usefixtures("toy")
def test_a_format_from_outside_is_read_from_a_folder_and_from_the_hub(hub: FakeHub, tmp_path: Path):
    hub.add_folder("me/toys", write(tmp_path / "toy"), prefix="a/")
    for reference in (str(tmp_path / "toy"), "hf://me/toys/a"):
        assert find_kind(reference) == "toy"
        found = network(reference, "toy", dtype="bfloat16")
        assert found.arguments == ARGUMENTS | {"dtype": "bfloat16"} and found.checksum == "of toy.bin"
        outputs = nnx.merge(found.graphdef, found.params)(jnp.eye(3))
        np.testing.assert_array_equal(outputs, KERNEL.astype(jnp.bfloat16))
        with pytest.raises(InputError, match=f"^{reference}: holds a 'toy', expected a 'mae'"):
            load_weights(reference, "mae")
    assert load_folder(tmp_path / "toy").kind == "toy"
    with pytest.raises(InputError, match=r"toy\.json: library 'dolls', expected one of 'toys'"):
        find_kind(str(write(tmp_path / "doll", library="dolls")))


@pytest.mark.usefixtures("toy")
def test_a_network_from_outside_in_our_format_and_by_its_preset(tmp_path: Path):
    save_artifact(
        tmp_path / "net", kind="toy", model_config=ARGUMENTS, params={"kernel": KERNEL}, step=1, ema_decay=None
    )
    np.testing.assert_array_equal(network(str(tmp_path / "net"), "toy").params["kernel"], KERNEL)
    assert network("random://tiny", "toy").params["kernel"].shape == KERNEL.shape
    save_artifact(tmp_path / "net", kind="toy", model_config=ARGUMENTS, params={"bias": KERNEL}, step=1, ema_decay=None)
    with pytest.raises(InputError, match="missing tensor kernel; unexpected tensor bias"):
        network(str(tmp_path / "net"), "toy")


def test_a_generator_from_outside_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NETWORKS, "waves", Waves)
    params = nnx.to_pure_dict(nnx.state(Waves(side=4, num_classes=2, rngs=nnx.Rngs(0))))
    options: dict[str, Any] = dict(model_config=dict(side=4, num_classes=2), params=params, step=3, ema_decay=None)
    save_artifact(tmp_path / "net", kind="generator", network="waves", **options)
    trained = TrainedGenerator.from_weights(str(tmp_path / "net"))
    images = trained.sample(np.arange(2), seed=0, alpha=trained.alpha(None), batch_size=2)
    assert images.shape == (2, 4, 4, 1) and trained.usage.class_names == ("0", "1")


def test_presets_are_of_networks():
    for name, presets in PRESETS.items():
        for arguments in presets.values():
            inspect.signature(NETWORKS[name]).bind(**arguments, dtype="float32", remat=True, rngs=nnx.Rngs(0))
