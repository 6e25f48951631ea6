"""One way to all weights: every format and library, from a folder and from the hub, and what is refused."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from drifting.errors import HubError, InputError
from drifting.networks.dit import DiT
from drifting.networks.mae import MAE
from drifting.networks.vae import AutoencoderKL
from drifting.weights import artifact, catalogue, load
from drifting.weights.artifact import Artifact, flatten, save_artifact, unflatten
from drifting.weights.diffusers_vae import VAE_TENSORS, diffusers_name, vae_kwargs_from_diffusers
from drifting.weights.download import fetch
from drifting.weights.load import find_kind, load_folder, load_weights
from drifting.weights.readers import READERS
from drifting.weights.released import save_released
from drifting.weights.released_names import generator_kwargs_from_released
from tests.runs.test_torch_file import mapping, storage, tensor, write_zip
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub
from tests.support.torch_tensors import to_torch

ENCODER: dict[str, Any] = dict(
    num_classes=3, in_channels=1, base_channels=4, layers=[1, 1, 1, 1], patch_size=2, input_patch_size=1,
    dtype="float32", remat=False,
)  # fmt: skip

VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [8, 8], "in_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 4,
    "layers_per_block": 1, "norm_num_groups": 4, "out_channels": 3,
}  # fmt: skip

SAVERS = {"ours": save_artifact, "released": save_released}

INCEPTION = "pytorch-fid Inception"

TENSORS = {"ours": "params.safetensors", "released": "ema_params.msgpack"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub."""
    with fake_hub.serve() as served:
        fake_hub.use(monkeypatch, served.url, tmp_path / "home")
        yield served


def random_params(build: Any) -> dict[str, Any]:
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return random_params(lambda: MAE(**ENCODER, rngs=nnx.Rngs(0)))


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("layout", ["ours", "released"])
def test_either_format_from_a_folder_and_from_the_hub(
    hub: FakeHub, tmp_path: Path, params: dict[str, Any], layout: str
):
    folder = tmp_path / "encoder"
    SAVERS[layout](folder, kind="mae", model_config=ENCODER, params=params, step=5, ema_decay=0.9)
    hub.add_folder("me/nets", folder, prefix="a/b/")
    commit = hub.add("me/nets", {"a/b/unasked.bin": b"x", "README.md": b"x"})
    places = {str(folder): None, "hf://me/nets/a/b": commit, f"hf://me/nets@{commit}/a/b": commit}
    for reference, expected in places.items():
        artifact = load_weights(reference, "mae")
        assert (artifact.kind, artifact.model_config) == ("mae", ENCODER)
        assert (artifact.metadata["source"], artifact.metadata["commit"]) == (reference, expected)
        assert artifact.metadata["sha256"] == hashlib.sha256((folder / TENSORS[layout]).read_bytes()).hexdigest()
        assert_same(artifact.params, params)
    assert hub.downloads() == ["metadata.json", TENSORS[layout]]
    assert load_folder(folder).kind == "mae"


def test_the_tensors_are_of_the_commit_of_the_metadata(
    hub: FakeHub, tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Even if the branch moves between the two downloads."""
    save_artifact(tmp_path / "old", kind="mae", model_config=ENCODER, params=params, step=1, ema_decay=None)
    changed = jax.tree.map(lambda x: x + 1, params)
    save_artifact(tmp_path / "new", kind="mae", model_config=ENCODER, params=changed, step=2, ema_decay=None)
    hub.add_folder("me/nets", tmp_path / "old")
    hub.repos["me/nets"]["kept"] = dict(hub.repos["me/nets"]["main"])  # as a commit stays when a branch moves
    read = artifact.read_metadata

    def read_and_push(folder: Path) -> dict[str, Any]:
        hub.add_folder("me/nets", tmp_path / "new")
        return read(folder)

    monkeypatch.setattr(load, "read_metadata", read_and_push)
    assert_same(load_weights("hf://me/nets", "mae").params, params)


def test_another_kind_is_refused_before_its_tensors_are_downloaded(
    hub: FakeHub, tmp_path: Path, params: dict[str, Any]
):
    for layout, save in SAVERS.items():
        save(tmp_path / layout, kind="mae", model_config=ENCODER, params=params, step=1, ema_decay=None)
        hub.add_folder(f"me/{layout}", tmp_path / layout)
        for reference in (str(tmp_path / layout), f"hf://me/{layout}"):
            with pytest.raises(ValueError, match="holds a 'mae', expected a 'generator'"):
                load_weights(reference, "generator")
    assert set(hub.downloads()) == {"metadata.json"}


def test_a_released_name_is_loaded_from_its_folder(hub: FakeHub, tmp_path: Path, params: dict[str, Any]):
    save_released(tmp_path / "net", kind="mae", model_config=ENCODER, params=params, step=1, ema_decay=None)
    hub.add_folder("Goodeat/drifting", tmp_path / "net", prefix="models/mae/jax/mae_latent_256/")
    assert_same(load_weights("hf://Goodeat/drifting/mae_latent_256", "mae").params, params)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_vae_of_diffusers(hub: FakeHub, tmp_path: Path, where: str):
    params = random_params(lambda: AutoencoderKL(**vae_kwargs_from_diffusers(VAE), rngs=nnx.Rngs(0)))
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(VAE))
    save_file(to_torch(params, diffusers_name), folder / "diffusion_pytorch_model.safetensors")
    commit = hub.add_folder("stable/diffusion", folder, prefix="vae/")
    artifact = load_weights(str(folder) if where == "folder" else "hf://stable/diffusion/vae", "vae")
    assert (artifact.kind, artifact.metadata["commit"]) == ("vae", None if where == "folder" else commit)
    assert_same(artifact.params, params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layout", [*SAVERS, "diffusers"])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, params: dict[str, Any], layout: str, value: float):
    """In weights of every layout: nothing that is made with them would be free of these."""
    kind, folder = ("vae" if layout == "diffusers" else "mae"), tmp_path / "net"
    if kind == "vae":
        params = random_params(lambda: AutoencoderKL(**vae_kwargs_from_diffusers(VAE), rngs=nnx.Rngs(0)))
    flat = flatten(params)
    name = sorted(flat)[len(flat) // 2]
    changed = unflatten(flat | {name: np.where(flat[name] == flat[name].max(), value, flat[name]).astype(np.float32)})
    if kind == "vae":
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(VAE))
        save_file(to_torch(changed, diffusers_name), folder / "diffusion_pytorch_model.safetensors")
    else:
        SAVERS[layout](folder, kind=kind, model_config=ENCODER, params=changed, step=None, ema_decay=None)
    with pytest.raises(InputError, match=rf"^{folder}: {name}: has numbers that are not finite: copy it again$"):
        load_weights(str(folder), kind)


TORCH_STORAGES = {"<f4": "FloatStorage", "<f2": "HalfStorage"}


def write_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The tensors as PyTorch would save them."""
    body, files = {}, {}
    for k, (name, array) in enumerate(tensors.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        memory = storage(str(k), array.size, TORCH_STORAGES[array.dtype.str])
        body[name] = tensor(shape=array.shape, strides=strides, memory=memory)
        files[f"data/{k}"] = array.tobytes()
    write_zip(path, mapping(**body), **files)


@pytest.mark.parametrize("where", ["folder", "hub"])
@pytest.mark.parametrize("file", VAE_TENSORS)
def test_vae_under_every_name_and_in_a_pipeline(hub: FakeHub, tmp_path: Path, where: str, file: str):
    params = random_params(lambda: AutoencoderKL(**vae_kwargs_from_diffusers(VAE), rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params)
    tensors = to_torch(params, diffusers_name)
    if "16" in file:
        tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    folder = tmp_path / "pipeline"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "vae" / "config.json").write_text(json.dumps(VAE))
    (write_torch if file.endswith(".bin") else lambda path, found: save_file(found, path))(
        folder / "vae" / file, tensors
    )
    hub.add("me/sd", {"model_index.json": (folder / "model_index.json").read_bytes()})
    commit = hub.add_folder("me/sd", folder / "vae", prefix="vae/")
    for reference in [str(folder), str(folder / "vae")] if where == "folder" else ["hf://me/sd", "hf://me/sd/vae"]:
        assert find_kind(reference) == "vae"
        artifact = load_weights(reference, "vae")
        assert artifact.metadata["commit"] == (None if where == "folder" else commit)
        assert_same(artifact.params, params)
    if where == "folder":
        (folder / "vae" / file).unlink()
        with pytest.raises(InputError, match=rf"no file .*vae/{VAE_TENSORS[0]}"):
            load_weights(str(folder), "vae")
        (folder / "vae" / "config.json").unlink()
        with pytest.raises(InputError, match=r"has none of metadata\.json, config\.json"):
            load_weights(str(folder), "vae")


def stub(kind: str, seen: list[Path]) -> Any:
    """A reader that notes what it is given."""

    def load(path: Path) -> Artifact:
        seen.append(Path(path))
        return Artifact(kind, {}, {}, {"sha256": ""})

    return load


def replace(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    monkeypatch.setitem(READERS, name, dataclasses.replace(READERS[name], **changes))


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.description == "config.json"])
def test_a_library_s_network_comes_with_its_two_files(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str):
    reader, seen = READERS[name], []
    kind = str(reader.kind({}))
    replace(monkeypatch, name, load=stub(kind, seen))
    description = json.dumps({reader.field: reader.values[0]}).encode()
    hub.add("facebook/net", {"config.json": description, reader.tensors: b"x", "pytorch_model.bin": b"x"})
    assert find_kind("hf://facebook/net") == kind
    assert hub.downloads() == ["config.json"]
    assert load_weights("hf://facebook/net", kind).metadata["source"] == "hf://facebook/net"
    assert sorted(path.name for path in seen[0].iterdir()) == ["config.json", reader.tensors]
    for other in {"mae", "vae", "dinov2"} - {kind}:
        with pytest.raises(InputError, match=f"^hf://facebook/net: holds a '{kind}', expected a '{other}'"):
            load_weights("hf://facebook/net", other)


@pytest.mark.parametrize("reference", [None, ""])
def test_the_published_inception_comes_from_the_web(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, reference: Any):
    assert catalogue.INCEPTION_URL.endswith("/fid_weights/pt_inception-2015-12-05-6726825d.pth")
    seen: list[Path] = []
    hub.files["inception.pth"] = b"weights"
    assert READERS[INCEPTION].published == (catalogue.INCEPTION_URL, catalogue.INCEPTION_SHA256)
    published = (url := f"{hub.url}/files/inception.pth", hashlib.sha256(b"weights").hexdigest())
    replace(monkeypatch, INCEPTION, load=stub("inception", seen), published=published)
    assert load_weights(reference, "inception").metadata["source"] == url
    assert seen[0].read_bytes() == b"weights"


def test_an_inception_of_ones_own(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list[Path] = []
    replace(monkeypatch, INCEPTION, load=stub("inception", seen))
    (tmp_path / "net.pth").write_bytes(b"x")
    hub.add("me/inception", {catalogue.INCEPTION_FILE: b"x", "other": b"x"})
    load_weights(str(tmp_path / "net.pth"), "inception")
    load_weights("hf://me/inception", "inception")
    assert seen[0] == tmp_path / "net.pth"
    assert [path.name for path in seen[1].iterdir()] == [catalogue.INCEPTION_FILE]
    assert find_kind(str(tmp_path / "net.pth")) == find_kind("hf://me/inception") == "inception"
    with pytest.raises(InputError, match="there is no such folder"):
        load_weights(str(tmp_path / "none"), "inception")


def test_a_run_given_by_mistake(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    for kind in ("generator", "vae"):
        with pytest.raises(ValueError, match="is a run; give the folder that `drifting export` makes of it"):
            load_weights(str(tmp_path), kind)
    with pytest.raises(ValueError, match=rf"is a run; its encoder is {tmp_path / 'encoder'}"):
        load_weights(str(tmp_path), "mae")


@pytest.mark.parametrize(
    ("reference", "words"),
    [("", "no weights given for the mae"), ("none/here", "there is no such folder"), ("hf://x", "not a reference")],
)
def test_nothing_there(reference: str, words: str):
    with pytest.raises(ValueError, match=words) as error:
        load_weights(reference, "mae")
    assert "\n" not in str(error.value)


def test_unknown_formats_and_damaged_metadata(tmp_path: Path):
    for text, words in (
        ('{"format": "pickle"}', "format 'pickle', expected one of 'drifting-safetensors-1', 'flax.msgpack'"),
        ('{"format": ["x"]}', "not the description of an artifact"),
        ("{", "not JSON"),
        ('{"kind": "mae"}', "no model_config"),
    ):
        (tmp_path / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load_weights(str(tmp_path), "mae")


# --- tensors that are not those of the configuration ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p, c: p["encoder"]["conv1"].update(kernel=np.zeros((3, 3, 1, 5), np.float32)),
            "wrong tensor: encoder/co",
        ),
        (
            lambda p, c: p["encoder"]["conv1"].update(kernel=np.zeros((3, 3, 1, 4), np.float16)),
            r"kernel float16\[3, 3, ",
        ),
        (lambda p, c: p["encoder"].pop("conv1"), "missing tensor encoder/conv1/kernel: are weights and configuration"),
        (lambda p, c: p.update(more={"w": np.zeros(1, np.float32)}), "unexpected tensor more/w: are weights"),
        (lambda p, c: c.update(base_channels=8), "wrong tensor: "),
        (lambda p, c: c.update(base_channels="8"), r"model_config is not that of a mae \("),
        (lambda p, c: c.pop("layers"), r"model_config is not that of a mae \(TypeError"),
        (lambda p, c: c.clear(), r"model_config is not that of a mae \(TypeError"),
        (lambda p, c: c.update(new=1), r"model_config is not that of a mae \(TypeError"),
    ],
)
def test_our_tensors_must_be_those_of_their_configuration(
    tmp_path: Path, params: dict[str, Any], change: Any, message: str
):
    """Whole files, right checksums, and yet not this network: nothing of it may reach a computation."""
    changed, config = jax.tree.map(lambda leaf: leaf, params), dict(ENCODER)
    change(changed, config)
    save_artifact(tmp_path / "net", kind="mae", model_config=config, params=changed, step=1, ema_decay=None)
    for attempt in (lambda: load_weights(str(tmp_path / "net"), "mae"), lambda: load_folder(tmp_path / "net")):
        with pytest.raises(ValueError, match=message) as error:
            attempt()
        assert str(error.value).startswith(f"{tmp_path / 'net'}: ") and "\n" not in str(error.value)


def test_a_kind_that_nobody_knows(tmp_path: Path):
    save_artifact(tmp_path / "net", kind="potato", model_config={}, params={"w": np.zeros(1)}, step=1, ema_decay=None)
    with pytest.raises(ValueError, match="holds a 'potato', expected one of dit, mlp, mae, vae, dcae, convnext"):
        load_folder(tmp_path / "net")


def test_a_library_network_in_our_format(tmp_path: Path):
    """What `drifting import` makes of a VAE is a VAE wherever one is named."""
    kwargs = vae_kwargs_from_diffusers(VAE)
    params = random_params(lambda: AutoencoderKL(**kwargs, rngs=nnx.Rngs(0)))
    save_artifact(tmp_path / "vae", kind="vae", model_config=kwargs, params=params, step=None, ema_decay=None)
    found = load_weights(str(tmp_path / "vae"), "vae")
    assert_same(found.params, params)
    assert found.model_config == kwargs and found.metadata["source"] == str(tmp_path / "vae")
    assert find_kind(str(tmp_path / "vae")) == "vae"


def test_a_library_s_network_in_the_cache_needs_no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    """Also where another program has downloaded it, which has not asked for our description."""
    replace(monkeypatch, "diffusers VAE", load=stub("vae", []))
    hub.add("me/vae", {"config.json": b'{"_class_name": "AutoencoderKL"}', READERS["diffusers VAE"].tensors: b"x"})
    fetch("hf://me/vae", ["config.json", READERS["diffusers VAE"].tensors])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_weights("hf://me/vae", "vae").kind == "vae"


def test_no_network_is_not_an_absent_file(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    hub.repos["me/net"] = {"main": {}}
    with pytest.raises(ValueError, match=r"has none of metadata\.json, config\.json"):
        find_kind("hf://me/net")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids the network"):
        find_kind("hf://me/other")


# --- what is known of the released weights ----------------------------------------------------------------------------


def test_how_to_use_a_released_generator_is_known_of_its_reference_alone(hub: FakeHub, tmp_path: Path):
    kwargs = generator_kwargs_from_released(
        dict(
            cond_dim=8, num_classes=3, input_size=4, in_channels=4, out_channels=4, hidden_size=8, depth=1, num_heads=2
        )
    )
    params = random_params(lambda: DiT(**kwargs, rngs=nnx.Rngs(0)))
    save_released(tmp_path / "ablation", kind="generator", model_config=kwargs, params=params, step=1, ema_decay=None)
    for repo, prefix in (("Goodeat/drifting", "models/gen/jax/ablation/"), ("me/nets", "models/gen/jax/ablation/")):
        hub.add_folder(repo, tmp_path / "ablation", prefix=prefix)
    hub.add_folder("Goodeat/drifting", tmp_path / "ablation", prefix="models/gen/jax/pixel_L_sota/")
    expected = dict(image_shape=[256, 256, 3], vae="hf://stabilityai/sd-vae-ft-mse", alpha=2.0, alpha_range=[1.0, 4.0])
    expected |= {"class_names": ["0", "1", "2"]}
    commit = hub.commit("Goodeat/drifting", "main")
    for reference in ("/ablation", "/ablation/", "/models/gen/jax/ablation", f"@{commit}/ablation"):
        found = load_weights(f"hf://Goodeat/drifting{reference}", "generator")
        assert found.metadata["usage"] == expected and found.network == "dit"
    pixels = load_weights("hf://Goodeat/drifting/pixel_L_sota", "generator").metadata["usage"]
    assert pixels == expected | dict(vae=None, alpha=1.0)
    for reference in (str(tmp_path / "ablation"), "hf://me/nets/models/gen/jax/ablation"):
        assert "usage" not in load_weights(reference, "generator").metadata


def test_the_catalogue_has_every_released_generator_once():
    generators = {name for name, folder in catalogue.RELEASED_FOLDERS.items() if "/gen/" in folder}
    assert {f"hf://Goodeat/drifting/{name}" for name in generators} == set(catalogue.RELEASED_USAGE)
