"""The plan of a run: operations and sizes against the compiler's and the published counts, and what fits where."""

import dataclasses
import io
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from drifting.assembly import recipe
from drifting.assembly.spaces import sample_space
from drifting.cli.commands import main
from drifting.cli.settings import load_settings
from drifting.config.parse import parse
from drifting.config.schema import Config
from drifting.errors import ConfigError
from drifting.experiments.plan import plan, workload
from drifting.experiments.plan.flops import flops
from drifting.experiments.plan.workload import Mesh, Workload, measure_workload, parse_mesh
from tests.support.runs import tiny_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

ABLATION = CONFIGS / "imagenet_ablation.py"


def shapes(*sizes: tuple[int, ...]) -> list[Any]:
    return [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]


# --- operations -------------------------------------------------------------------------------------------------------


def convolve(x: Any, kernel: Any, stride: int, padding: int, groups: int = 1) -> Any:
    pads, numbers = ((padding, padding), (0, padding)), ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_convolutions_and_their_gradients_count_as_the_compiler_counts_them(stride: int, padding: int):
    """Taps on padding, and the zeros between the elements of a strided one's gradient, are not counted."""
    function = partial(convolve, stride=stride, padding=padding)
    given = shapes((2, 7, 8, 3), (3, 3, 3, 5))

    def backward(x: Any, kernel: Any) -> Any:
        out, pull_back = jax.vjp(function, x, kernel)
        return pull_back(out)

    for f in (function, backward):
        assert flops(f, *given) == jax.jit(f).lower(*given).cost_analysis()["flops"]


def test_grouped_convolutions():
    given = shapes((2, 7, 8, 6), (3, 3, 2, 9))
    function = partial(convolve, stride=1, padding=1, groups=3)
    assert flops(function, *given) == jax.jit(function).lower(*given).cost_analysis()["flops"]


def test_products_count_as_often_as_they_run():
    x, w = shapes((4, 8, 5), (4, 5, 6))
    once = 2 * 4 * 8 * 5 * 6
    assert flops(lambda x, w: jnp.einsum("bij,bjk->bik", x, w), x, w) == once

    def looped(x: Any, w: Any) -> Any:
        return jax.lax.scan(lambda total, _: (total + jax.jit(jnp.matmul)(x, w), None), 0 * x @ w, None, length=3)[0]

    assert flops(looped, x, w) == 4 * once

    def remembered(x: Any, w: Any) -> Any:
        return jax.checkpoint(lambda w: jnp.sin(jnp.matmul(x, w)))(w).sum()

    # Forward, again, and the gradient of w.
    assert flops(jax.grad(remembered, argnums=1), x, w) == 3 * once


# --- the published ablation -------------------------------------------------------------------------------------------


def settings(name: str) -> Config:
    config = parse(load_settings(str(name)))
    assert isinstance(config, Config)
    return config


@pytest.fixture(scope="module")
def ablation() -> Workload:
    return measure_workload(settings(str(ABLATION)))


def test_operations_are_those_the_compiler_counted(ablation: Workload):
    """For the released code, TFLOP a step: ours are products and convolutions alone, with attention computed again.

    So is the product behind it: 12 of 768 x 768 for each of 272 tokens.
    """
    behind_attention = 2 * 12 * 768**2 * 272 * 4096 / 1e12
    expected = {
        "generator, forward + backward": 605 + behind_attention,
        "encoders on real samples": 165,
        "encoders on generated, forward + backward": 263,
    }
    for name, teraflop in expected.items():
        np.testing.assert_allclose(ablation.flops[name] / 1e12, teraflop, rtol=0.02, err_msg=name)
    assert ablation.operations(64) - ablation.operations(0) == sum(ablation.again.values())
    np.testing.assert_allclose(ablation.again["generator, forward again"] / 1e12, 605 / 3, rtol=0.02)


def test_operations_of_the_loss():
    """12 TFLOP: distances once, and a field for each of three widths."""
    config = settings(str(ABLATION))
    maps = {"all": jax.ShapeDtypeStruct((1, 1, 2_474_500), jnp.bfloat16)}  # products do not care how it is divided
    objective = recipe.objective_of(config.loss, "gpu")
    found = workload._loss_flops(objective, config, maps)
    np.testing.assert_allclose(found / 1e12, 12, rtol=0.03)


def test_sizes(ablation: Workload):
    assert ablation.parameters == {"generator": 132_708_880, "mae": 340_216_832, "vae": 83_653_863}
    one = ablation.memory(Mesh(), 64)
    assert one["parameters"] == 4 * 132_708_880 and one["averages"] == 4 * 132_708_880
    np.testing.assert_allclose(one["optimiser"], 8 * 132_708_880, rtol=1e-6)
    assert one["banks"] == 129_000 * (32 * 32 * 8 * 2 + 4) + 4 * 1001  # moments in float16, numbers, counters
    # 2,474,500 numbers a sample, two bytes each, four for standard deviations.
    kept = one["features kept, generated"] / 4096
    assert 2 * 2_474_500 < kept < 4 * 2_474_500
    np.testing.assert_allclose(one["features kept, real"] / 5120, kept)
    spread = ablation.memory(Mesh(4, 2), 64)
    assert spread["parameters"] == one["parameters"] / 2 and spread["banks"] == one["banks"]
    assert spread["features kept, real"] == one["features kept, real"] / 8


def test_resident_data_are_spread_over_the_devices():
    found = measure_workload(tiny_config(data=dict(resident="device")))
    assert found.memory(Mesh(), 0)["resident data"] == 8 * found.memory(Mesh(4, 2), 0)["resident data"]
    assert found.spread["resident data"] == 1400 * 8 * 8  # the digits that are not held out, in bytes
    assert "banks" not in found.replicated and "resident data" not in measure_workload(tiny_config()).spread


def test_resident_latents_are_moments_of_both_views():
    space = dataclasses.replace(sample_space("random://smoke", (16, 16, 3), abstract=True), encoded=True)
    images = workload.ImageFacts((16, 16, 3), 10, 100)
    numbers = 2 * np.prod(space.shape)
    for flip in (False, True):
        config = tiny_config(data=dict(flip=flip))
        assert workload._resident_bytes(config, space, images) == 100 * (1 + flip) * numbers * 2
    fresh = dataclasses.replace(space, encoded=False, image_dtype="uint8")  # encoded when they are drawn
    assert workload._resident_bytes(tiny_config(data=dict(flip=True)), fresh, images) == 100 * 16 * 16 * 3


def outcome(monkeypatch: Any, found: Workload, device: str, mesh: str, **arguments: Any) -> tuple[bool, str]:
    monkeypatch.setattr(plan, "measure_workload", lambda config: found)
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    fits = plan.plan(settings(str(ABLATION)), mesh=mesh, device=device, console=console, **arguments)
    return fits, " ".join(printed.getvalue().split())


@pytest.mark.parametrize(
    ("device", "mesh"), [("a100-80", "data=1"), ("h100", "data=1,fsdp=1"), ("rtx4090", "data=8"), ("rtx3090", "data=8")]
)
def test_one_device_of_80_gb_fits_and_so_do_eight_of_24(monkeypatch: Any, ablation: Workload, device: str, mesh: str):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    doubled = {name: 2 * kept for name, kept in ablation.activations.items()}  # there is room
    fits, text = outcome(monkeypatch, dataclasses.replace(ablation, activations=doubled), device, mesh)
    assert fits and f"{device} ({parse_mesh(mesh)}) with train.micro_batch=" in text


def test_micro_batches_have_room_where_they_can(monkeypatch: Any, ablation: Workload):
    """The compiler may assign more to them than is counted; where all choices are tight, about the least need."""
    sizes = ablation.micro_batches(Mesh(8))
    totals = {size: ablation.total(Mesh(8), size) for size in sizes}
    for needed, chosen, tight in (
        (totals[0] * 1.01, 0, False),
        (totals[2048] * 1.16, 2048, False),
        (totals[2048] * 1.1, 1024, False),
        (totals[512] * 1.1, next(size for size in sizes if totals[size] <= 1.1 * min(totals.values())), True),
    ):
        share = needed / plan.DEVICE_KINDS["h200"].memory
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.4f}")
        fits, text = outcome(monkeypatch, ablation, "h200", "data=8")
        assert fits and f"with train.micro_batch={chosen} " in text and ("but nearly fills it" in text) is tight


def test_a_forward_pass_has_room_beside_all_features(ablation: Workload):
    """Several micro-batches of generated samples, or half of the real ones; a whole batch has its activations there."""
    assert ablation.real == 64 * 80 and ablation.widest == 2 * 272 * 3 * 768
    wide = dataclasses.replace(ablation, widest=1e9)
    assert wide.memory(Mesh(8), 64)["a forward pass"] == 2 * 8 * 64 / 8 * 1e9
    assert wide.memory(Mesh(8), 2048)["a forward pass"] == 2 * 4096 / 8 * 1e9
    assert wide.memory(Mesh(8), 0) == ablation.memory(Mesh(8), 0)


def test_what_does_not_fit_says_what_would(monkeypatch: Any, ablation: Workload):
    fits, text = outcome(monkeypatch, ablation, "rtx4090", "data=1")
    assert not fits and "does not fit on 1 x rtx4090" in text
    assert "what would: rtx4090 with mesh data=" in text and ", or " in text
    fits, text = outcome(monkeypatch, ablation, "h200", "data=1", micro_batch=0)
    assert not fits and "use train.micro_batch=" in text


def test_time_is_operations_at_a_share_of_the_peak(monkeypatch: Any, ablation: Workload):
    fits, text = outcome(monkeypatch, ablation, "h200", "data=8", micro_batch=512, efficiency=0.1)
    seconds = ablation.operations(512) / (8 * 0.1 * 989e12)
    assert fits and f"30,000 steps of {seconds:.3g} s: {seconds * 30_000 / 3600:,.1f} hours" in text
    assert f"{8 * seconds * 30_000 / 3600:,.1f} device-hours" in text


def test_a_mesh_that_training_refuses_is_refused(monkeypatch: Any, ablation: Workload):
    with pytest.raises(ConfigError, match=r"^mesh=data=128,fsdp=1: loss\.labels=64: must be divisible by the 128"):
        outcome(monkeypatch, ablation, "h100", "data=128")
    _, text = outcome(monkeypatch, ablation, "tpu-v5e", "data=1")
    assert "data=128" not in text


def test_micro_batches_spread_evenly(ablation: Workload):
    sizes = ablation.micro_batches(Mesh(8))
    assert sizes == [0, *(8 * 2**n for n in range(8, -1, -1))]
    totals = [ablation.total(Mesh(8), size) for size in sizes]
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[1] > totals[2]


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_mesh():
    assert parse_mesh("data=8,fsdp=1") == Mesh(8, 1) and parse_mesh("fsdp=4") == Mesh(1, 4)
    for text in ("", "data", "data=0", "data=8,model=2", "data=2,data=2", "data=-1", "8"):
        with pytest.raises(ConfigError, match=r"^mesh=.*: give its axes as data=N,fsdp=M"):
            parse_mesh(text)


@pytest.mark.parametrize("name", ["imagenet_ablation.py:logkde_gauss,tiny", "mae_latent_256.py:tiny"])
def test_the_command(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", f"--config={CONFIGS / name}", "--device=rtx3090", "--mesh=data=2"]) == 0
    text = capsys.readouterr().out
    assert "fits on 2 x rtx3090 (data=2,fsdp=1) with train.micro_batch=0 (all at a time)" in text
    assert "2 steps of" in text and "TFLOP a step" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--device: give the kind of device, such as h100, "),
        (["--device=h10"], "--device=h10: use one of"),
        (["--device=h100", "--mesh=data:8"], "--mesh=data:8: give its axes as"),
        (
            ["--device=h100", "--mesh=data=3"],
            "--mesh=data=3,fsdp=1: loss.labels=2: must be divisible by the 3 devices of the mesh",
        ),
        (["--device=h100", "--mesh=data=2", "--micro_batch=3"], "--micro_batch=3: must divide"),
        (["--device=h100", "--efficiency=0"], "--efficiency=0.0: a share lies in (0, 1]"),
        (["--device=h100", "--config.train.micro_batch=3"], "train.micro_batch=3: must divide loss.labels"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", f"--config={ABLATION}:tiny", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_it_exits_with_1_where_nothing_fits(monkeypatch: Any, ablation: Workload, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(plan, "measure_workload", lambda config: ablation)
    assert main(["plan", f"--config={ABLATION}", "--device=l4"]) == 1
    assert "does not fit on 1 x l4" in capsys.readouterr().out


def test_activations_grow_with_depth_and_fall_with_rematerialisation():
    def kept(**model: Any) -> float:
        config = tiny_config(model=model)
        return measure_workload(config).activations["generator"]

    one, two = kept(depth=1), kept(depth=2)
    assert two > one > 0 and kept(depth=2, remat=True) < two


def test_images_of_a_folder_are_counted_and_of_many_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What lies beside them is no image."""
    for label, count in (("a", 3), ("b", 5), ("c", 1)):
        (tmp_path / label / "deep").mkdir(parents=True)
        for number in range(count):
            (tmp_path / label / "deep" / f"{number}.JPEG").touch()
        (tmp_path / label / "notes.txt").touch()
    data = tiny_config(data={"name": "imagefolder", "path": str(tmp_path), "image_size": 8}).data
    found = workload.image_facts(data)
    assert (found.classes, found.samples, found.notes) == (3, 9, ())
    monkeypatch.setattr(workload, "COUNTED_IMAGES", 8)
    found = workload.image_facts(data)
    assert (found.classes, found.samples) == (3, 12)
    assert found.notes == ("about 12 images, by the first 2 of 3 class folders",)
