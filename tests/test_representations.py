"""What a person sees who types a name in a notebook: one short line, however much the object holds."""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import drifting
from tests.support.runs import finished_run, tiny_config

ARRAYS = re.compile(r"^(?!.*Callable).*(Array|Params|OptState|graphdef)")
"""Types of fields whose values are arrays, or trees of them."""


def dataclasses_of_the_package() -> Iterator[type]:
    for module in pkgutil.walk_packages(drifting.__path__, "drifting."):
        if not module.name.endswith("__main__"):
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module.name:
                    yield found


SHOWN = {"ImageSet", "Animation", "ScoreEncoderParts", "TrainState", "SavedState"}
"""Those that no function of the public names returns, or whose shown array is one number."""


def test_no_array_is_shown():
    found = set()
    for kind in dataclasses_of_the_package():
        shown = [f for f in dataclasses.fields(kind) if f.repr and (ARRAYS.match(str(f.type)) or f.name == "graphdef")]
        if shown and kind.__dataclass_params__.repr and not kind.__name__.startswith("_"):
            found.add(kind.__name__)
    assert found <= SHOWN


def test_what_the_public_names_give_is_one_line(tmp_path_factory: pytest.TempPathFactory):
    source = drifting.ArraySource(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 4)
    trained = drifting.load(str(finished_run(tmp_path_factory)))
    with drifting.prepare(tiny_config(), source=source) as run:
        state = jax.eval_shape(run.empty)
        everything = [source, run, run.parts, run.encoder, run.layout, run.config, state, state.banks, trained]
        everything += [trained.generator, trained.space, trained.config, drifting.KERNELS["laplace"]]
        shown = {type(one).__name__: repr(one) for one in everything}
    assert {name: text for name, text in shown.items() if "\n" in text or len(text) > 1200} == {}
    assert shown["ArraySource"] == "<array: 20 images of 8x8x1, 4 classes>"
    assert shown["TrainedGenerator"].startswith("<generator of 8x8x1 images, 10 classes, ")


def test_folders_may_be_texts(tmp_path_factory: pytest.TempPathFactory):
    from drifting.sampling.generator import TrainedGenerator

    folder = finished_run(tmp_path_factory)
    assert TrainedGenerator.from_run(str(folder)).step == TrainedGenerator.from_run(Path(folder)).step
