"""References and downloads: what the hub holds arrives whole, checked and once, or one line says why it does not."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from drifting.errors import HubError
from drifting.weights.catalogue import RELEASED_FOLDERS
from drifting.weights.download import HubFolder, cache_folder, fetch, fetch_url, parse_reference
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub

REPO = "someone/digits"

SMALL, LARGE = b'{"step": 7}', np.random.default_rng(0).bytes(50_000)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one repository."""
    with fake_hub.serve() as served:
        served.add(REPO, {"metadata.json": SMALL, "params.safetensors": LARGE, "sub/metadata.json": b"{}"})
        fake_hub.use(monkeypatch, served.url, tmp_path / "home")
        yield served


def cached_files(home: Path) -> list[str]:
    """The files under their names, and the parts of files, in the cache of the hub."""
    return sorted(path.name for path in home.rglob("*") if path.is_symlink() or path.suffix == ".incomplete")


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hf://a/b", ("a/b", None, "")),
        ("hf://a/b/", ("a/b", None, "")),
        ("hf://a/b@v1", ("a/b", "v1", "")),
        ("hf://a/b@v1/x/y", ("a/b", "v1", "x/y")),
        ("hf://a/b/x/y", ("a/b", None, "x/y")),
        ("hf://Goodeat/drifting/latent_L_sota", ("Goodeat/drifting", None, "models/gen/jax/latent_L_sota")),
        ("hf://Goodeat/drifting@abc/ablation", ("Goodeat/drifting", "abc", "models/gen/jax/ablation")),
        ("hf://Goodeat/drifting/mae_pixel_640", ("Goodeat/drifting", None, "models/mae/jax/mae_pixel_640")),
        (
            "hf://Goodeat/drifting/models/mae/jax/mae_latent_256",
            ("Goodeat/drifting", None, "models/mae/jax/mae_latent_256"),
        ),
    ],
)
def test_references_of_the_hub(reference: str, expected: tuple[str, str | None, str]):
    assert parse_reference(reference) == HubFolder(reference, *expected)


def test_released_names_are_eight_in_two_folders():
    assert len(RELEASED_FOLDERS) == 8
    assert all(folder.endswith(f"/jax/{name}") for name, folder in RELEASED_FOLDERS.items())


@pytest.mark.parametrize("reference", ["hf://", "hf://x", "hf:///x", "hf://a/b@", "hf://datasets/a/b", "hf://a/b/../c"])
def test_malformed_references(reference: str):
    with pytest.raises(ValueError, match=r"give hf://OWNER/REPO\[@REVISION\]\[/FOLDER\]") as error:
        fetch(reference, ["metadata.json"])
    assert one_line(error).startswith(reference)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("latent_l_sota", "did you mean hf://Goodeat/drifting/latent_L_sota"),
        ("models/gen/jax/ablatoin", "did you mean hf://Goodeat/drifting/ablation"),
        ("", "known names: latent_L_sota, latent_B_sota"),
    ],
)
def test_unknown_released_name_is_an_error_before_any_network(hub: FakeHub, name: str, words: str):
    with pytest.raises(ValueError, match=words) as error:
        fetch(f"hf://Goodeat/drifting/{name}", ["metadata.json"])
    assert one_line(error) and not hub.requests


def test_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert fetch(str(tmp_path), ["anything"]).path == tmp_path
    assert fetch(tmp_path, ["anything"]).commit is None
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert fetch(f"~/{tmp_path.name}", []).path == tmp_path
    with pytest.raises(ValueError, match="there is no such folder"):
        fetch(str(tmp_path / "none"), [])


# --- repositories -----------------------------------------------------------------------------------------------------


def test_exactly_the_files_asked_for_come_once(hub: FakeHub):
    fetched = fetch(f"hf://{REPO}", ["metadata.json", "params.safetensors"], first_of=["README.md"])
    assert fetched.commit == hub.commit(REPO, "main")
    assert sorted(path.name for path in fetched.path.iterdir()) == ["metadata.json", "params.safetensors"]
    assert (fetched.path / "metadata.json").read_bytes() == SMALL
    assert (fetched.path / "params.safetensors").read_bytes() == LARGE
    assert fetch(f"hf://{REPO}", ["metadata.json", "params.safetensors"]) == fetched
    assert hub.downloads() == ["metadata.json", "params.safetensors"]
    assert fetch(f"hf://{REPO}/sub", ["metadata.json"]).path == fetched.path / "sub"


def test_all_files_are_of_one_commit_and_of_the_revision(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    old = hub.commit(REPO, "main")
    first = fetch(f"hf://{REPO}", ["metadata.json"])
    hub.add(REPO, {"metadata.json": b"newer"}, revision="v2")
    second = fetch(f"hf://{REPO}@v2", ["metadata.json"])
    assert second.commit == hub.commit(REPO, "v2") != first.commit == old
    assert (second.path / "metadata.json").read_bytes() == b"newer"
    assert (fetch(f"hf://{REPO}@{old}", ["metadata.json"]).path / "metadata.json").read_bytes() == SMALL
    hub.requests.clear()
    fetch(f"hf://{REPO}", ["metadata.json", "params.safetensors"])
    assert {path.split("/")[4] for _, path, _ in hub.requests} == {"main", old}


def test_a_cut_connection_goes_on_where_it_stopped(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut = 2
    fetched = fetch(f"hf://{REPO}", ["params.safetensors"])
    assert (fetched.path / "params.safetensors").read_bytes() == LARGE
    ranges = [asked for method, _, asked in hub.requests if method == "GET"]
    assert ranges[0] is None and len(ranges) == 3
    starts = [int(str(asked)[len("bytes=") : -1]) for asked in ranges[1:]]
    assert 20_000 < starts[0] < starts[1] < len(LARGE)


def test_a_download_that_fails_leaves_nothing_under_the_name_and_succeeds_later(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut = 1000
    with pytest.raises(HubError, match=r"params.safetensors: no connection") as error:
        fetch(f"hf://{REPO}", ["params.safetensors"])
    assert "run the same command again" in one_line(error)
    assert not [name for name in cached_files(tmp_path / "home") if not name.endswith(".incomplete")]
    hub.cut = 0
    assert (fetch(f"hf://{REPO}", ["params.safetensors"]).path / "params.safetensors").read_bytes() == LARGE


def test_a_full_disk(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(HubError, match=r"no space left on the disk: make room, or set HF_HOME") as error:
        fetch(f"hf://{REPO}", ["params.safetensors"])
    assert one_line(error) and not [
        name for name in cached_files(tmp_path / "home") if not name.endswith(".incomplete")
    ]


@pytest.mark.parametrize("name", ["metadata.json", "params.safetensors"])  # checksums of git, and SHA-256
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damage_in_the_cache_is_found_removed_and_repaired(hub: FakeHub, name: str, damage: object):
    path = fetch(f"hf://{REPO}", [name]).path / name
    blob, content = path.resolve(), path.read_bytes()
    blob.write_bytes(damage(content))  # type: ignore[operator]
    with pytest.raises(HubError, match=f"{name}: damaged .*run the same command to download it again") as error:
        fetch(f"hf://{REPO}", [name])
    assert blob.name in one_line(error)
    assert not blob.exists() and not path.is_symlink()
    assert (fetch(f"hf://{REPO}", [name]).path / name).read_bytes() == content


def test_a_damaged_blob_in_a_shared_store_is_removed_too(hub: FakeHub, tmp_path: Path):
    path = fetch(f"hf://{REPO}", ["params.safetensors"]).path / "params.safetensors"
    blob, store = path.resolve(), tmp_path / "store"
    blob.rename(store)
    blob.symlink_to(store)
    assert fetch(f"hf://{REPO}", ["params.safetensors"]).path == path.parent
    store.write_bytes(b"damaged")
    with pytest.raises(HubError, match="damaged"):
        fetch(f"hf://{REPO}", ["params.safetensors"])
    assert not store.exists() and not blob.is_symlink() and not path.is_symlink()


@pytest.mark.parametrize(
    ("reference", "names", "words"),
    [
        ("hf://nobody/none", ["metadata.json"], "no such repository, or a private one"),
        (f"hf://{REPO}@none", ["metadata.json"], "no such revision"),
        (f"hf://{REPO}/none", ["metadata.json"], "metadata.json: the repository has no such file"),
        (f"hf://{REPO}", ["metadata.json", "none.bin"], "none.bin: the repository has no such file"),
    ],
)
def test_wrong_references(hub: FakeHub, reference: str, names: list[str], words: str):
    with pytest.raises(ValueError, match=words) as error:
        fetch(reference, names)
    assert one_line(error).startswith(reference)


def test_optional_files_alone(hub: FakeHub):
    assert fetch(f"hf://{REPO}", [], first_of=["none", "metadata.json"]).commit == hub.commit(REPO, "main")
    with pytest.raises(ValueError, match="has none of a, b"):
        fetch(f"hf://{REPO}", [], first_of=["a", "b"])


def test_a_token_opens_private_repositories(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    hub.private.add(REPO)
    with pytest.raises(ValueError, match="or a private one: check its name, or log in"):
        fetch(f"hf://{REPO}", ["metadata.json"])
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    assert (fetch(f"hf://{REPO}", ["metadata.json"]).path / "metadata.json").read_bytes() == SMALL


def test_gated_repositories(hub: FakeHub):
    hub.gated.add(REPO)
    with pytest.raises(HubError, match=r"access must be granted.*hf auth login.*HF_TOKEN") as error:
        fetch(f"hf://{REPO}", ["metadata.json"])
    assert one_line(error)


@pytest.mark.parametrize(("status", "words"), [(503, "HTTP 503: try again later"), (403, "HTTP 403.*permissions")])
def test_a_hub_out_of_order(hub: FakeHub, status: int, words: str):
    hub.broken = status
    with pytest.raises(HubError, match=words) as error:
        fetch(f"hf://{REPO}", ["metadata.json"])
    assert one_line(error)


def test_without_network_the_cache_serves(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fetched = fetch(f"hf://{REPO}", ["metadata.json"])
    fake_hub.use(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")  # nobody listens there
    assert fetch(f"hf://{REPO}", ["metadata.json"]) == fetched
    with pytest.raises(
        HubError, match=r"params.safetensors: not in the cache: no connection .*check the network"
    ) as error:
        fetch(f"hf://{REPO}", ["params.safetensors"])
    assert one_line(error)


def test_the_environment_variables_of_the_hub_are_honoured(hub: FakeHub, tmp_path: Path):
    """In a process of its own: cached files are served offline out of `HF_HOME`, others refused."""
    fetched = fetch(f"hf://{REPO}", ["metadata.json"])
    code = (
        "import sys\n"
        "from drifting.weights.download import fetch\n"
        f"print(fetch('hf://{REPO}', ['metadata.json']).path)\n"
        "try:\n"
        f"    fetch('hf://{REPO}', ['params.safetensors'])\n"
        "except OSError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    offline = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    hub.requests.clear()
    done = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120, check=False
    )
    path, error = done.stdout.splitlines()
    assert path == str(fetched.path), done.stderr
    assert error.startswith("HubError") and "not in the cache: HF_HUB_OFFLINE forbids the network" in error
    assert not hub.requests


# --- one file of the web ----------------------------------------------------------------------------------------------

CHECKSUM = hashlib.sha256(LARGE).hexdigest()


def test_a_file_of_the_web_comes_once(hub: FakeHub, tmp_path: Path):
    hub.files["net.pth"] = LARGE
    path = fetch_url(f"{hub.url}/files/net.pth", CHECKSUM)
    assert path == cache_folder() / "net.pth" == tmp_path / "home" / "cache" / "drifting" / "net.pth"
    assert path.read_bytes() == LARGE
    assert fetch_url(f"{hub.url}/files/net.pth", CHECKSUM) == path
    assert hub.downloads() == ["net.pth"]
    path.write_bytes(b"damaged")
    assert fetch_url(f"{hub.url}/files/net.pth", CHECKSUM).read_bytes() == LARGE


def test_what_comes_of_the_web_is_whole_and_the_right_file_or_nothing(hub: FakeHub):
    hub.files["net.pth"], hub.files["other.pth"] = LARGE, LARGE[:-1]
    url, other = f"{hub.url}/files/net.pth", f"{hub.url}/files/other.pth"
    hub.cut = 1
    with pytest.raises(HubError, match=r"net.pth: no connection") as cut:
        fetch_url(url, CHECKSUM)
    with pytest.raises(HubError, match=r"other.pth: damaged .SHA-256") as damaged:
        fetch_url(other, CHECKSUM)
    assert one_line(cut) and one_line(damaged) and not list(cache_folder().iterdir())
    assert fetch_url(url, CHECKSUM).read_bytes() == LARGE


def test_processes_may_fetch_the_same_file_of_the_web_together(hub: FakeHub):
    hub.files["net.pth"] = LARGE
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch_url(f"{hub.url}/files/net.pth", CHECKSUM), range(4)))
    assert all(path.read_bytes() == LARGE for path in paths)
    assert [path.name for path in cache_folder().iterdir()] == ["net.pth"]


def test_a_file_of_the_web_without_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(HubError, match=r"127.0.0.1:9/net.pth: no connection") as error:
        fetch_url("http://127.0.0.1:9/net.pth", CHECKSUM)
    assert one_line(error)
    with pytest.raises(HubError, match="HTTP 404"):
        fetch_url(f"{hub.url}/files/none.pth", CHECKSUM)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids the network"):
        fetch_url(f"{hub.url}/files/net.pth", CHECKSUM)
    hub.files["net.pth"] = LARGE
    (cache_folder() / "net.pth").write_bytes(LARGE)
    assert fetch_url(f"{hub.url}/files/net.pth", CHECKSUM).read_bytes() == LARGE
