"""The FID Inception network against torch-fidelity's, and its file against PyTorch's own.

With DRIFTING_WRITE_FIXTURES=1 inception.npz, state_zip.pth and state_legacy.pth in tests/fixtures are written first.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drifting.networks.inception import resize
from drifting.runs.files import sha256
from drifting.runs.torch_file import read_state_dict
from drifting.weights.fid_inception import load_inception
from tests.networks import test_inception as ours
from tests.runs import test_torch_file as files

torch = pytest.importorskip("torch")

FORMATS = {"zip": True, "legacy": False}
"""Of `torch.save`, by what its argument `_use_new_zipfile_serialization` is."""


def fidelity(module: str) -> Any:
    """A module of torch-fidelity alone: the package itself imports torchvision, which may be for another torch."""
    if "torch_fidelity" not in sys.modules:
        spec = importlib.util.find_spec("torch_fidelity")
        if spec is None:
            pytest.skip("no torch_fidelity")
        sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)  # found, and not run
    return importlib.import_module(f"torch_fidelity.{module}")


@pytest.fixture(scope="module", params=FORMATS)
def file(request: pytest.FixtureRequest, network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's weights as PyTorch writes them."""
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=FORMATS[request.param])
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The network of torch-fidelity with drawn weights. It needs a file of weights to be made from."""
    module = fidelity("feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("network") / "weights.pth"
    kind = module.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        # Without weights, only to learn what tensors there are.
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        empty = kind("drawn", ["2048"])
    tensors = ours.draw({name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()})
    torch.save({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, path)
    return kind("drawn", ["2048", "logits"], feature_extractor_weights_path=str(path))


def outputs(network: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What torch-fidelity computes of uint8 `[B, H, W, 3]`."""
    maps = []
    hook = network.Mixed_6d.register_forward_hook(lambda _, __, output: maps.append(output))
    with torch.no_grad():
        pool, logits = network(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    hook.remove()
    spatial = maps[0][:, :7].permute(0, 2, 3, 1)
    return {name: x.numpy() for name, x in dict(pool=pool, spatial=spatial, logits=logits).items()}


def squares(height: int, width: int) -> np.ndarray:
    """A bright and a dark image of 8 x 8 squares, uint8 `[2, height, width, 3]`: noise would all look alike."""
    colours = np.random.RandomState(1).randint(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    colours[1] //= 8
    return colours[:, np.arange(height) * 8 // height][:, :, np.arange(width) * 8 // width]


def test_fixture_is_what_torch_fidelity_computes(network: Any):
    images = squares(24, 32)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    arrays = outputs(network, images) | {"images": images, "shapes": np.array(json.dumps(shapes))}
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        ours.FIXTURE.parent.mkdir(exist_ok=True)
        np.savez_compressed(ours.FIXTURE, **arrays)
    fixture = ours.load_fixture()
    assert set(fixture) == set(arrays)
    assert json.loads(str(fixture["shapes"])) == shapes
    for name in set(arrays) - {"shapes"}:
        ours.assert_close(arrays[name], fixture[name])


@pytest.mark.parametrize("side", [299, 256, 32])
def test_outputs(network: Any, file: Path, side: int, capsys: pytest.CaptureFixture[str]):
    images = squares(side, side)
    expected = outputs(network, images)
    computed = ours.outputs(ours.graph(), load_inception(file, sha256(file)).params, images)
    for name, value in computed._asdict().items():
        error = np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        apart = np.abs(expected[name][0] - expected[name][1]).max() / np.abs(expected[name]).max()
        with capsys.disabled():
            print(f"\n{name} from {side}: largest error {error:.1e} of the largest value, images {apart:.2g} apart")
        assert apart > 0.1, "outputs this dull compare nothing"
        ours.assert_close(value, expected[name], 1e-4)


@pytest.mark.parametrize("size", [(256, 256), (32, 32), (64, 301), (13, 46)])
def test_resize(size: tuple[int, int]):
    """To rounding: the matrices are made of the same float32 positions."""
    old = fidelity("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    x = np.random.RandomState(3).randint(0, 256, (2, *size, 3)).astype(np.float32)
    expected = old(torch.from_numpy(x).permute(0, 3, 1, 2), (299, 299), align_corners=False).permute(0, 2, 3, 1)
    ours.assert_close(resize(x), expected.numpy(), 1e-6)


# --- files ------------------------------------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    """The tensors of `tests.runs.test_torch_file`, with the storages and classes that they are to have."""
    expected = files.expected()
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in expected.items() if name != "bfloat16"}
    tensors["bfloat16"] = torch.from_numpy(expected["bfloat16"].astype(np.float32)).bfloat16()
    tensors["transposed"] = tensors["matrix"].T
    tensors["window"] = tensors["matrix"][1:3, ::2]
    tensors["parameter"] = torch.nn.Parameter(tensors["parameter"])
    return tensors


@pytest.mark.parametrize("kind", FORMATS)
def test_fixtures_are_what_torch_reads(kind: str):
    path = files.FIXTURES / f"state_{kind}.pth"
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        torch.save(state(), path, _use_new_zipfile_serialization=FORMATS[kind])
    loaded = torch.load(path, weights_only=True)
    expected = files.expected()
    assert list(loaded) == list(state())
    for name, tensor in loaded.items():
        array = expected[name]
        assert str(tensor.dtype).removeprefix("torch.") == array.dtype.name
        np.testing.assert_array_equal(tensor.detach().float().numpy(), array.astype(np.float32))


@pytest.mark.parametrize("kind", FORMATS)
def test_state_dict_of_a_module(kind: str, tmp_path: Path):
    """An ordered dict with attributes, and counters."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=FORMATS[kind])
    arrays = read_state_dict(tmp_path / "x.pth")
    assert list(arrays) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_modules_are_refused(kind: str, tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth", _use_new_zipfile_serialization=FORMATS[kind])
    with pytest.raises(ValueError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "x.pth")
