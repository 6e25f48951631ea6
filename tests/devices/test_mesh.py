"""One step on many meshes, where every leaf lies, and what travels between the devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from drifting.assembly import networks
from drifting.config.schema import MAEConfig, ModelConfig
from drifting.devices import mesh
from drifting.devices.mesh import Layout
from drifting.errors import ConfigError
from tests.support.mesh_steps import MESHES, ONE, STEPS
from tests.support.runs import ROOT


def eight_devices(count: int = 8) -> dict[str, str]:
    """The environment of a process with so many devices, and threads enough for collectives to meet."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return os.environ | {"NPROC": str(2 * count), "XLA_FLAGS": flags}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("mesh") / "steps.npz"
    command = [sys.executable, "-m", "tests.support.mesh_steps", str(out)]
    done = subprocess.run(
        command, env=eight_devices(), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as z:
        return dict(z)


@pytest.mark.parametrize(
    ("name", "mesh"), [(name, mesh) for name, meshes in MESHES.items() for mesh in meshes],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}x{value[1]}",
)  # fmt: skip
def test_five_steps_do_not_depend_on_the_mesh(runs: dict[str, np.ndarray], name: str, mesh: tuple[int, int]):
    """Losses to 1e-6; parameters to a thousandth of their movement: AdamW moves each by about 2e-4 a step."""
    one, many = ({k.split("|", 2)[2]: v for k, v in runs.items() if k.startswith(f"{name}|{a}x{b}|")}
                 for a, b in (ONE, mesh))  # fmt: skip
    assert one.keys() == many.keys() and one["loss"].shape == (STEPS,)
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-6)
    for key in one.keys() - {"loss"}:
        np.testing.assert_allclose(many[key], one[key], rtol=0, atol=1e-6, err_msg=key)


def test_all_that_grows_with_the_devices_is_nothing(runs: dict[str, np.ndarray]):
    """A step adds up the gradient once, and besides it a few numbers, however many micro-batches and devices."""
    (reduced, other, params), many = runs["collectives|2"], runs["collectives|8"]
    assert params <= reduced < params + 200 and many[0] == reduced and many[2] == params
    assert other < 2000 and many[1] < 2000
    assert runs["travels|2"].tolist() == runs["travels|8"].tolist() == [0, 0]


# --- rules ------------------------------------------------------------------------------------------------------------


def layout_of(data: int, fsdp: int) -> Layout:
    """A layout of as many devices as asked for, which need not be there."""
    return Layout(jax.sharding.AbstractMesh((data, fsdp), mesh.BATCH_AXES))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dit", "mlp", "mae"])
def test_every_parameter_has_a_rule_and_the_large_ones_are_spread(name: str):
    if name == "mae":
        arguments = networks.mae_arguments(MAEConfig(lambda_cls=0.1), 4, 1000)
        init = lambda: nnx.to_pure_dict(nnx.state(networks.autoencoder(arguments, jax.random.key(0))))  # noqa: E731
    else:
        size = dict(preset="B") if name == "dit" else dict(name="mlp", hidden_size=512, depth=4)
        _, init = networks.generator(ModelConfig(**size), (32, 32, 4), 1000, 0)
    params = jax.eval_shape(init)
    found = layout_of(2, 4).params(params)
    sizes, spread = 0, 0
    for leaf, where in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        sizes, spread = sizes + leaf.size, spread + leaf.size * ("fsdp" in where.spec)
        if "fsdp" in where.spec:
            assert leaf.shape[where.spec.index("fsdp")] % 4 == 0
    assert spread > 0.98 * sizes


def test_parameters_of_a_network_of_ones_own_are_spread_too():
    shapes = {"table": (4, 6), "deep": (3, 4, 2), "shift": (4,), "scale": ()}
    found = layout_of(1, 2).params({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()})
    assert found["table"].spec == P(None, "fsdp") and found["deep"].spec == P(None, None, "fsdp")
    assert found["shift"].spec == found["scale"].spec == P()


def test_what_does_not_divide_lies_everywhere():
    odd = {"kernel": jax.ShapeDtypeStruct((6, 7), np.float32), "bias": jax.ShapeDtypeStruct((8,), np.float32)}
    found = layout_of(1, 2).params(odd)
    assert found["kernel"].spec == P() and found["bias"].spec == P()


def test_a_mesh_must_use_the_devices_there_are():
    with pytest.raises(ConfigError, match=r"^mesh\.data=3, mesh\.fsdp=1: their product must be the 1 device there is"):
        mesh.layout(data=3)
    with pytest.raises(ConfigError, match=r"^mesh\.fsdp=2: must divide the 1 device there is"):
        mesh.layout(fsdp=2)
    assert mesh.layout().devices == 1


def test_nothing_compiles_twice_in_a_run_on_several_devices(tmp_path: Path):
    """Drawing, scoring and saving as the run goes on, too, once each of them has been done."""
    command = [sys.executable, "-m", "tests.support.compiled", str(tmp_path / "run")]
    done = subprocess.run(
        command, env=eight_devices(2), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "6"
