"""Uploads: what is pushed can be loaded from the hub again, and every reason why it cannot be pushed is one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants

from drifting.errors import HubError
from drifting.networks.mlp import MLP
from drifting.weights.artifact import save_artifact
from drifting.weights.load import load_weights
from drifting.weights.push import push_weights
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub

CONFIG: dict[str, Any] = dict(noise_dim=2, out_dim=4, hidden_size=3, depth=2, num_classes=2, dtype="float32")

PARAMS = nnx.to_pure_dict(nnx.state(MLP(**CONFIG, rngs=nnx.Rngs(0))))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub that knows the token in the environment."""
    with fake_hub.serve() as served:
        fake_hub.use(monkeypatch, served.url, tmp_path / "home")
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield served


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    save(folder)
    (folder / "README.md").write_text("---\nlibrary_name: drifting\n---\n")
    return folder


def save(folder: Path, **changes: Any) -> None:
    options = dict(kind="generator", model_config=CONFIG, params=PARAMS, step=5, ema_decay=0.9, network="mlp")
    options |= changes
    save_artifact(folder, **options)  # type: ignore[arg-type]


def test_what_is_pushed_can_be_loaded(hub: FakeHub, artifact: Path):
    text = (artifact / "README.md").read_text() + "\n# NAME\n\nhf://OWNER/NAME\n"
    (artifact / "README.md").write_text(text)
    assert push_weights(artifact, "me/net") == f"{hub.url}/me/net"
    # The page names the repository; the folder here is as it was.
    assert hub.repos["me/net"]["main"]["README.md"].decode().endswith("\n# net\n\nhf://me/net\n")
    assert (artifact / "README.md").read_text() == text
    assert set(hub.repos["me/net"]["main"]) == {"metadata.json", "params.safetensors", "README.md"}
    assert hub.messages == ["generator, step 5"] and not hub.private
    loaded = load_weights("hf://me/net", "generator")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, PARAMS)
    assert loaded.metadata["commit"] == hub.commit("me/net", "main")


def test_a_later_push_replaces_the_files_of_the_branch(hub: FakeHub, artifact: Path):
    push_weights(artifact, "me/net", message="first")
    save(artifact, step=6, params=jax.tree.map(lambda leaf: leaf + 1, PARAMS))
    assert push_weights(artifact, "me/net", revision="v2", message="second") == f"{hub.url}/me/net/tree/v2"
    assert push_weights(artifact, "me/net", revision="v2", message="third") == f"{hub.url}/me/net/tree/v2"
    assert hub.messages == ["first", "second", "third"]
    assert load_weights("hf://me/net", "generator").metadata["step"] == 5
    assert load_weights("hf://me/net@v2", "generator").metadata["step"] == 6


def test_private_repositories(hub: FakeHub, artifact: Path):
    push_weights(artifact, "me/net", private=True)
    assert hub.private == {"me/net"}


@pytest.mark.parametrize("repo", ["net", "a/b/c", "a/b@v", "hf://a/b", "datasets/a/b", "a b/c", ""])
def test_repositories_are_owner_and_name(hub: FakeHub, artifact: Path, repo: str):
    with pytest.raises(ValueError, match="give the repository as OWNER/NAME"):
        push_weights(artifact, repo)
    assert not hub.requests


def test_only_whole_artifacts_are_pushed(hub: FakeHub, artifact: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="is this the folder of an artifact"):
        push_weights(tmp_path, "me/net")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^folder=.*: is a run; give the folder that `drifting export` makes of it"):
        push_weights(tmp_path / "run", "me/net")
    (artifact / "params.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="SHA-256"):
        push_weights(artifact, "me/net")
    assert not hub.requests


def test_without_a_token(hub: FakeHub, artifact: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"nobody is logged in: log in with `hf auth login`, or set HF_TOKEN"):
        push_weights(artifact, "me/net")
    assert not hub.requests


def test_what_the_hub_refuses(hub: FakeHub, artifact: Path, monkeypatch: pytest.MonkeyPatch):
    hub.readers_only.add("google")
    with pytest.raises(HubError, match=r"google/net: refused with HTTP 403 .*have the rights.*permissions") as error:
        push_weights(artifact, "google/net")
    assert "\n" not in str(error.value)
    (artifact / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match=r"me/net: Invalid metadata in README.md. - bad YAML") as wrong:
        push_weights(artifact, "me/net")
    assert "\n" not in str(wrong.value)
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(HubError, match=r"HTTP 401 .*hf auth login"):
        push_weights(artifact, "me/net")


def test_without_network(hub: FakeHub, artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake_hub.use(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")  # nobody listens there
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    with pytest.raises(HubError, match="me/net: no connection") as error:
        push_weights(artifact, "me/net")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids the network"):
        push_weights(artifact, "me/net")
