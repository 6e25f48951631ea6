"""The package from Python: what importing it costs, the examples of docs/python.md, and the notebooks."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import nnx

import drifting
from drifting.assembly.feed import batch_names
from drifting.assembly.networks import streams, trained_params
from drifting.data.source import Delivery, checked_source
from drifting.data.sources import SOURCES
from drifting.data.sources.digits import digits
from tests.support.documents import blocks, is_complete, notebooks, text_of
from tests.support.runs import ROOT, finished_run, metrics, tiny_config

NAMES = (
    "drift_loss", "drift_field", "Kernel", "KERNELS", "FIELDS", "LOSSES",
    "Config", "prepare", "train", "ArraySource", "load", "score",
)  # fmt: skip


def loaded_by(code: str) -> list[str]:
    """Modules that are not there when Python has started, and are after `code`."""
    program = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing():
    """Not one module besides those of `importlib` and `typing`: it takes no time, whatever else is installed."""
    assert set(loaded_by("import drifting")) - set(loaded_by("import importlib, typing")) == {"drifting"}


def test_the_names_are_the_twelve():
    assert sorted(drifting.__all__) == sorted(NAMES) and set(NAMES) <= set(dir(drifting))
    assert all(getattr(drifting, name).__doc__ for name in NAMES if callable(getattr(drifting, name)))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        drifting.nothing  # noqa: B018


def examples() -> list[str]:
    """The examples of docs/python.md that need names or runs of the reader's own, in their order."""
    return [code for code in blocks(text_of(ROOT / "docs" / "python.md"), "python") if not is_complete(code)]


class Net(nnx.Module):
    """The smallest network with labels and a guidance scale."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 64, rngs=rngs)
        self.classes = nnx.Embed(10, 64, rngs=rngs)

    def __call__(self, noise: dict[str, jax.Array], labels: jax.Array, alpha: jax.Array) -> jax.Array:
        flat = self.linear(noise["z"]) + self.classes(labels) * alpha[:, None]
        return flat.reshape(-1, 8, 8, 1)

    def sample_noise(self, key: jax.Array) -> dict[str, jax.Array]:
        return {"z": jax.random.normal(key, (4,))}


def features(x: jax.Array) -> dict[str, jax.Array]:
    return {"pixels": x.reshape(len(x), 1, 64)}


def test_the_example_of_a_loss_in_your_code():
    names: dict[str, Any] = {
        "network": lambda params, noise: noise @ params,
        "params": jnp.eye(32),
        "positives": jnp.ones((10, 16, 32)),
        "key": jax.random.key(0),
    }
    exec(examples()[0], names)
    assert np.isfinite(names["value"]) and np.isfinite(names["gap"])
    assert np.any(names["gradient"] != 0) and names["gradient"].shape == (32, 32)


def test_the_example_of_our_step_in_your_loop(capsys: pytest.CaptureFixture[str]):
    source = digits()
    images, labels = source.__getitems__(np.arange(len(source)))
    names: dict[str, Any] = {"images": images, "labels": labels, "MyNet": Net, "my_features": features}
    exec(shortened(examples()[1], {"10_000": "4", "1000": "2"}), names)
    assert names["images"].shape == (10, 8, 8, 1) and np.isfinite(names["images"]).all()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["2", "4"]


def test_the_example_of_a_generator_that_exists(tmp_path_factory: pytest.TempPathFactory):
    run = finished_run(tmp_path_factory)
    names: dict[str, Any] = {}
    exec(shortened(examples()[2], {'"runs/demo"': repr(str(run)), "num=1000": "num=40"}), names)
    assert names["images"].shape == (10, 8, 8, 1) and np.abs(names["images"]).max() <= 1
    assert {"frechet_distance", "precision"} <= set(names["scores"])
    with pytest.raises(drifting.errors.DriftingError, match=r"^num=3: must exceed eval\.neighbours=3$"):
        drifting.score(names["generator"], num=3)
    alone = names["generator"].sample(["4"], seed=2)
    np.testing.assert_array_equal(names["generator"].sample([3, 1, 4], seed=0)[2:], alone)


def shortened(code: str, replaced: dict[str, str]) -> str:
    """An example with smaller numbers and folders of the test."""
    for old, new in replaced.items():
        assert old in code, f"the example has no {old}"
        code = code.replace(old, new)
    return code


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Figures go nowhere, and are counted."""
    shown: list[int] = []

    def show() -> None:
        shown.extend(plt.get_fignums())
        plt.close("all")

    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", show)
    kernels = dict(drifting.KERNELS)
    yield shown
    plt.close("all")
    drifting.KERNELS.clear()  # one notebook adds to them
    drifting.KERNELS.update(kernels)


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_run(path: Path, pictures: list[int], capsys: pytest.CaptureFixture[str]):
    """Every cell runs, in order, with fewer steps and points; outputs that are kept are few bytes and no error."""
    assert path.stat().st_size < 200_000
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        code = re.sub(r"^STEPS = \d+$", "STEPS = 4", "".join(cell["source"]), flags=re.MULTILINE)
        exec(re.sub(r"\b500\b", "50", code), names)
    kept = sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert len(pictures) == kept > 0 and capsys.readouterr().out.count("\n") > 2


def test_the_readme_links_to_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(notebooks()) == 2 and all(f"(notebooks/{path.name})" in text for path in notebooks())


def test_own_arrays_are_trained_on_in_a_folder_and_gone_on_with(tmp_path: Path):
    config = tiny_config(
        model={"name": "mlp", "num_heads": None, "depth": 2}, train={"steps": 2, "log_every": 1, "sample_every": 0}
    )
    images, labels = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 4
    source = drifting.ArraySource(images, labels, ["north", "east", "south", "west"])
    assert drifting.train(config, str(tmp_path / "run"), source=source) == 2
    assert len(metrics(tmp_path / "run")) == 2
    assert drifting.load(tmp_path / "run").sample(["south"]).shape == (1, 8, 8, 1)
    other = drifting.ArraySource(images + np.uint8(9), labels, ["north", "east", "south", "west"])
    with pytest.raises(drifting.errors.DriftingError, match="checksum"):
        drifting.train(config, tmp_path / "run", source=other)


class Wrong(nnx.Module):
    """A network that gives samples of another size."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 63, rngs=rngs)

    def __call__(self, noise: dict[str, jax.Array], labels: jax.Array, alpha: jax.Array) -> jax.Array:
        return self.linear(noise["z"])

    def sample_noise(self, key: jax.Array) -> dict[str, jax.Array]:
        return {"z": jax.random.normal(key, (4,))}


class Noiseless(nnx.Module):
    """A network that does not say what noise it takes."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 64, rngs=rngs)


def with_state(make: Any) -> Any:
    """A network that is right but for what `make(rngs)` makes in it."""

    class Stateful(Net):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.more = make(rngs)

    return Stateful


STATE = {
    "more.mean (BatchStat)": lambda rngs: nnx.BatchNorm(4, rngs=rngs),
    "more.rngs.count (RngCount)": lambda rngs: nnx.Dropout(0.1, rngs=rngs),
    "more.count (RngCount)": lambda rngs: rngs.noise.fork(),
    "more (Cache)": lambda rngs: nnx.Cache(jnp.zeros(2)),
    "more (Variable)": lambda rngs: nnx.Variable(rngs.params.key),
    "more (array)": lambda rngs: jnp.zeros(2),
    "more.kernel (Intermediate)": lambda rngs: with_intermediate(nnx.Linear(2, 2, rngs=rngs)),
    "more (Param of int32)": lambda rngs: nnx.Param(jnp.zeros(2, int)),
}


def with_intermediate(layer: nnx.Linear) -> nnx.Linear:
    layer.kernel = nnx.Intermediate(layer.kernel[...])  # type: ignore[assignment]
    return layer


@pytest.mark.parametrize("named", STATE)
def test_a_network_with_other_state_than_parameters_is_one_line(named: str, monkeypatch: pytest.MonkeyPatch):
    network = with_state(STATE[named])
    message = (
        rf": makes a module with {re.escape(named)}, and a generator keeps nothing but what is trained, nnx\.Param"
    )
    with pytest.raises(drifting.errors.DriftingError, match=f"^network{message}") as raised:
        drifting.prepare(tiny_config(), source=few(), network=network, encoder=features)
    assert "\n" not in str(raised.value)
    with pytest.raises(drifting.errors.DriftingError, match=f"^model{message}"):
        trained_params("model", network(rngs=streams(0)))


def test_a_network_may_draw_from_any_stream_as_it_is_made():
    """Its parameters stay those of the stream `params`, and layers that draw nothing as they run have no state."""

    class Streams(Net):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.dropout = nnx.Dropout(0.1, deterministic=True)
            self.lora = nnx.LoRAParam(rngs.other.normal((2,)))

    whole, plain = (trained_params("network", kind(rngs=streams(3))) for kind in (Streams, Net))
    alone = nnx.to_pure_dict(nnx.state(Net(rngs=nnx.Rngs(params=jax.random.key(3)))))
    for found in ({name: whole[name] for name in plain}, plain):
        jax.tree.map(np.testing.assert_array_equal, found, alone)
    assert set(whole) - set(plain) == {"lora"} and not np.array_equal(whole["lora"], alone["linear"]["kernel"][0, :2])


class Empty(nnx.Module):
    """A network with nothing to train."""

    def __init__(self, *, rngs: nnx.Rngs) -> None: ...


def few() -> drifting.ArraySource:
    return drifting.ArraySource(np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": Wrong}, r"^network: called with \(noise, labels, alpha\) it must give samples \[B, 8, 8, 1\] "),
        ({"network": Noiseless}, r"^network: must have sample_noise\(key\), "),
        ({"network": lambda: Net}, r"^network: network\(rngs=nnx.Rngs\(0\)\) must make an nnx.Module "),
        ({"network": Empty}, "^network: makes a module without an nnx.Param, "),
        ({"encoder": lambda x: x}, "^encoder: gives no dict of maps: "),
        ({"encoder": lambda x: {}}, "^encoder: gives no dict of maps: "),
        (
            {"encoder": lambda x: {"flat": x.reshape(len(x), -1)}},
            r"^encoder: gives float32 of shape \(2, 64\) as 'flat'",
        ),
        ({"encoder": lambda x: {"a": x.reshape(1, -1, 4)}}, r"^encoder: gives float32 of shape .* as 'a' for two "),
        ({"encoder": lambda x: {"a": jnp.zeros((2, 3, 4), int)}}, "^encoder: gives int32 of shape "),
        ({"encoder": lambda x: {"a": x.reshape(7)}}, "^encoder: must be a function of samples "),
        ({"encoder": "mae"}, "^encoder: must be a function of samples "),
        (
            {"source": np.zeros(3)},
            "^source: is a ndarray without name, num_classes, class_names, labels, __getitems__: give Arr",
        ),
    ],
)
def test_wrong_parts_are_one_line_before_anything_is_compiled(given: dict[str, Any], message: str):
    with pytest.raises(drifting.errors.DriftingError, match=message) as raised:
        drifting.prepare(tiny_config(), **{"source": few(), "network": Net, "encoder": features} | given)
    assert "\n" not in str(raised.value)


class Own:
    """A source of somebody's own, right but for the members that it is made with."""

    name, shape, num_classes, class_names = "own", (8, 8, 1), 4, ("a", "b", "c", "d")

    def __init__(self, **members: Any) -> None:
        self.labels, self.images = np.arange(40, dtype=np.int32) % 4, np.zeros((40, 8, 8, 1), np.float32)
        for name, value in members.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Any) -> Any:
        return self.images[indices], self.labels[indices]


class Closed:
    """A source that has a name and nothing else."""

    name = "closed"


class Unlike(Own):
    """A source whose batches are not the same as its members."""

    def __init__(self, delivered: Any) -> None:
        super().__init__()
        self.delivered = delivered

    def __getitems__(self, indices: Any) -> Any:
        return self.delivered(*super().__getitems__(indices))


def fails(*_: Any) -> Any:
    raise KeyError("no such\nfile")


WRONG_SOURCES: list[tuple[Any, str]] = [
    (Closed(), "is a Closed without shape, num_classes, class_names, labels, __len__, __getitem__, __getitems__: "),
    (Own(name=None), "name is None: give a text"),
    (Own(shape=[8, 8, 1]), r"shape is \[8, 8, 1\]: give \(height, width, channels\)"),
    (Own(shape=(8, 8)), r"shape is \(8, 8\): give"),
    (Own(shape=(8, 0, 1)), r"shape is \(8, 0, 1\): give"),
    (Own(num_classes="4"), "num_classes is '4': give a whole number"),
    (Own(num_classes=3), "class_names has 4 names, and num_classes is 3"),
    (
        Own(num_classes=3, class_names=("a", "b", "c")),
        "labels go to 3, and num_classes is 3: number the classes from 0",
    ),
    (Own(class_names=None), "class_names is None: give a tuple of texts"),
    (Own(class_names=(0, 1, 2, 3)), r"class_names is \(0, 1, 2, 3\): give a tuple of texts"),
    (Own(labels=[0, 1] * 20), "labels is a list: give a NumPy array of integers"),
    (Own(labels=np.zeros(40)), r"labels has shape \(40,\) and dtype float64: give one integer per image"),
    (Own(labels=np.arange(40) % 4 - 1), "labels has the value -1: number the classes from 0"),
    (Own(labels=np.arange(30) % 4), "labels are 30, of 40 images: give one for each"),
    (Own(images=np.zeros((0, 8, 8, 1)), labels=np.zeros(0, np.int32)), r"labels is empty \(shape \(0,\)\)"),
    (Own(images=np.zeros((40, 8, 8, 3), np.float32)), r"images 0 and 39 have shape \(2, 8, 8, 3\), and are said to "),
    (Own(images=np.zeros((40, 8, 8, 1))), "images 0 and 39 have dtype float64, and are said to have float32: deliver"),
    (Own(images=np.full((40, 8, 8, 1), 255, np.float32)), "images 0 and 39 is float with values from 255.0 to 255.0"),
    (Own(images=np.full((40, 8, 8, 1), np.nan, np.float32)), "images 0 and 39 holds NaN or infinite values"),
    (Own(images=np.zeros((40, 8, 8, 1), np.uint8)), "images 0 and 39 have dtype uint8, and are said to have float32: "),
    (Own(delivers="uint8"), "delivers is a str: give a Delivery"),
    (Own(read=fails), r"images and labels of 0 and 39 cannot be read \(KeyError: 'no such.nfile'\)"),
    (Own(read=lambda *_: 3), r"images and labels of 0 and 39 cannot be read \(TypeError: "),
    (Unlike(lambda images, labels: images), "images and labels of 0 and 39 cannot be read|images 0 and 39 "),
    (Unlike(lambda images, labels: (images, None)), "images 0 and 39 come with labels None, which are not those of"),
    (Unlike(lambda images, labels: (images, labels + 1)), r"images 0 and 39 come with labels \[1, 4\], which are not"),
]


@pytest.mark.parametrize(("source", "message"), WRONG_SOURCES, ids=lambda x: x[:30] if isinstance(x, str) else "")
def test_a_wrong_source_is_one_line(source: Any, message: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(drifting.errors.DriftingError, match=f"^source: ({message})") as raised:
        drifting.prepare(tiny_config(), source=source, network=Net, encoder=features)
    assert "\n" not in str(raised.value)
    monkeypatch.setitem(SOURCES, "own", lambda split: source)
    if hasattr(source, "__len__") and len(source):
        with pytest.raises(drifting.errors.DriftingError, match=f"^data.name='own': ({message})"):
            drifting.prepare(tiny_config(data={"name": "own"}), network=Net, encoder=features)


LEVELS = Own(images=np.zeros((40, 8, 8, 1), np.uint8), delivers=Delivery((8, 8, 1), "uint8"))


def test_a_right_source_is_taken_as_it_is():
    for source in (Own(), Own(labels=np.arange(40) % 4), LEVELS, few()):
        assert checked_source(source) is source


@pytest.mark.parametrize("given", [None, 3, "loss", [], {}, {"loss": {}}, object()])
def test_settings_are_given_by_section(given: object):
    words = r"^Config\.of\(.*\): name the section, as in Config\.of\(train="
    with pytest.raises(drifting.errors.DriftingError, match=words):
        drifting.Config.of(given)  # type: ignore[arg-type]


def test_wrong_arguments_name_what_to_give():
    with pytest.raises(drifting.errors.DriftingError, match=r"^config: is a dict: give Config\.of\(\.\.\.\)$"):
        drifting.prepare({"loss": {}})  # type: ignore[arg-type]
    with pytest.raises(drifting.errors.DriftingError, match=r"^trained: is a str: give what drifting\.load returns$"):
        drifting.score("runs/demo")  # type: ignore[arg-type]
    with drifting.prepare(tiny_config(loss={"labels": 2}), source=few(), network=Net, encoder=features) as run:
        state = run.initial_state()
        for labels in ([4], [-1], [0.5], [[0]]):
            with pytest.raises(drifting.errors.DriftingError, match=r"^labels: give class numbers from 0 to 3"):
                run.sample(state, labels=labels)  # type: ignore[arg-type]
        with pytest.raises(drifting.errors.DriftingError, match=r"^batch: is without image, label, id: give one of "):
            run.step(state, {})
        batches = run.batches(2)
        batch = next(batches)
        following, _ = run.step(state, batch)
        used = "^state: has been used up by a step: give the state which that step returned$"
        with pytest.raises(drifting.errors.DriftingError, match=used):
            run.step(state, batch)
        with pytest.raises(drifting.errors.DriftingError, match=used):
            run.sample(state, labels=[0])
        assert int(following.step) == 1
    for more in (lambda: next(batches), lambda: run.batches(1)):
        with pytest.raises(drifting.errors.DriftingError, match=r"^batches: the run is closed: prepare another$"):
            more()


@pytest.mark.parametrize(("data", "bank"), [({}, {}), ({"resident": "device"}, None), ({"resident": "host"}, None)])
def test_a_batch_has_the_names_that_a_step_asks_for(data: dict[str, Any], bank: Any):
    config = tiny_config(loss={"labels": 2}, data=data, **({} if bank is not None else {"bank": {"per_class": 0}}))
    with drifting.prepare(config, source=few(), network=Net, encoder=features) as run:
        assert set(batch_names(config)) <= set(next(run.batches(1)))
        with pytest.raises(
            drifting.errors.DriftingError, match=f"^batch: is without {', '.join(batch_names(config))}: "
        ):
            run.step(run.initial_state(), {})


def test_an_argument_is_called_what_the_function_calls_it(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    for reference in ("/nope", "hf://one", str(tmp_path)):
        with pytest.raises(drifting.errors.DriftingError, match=rf"^reference={reference}: |^{reference}/config.json"):
            drifting.load(reference)
    with pytest.raises(drifting.errors.DriftingError, match=r"^images=None: expected an array$"):
        drifting.ArraySource(None, np.arange(3))  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers_of_settings():
    config = drifting.Config.of(
        train={"steps": np.int64(3)}, loss={"widths": np.asarray([0.1, 0.2]), "normalise_field": np.bool_(False)}
    )
    assert config == drifting.Config.of(train={"steps": 3}, loss={"widths": (0.1, 0.2), "normalise_field": False})
    assert type(config.train.steps) is int
    for wrong in (np.float32(3), np.bool_(True), np.asarray([3])):
        with pytest.raises(drifting.errors.DriftingError, match=r"^train\.steps=.*expected int"):
            drifting.Config.of(train={"steps": wrong})


def test_errors_are_there_without_asking_for_anything_else():
    assert "drifting.errors" in loaded_by("import drifting; drifting.errors.DriftingError")


@pytest.mark.usefixtures("unchecked")
def test_widths_are_positive():
    x = jnp.zeros((4, 2))
    for widths in ((-0.1,), (0.1, float("nan"))):
        with pytest.raises(ValueError, match=r"^widths: is .*, give one kernel width or several, positive$"):
            drifting.drift_loss(x, x, widths=widths)
    with pytest.raises(ValueError, match=r"^width: has shape \(2,\), give one kernel width$"):
        drifting.drift_field(x, x, width=jnp.array([0.1, 0.2]))
