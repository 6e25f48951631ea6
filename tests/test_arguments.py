"""Whatever a public function is given, it says in one line of which argument it is, and never with a bare TypeError."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drifting
from drifting.assembly.run import Run
from drifting.config.arguments import checked_arguments
from drifting.errors import ArgumentError
from drifting.sampling.generator import TrainedGenerator
from tests.support.runs import finished_run, tiny_config
from tests.test_api import Net, features, few

Calls = dict[str, tuple[Callable[..., Any], dict[str, Any]]]

X = jnp.ones((4, 2))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """Every public function and method with arguments that it takes. None is called with all of them right."""
    trained = drifting.load(finished_run(tmp_path_factory))
    config = tiny_config(loss={"labels": 2})
    own = {"source": few(), "network": Net, "encoder": features}
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
    with drifting.prepare(config, **own) as run:
        state, folder = jax.eval_shape(run.empty), tmp_path_factory.mktemp("new")
        yield {
            "drift_loss": (drifting.drift_loss, {"generated": X, "positives": X, "unconditional": X, "alpha": 1.5}),
            "drift_field": (drifting.drift_field, {"x": X, "positives": X, "width": 0.3}),
            "ArraySource": (drifting.ArraySource, {"images": images, "labels": labels}),
            "prepare": (drifting.prepare, {"config": config, **own}),
            "train": (drifting.train, {"config": config, "workdir": folder / "run", "source": few()}),
            "load": (drifting.load, {"reference": finished_run(tmp_path_factory)}),
            "score": (drifting.score, {"trained": trained}),
            "from_run": (TrainedGenerator.from_run, {"workdir": finished_run(tmp_path_factory)}),
            "from_weights": (TrainedGenerator.from_weights, {"weights": "nowhere"}),
            "trained.alpha": (trained.alpha, {}),
            "trained.sampler": (trained.sampler, {"batch_size": 1, "count": 1}),
            "trained.sample": (trained.sample, {"classes": [0]}),
            "run.batches": (run.batches, {"steps": 1}),
            "run.step": (run.step, {"state": state, "batch": {}}),
            "run.sample": (run.sample, {"state": state, "labels": [0]}),
        }
        assert not list(folder.iterdir())


def test_every_public_function_is_tried(calls: Calls):
    """`Config` is made by `of`, whose sections tests/config tries; a `Kernel` is tried where it is used."""
    functions = {name for name in drifting.__all__ if callable(getattr(drifting, name))}
    assert functions - {"Config", "Kernel"} == {name for name in calls if hasattr(drifting, name)}
    methods = {f"trained.{name}" for name in ("alpha", "sampler", "sample")}
    methods |= {f"run.{name}" for name, member in vars(Run).items() if _takes(name, member)}
    assert methods <= set(calls)


def _takes(name: str, member: Any) -> bool:
    return inspect.isfunction(member) and not name.startswith("_") and len(inspect.signature(member).parameters) > 1


def wrong_values(hint: Any) -> list[Any]:
    """Values of other kinds than an annotation says, and numbers that count or measure nothing."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    wrong: list[Any] = [object(), [object()]]
    if types.NoneType not in kinds:
        wrong.append(None)
    if str not in kinds:
        wrong += ["a", "", "0.1", b"a"]
    if not {int, float, np.number} & set(kinds):
        wrong += [3, 1.5]
    elif float not in kinds:
        wrong += [1.5, [1], {}]
    if bool not in kinds:
        wrong += [True]
    if {int, float} & set(kinds):
        wrong += [-1, float("nan")]
    return wrong


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_one_line(calls: Calls):
    told, bad = 0, []
    for called, (function, good) in calls.items():
        made = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
        hints = typing.get_type_hints(inspect.unwrap(made))
        for name in inspect.signature(function).parameters:
            for value in wrong_values(hints[name]):
                case = f"{called}({name}={value!r})"
                try:
                    function(**good | {name: value})
                    bad.append(f"{case} is taken")
                except ValueError as error:
                    told += 1
                    if name not in str(error) or "\n" in str(error):
                        bad.append(f"{case} says {error}")
                except Exception as error:
                    bad.append(f"{case} raises {type(error).__name__}: {error}")
    assert not bad, "\n".join(bad)
    assert told > 300


def test_numbers_of_numpy_and_of_jax_are_numbers():
    @checked_arguments
    def function(count: int, scale: float | None = None, names: typing.Sequence[str] = ()) -> bool:
        return True

    assert all(function(count) for count in (3, np.int64(3), np.asarray(3), jnp.asarray(3)))
    assert all(function(1, scale) for scale in (None, 1, 0.5, np.float32(2), jnp.asarray(0.5), np.int32(1)))
    assert all(function(1, None, names) for names in ([], ("a",), np.asarray(["a"])))
    for given in ({"count": np.ones(1, int)}, {"count": np.bool_(True)}, {"count": 1, "names": "abc"}):
        with pytest.raises(ArgumentError, match=r"^(count|names)=.*: expected a (whole number|list)$"):
            function(**given)  # type: ignore[arg-type]
