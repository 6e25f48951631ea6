"""What is counted of compiled modules, and the step by shapes that training and `drifting plan --compile` share."""

import importlib.util
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.assembly.abstract import ImageFacts, abstract_pretraining, abstract_step
from drifting.assembly.pretraining import prepare_pretraining
from drifting.assembly.run import prepare
from drifting.cli.commands import main
from drifting.config.schema import Config, DataConfig, MAEConfig, PretrainConfig, RunConfig
from drifting.errors import ConfigError
from drifting.experiments.plan import plan
from drifting.experiments.plan.compiled import CARDS, SLICES, CompiledStep, slice_shape
from drifting.experiments.plan.module import count_module, parse_module, shape_bytes
from tests.support.runs import TINY, tiny_config

MODULE = """HloModule jit_step, is_scheduled=true

%fused (p0: f32[8,4], p1: s32[]) -> f32[1,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,4]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,4}
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/jvp(loss)/while/body/slice"}
  %sum = f32[8,4]{1,0} all-reduce(%x), to_apply=%add, metadata={op_name="jit(step)/loss/psum"}
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %sum)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (a: f32[8,4], b: f32[4,16]) -> (s32[], f32[8,4]) {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,16]{1,0} parameter(1)
  %n = s32[] constant(0)
  %dot = f32[8,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}, metadata={op_name="jit(step)/transpose(jvp(generator))/dot_general"}
  %copy = f32[8,4]{1,0} copy(%a)
  %start = (s32[], f32[8,4]{1,0}) tuple(%n, %copy)
  %started = ((f32[8,4]{1,0}), (f32[16,4]{1,0})) all-gather-start(%copy), dimensions={0}
  %done = f32[16,4]{1,0} all-gather-done(%started)
  ROOT %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def test_launches_bytes_and_what_travels_are_counted_as_often_as_they_happen():
    counts = count_module(MODULE)
    assert counts.loops == {5: 1}
    assert counts.launches == {"generator": 1, "rest": 1, "loss": 5}
    product, copy, row = 4 * (32 + 64 + 128), 2 * 128, 16 + 4 + 16
    assert counts.moved == {"generator": product, "rest": copy, "loss": 5 * row}
    assert counts.collectives == {"all-reduce": 5, "all-gather": 1}
    assert counts.collective_bytes == {"all-reduce": 5 * 128, "all-gather": 256}
    assert counts.opcodes["dynamic-slice"] == 5 and counts.static["dynamic-slice"] == 1
    assert counts.products == {"f32, highest": 2 * 8 * 16 * 4}


FUSED = """HloModule jit_step

%fused (p0: f32[8,16]) -> f32[8] {{
  %p0 = f32[8,16]{{1,0}} parameter(0)
  %unit = f32[] constant(2)
  %units = f32[8,16]{{1,0}} broadcast(%unit), dimensions={{}}
  %scaled = f32[8,16]{{1,0}} {operation}
  %left = f32[8,4]{{1,0}} slice(%scaled), slice={{[0:8], [0:4]}}
  %right = f32[8,6]{{1,0}} slice(%scaled), slice={{[0:8], [10:16]}}
  {root}
}}

ENTRY %main (a: f32[8,16]) -> f32[8] {{
  %a = f32[8,16]{{1,0}} parameter(0)
  ROOT %made = f32[8]{{0}} fusion(%a), kind=kInput, calls=%fused
}}
"""


@pytest.mark.parametrize(
    "operation, root, share",
    [
        ("divide(%p0, %units)", "ROOT %sum = f32[8]{0} reduce(%left, %unit), dimensions={1}, to_apply=%add", 10),
        ("reverse(%p0), dimensions={1}", "ROOT %sum = f32[8]{0} reduce(%left, %unit), dimensions={1}", 16),
        ("divide(%p0, %units)", "ROOT %sum = f32[8]{0} reduce(%scaled, %unit), dimensions={1}, to_apply=%add", 16),
    ],
    ids=["slices of a quotient", "slices of what is moved", "all of it"],
)
def test_of_an_operand_that_is_cut_within_a_fused_operation_the_slices_count(operation: str, root: str, share: int):
    assert count_module(FUSED.format(operation=operation, root=root)).moved["rest"] == 4 * (8 * share + 8)


def test_of_a_slice_that_is_cut_again_the_second_slice_counts():
    operation, again = "divide(%p0, %units)", "%again = f32[2,4]{1,0} slice(%left), slice={[0:2], [0:4]}"
    turned = "%turned = f32[4,2]{1,0} transpose(%again), dimensions={1,0}"
    root = f"{again}\n  {turned}\n  ROOT %sum = f32[8]{{0}} custom-call(%turned)"
    assert count_module(FUSED.format(operation=operation, root=root)).moved["rest"] == 4 * (2 * 4 + 8 * 6 + 8)


def test_types_have_sizes():
    assert shape_bytes("(f32[2,3]{1,0}, u8[4], bf16[], pred[7])") == 24 + 4 + 2 + 7
    computations, entry = parse_module(MODULE)
    assert entry == "main" and set(computations) == {"fused", "body", "condition", "main"}


def test_a_compiled_loop_runs_as_often_as_it_was_written():
    def looped(x: Any) -> Any:
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=7)[0]

    text = jax.jit(looped).lower(jnp.ones((64, 64))).compile().as_text()
    assert count_module(text).loops == {7: 1}


# --- the step by shapes -----------------------------------------------------------------------------------------------

SYNTHETIC = {"name": "synthetic", "image_size": 16, "channels": 3, "classes": 3}

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "banks": {},
    "the batch's own": {"bank": {"per_class": 0}},
    "all, on the device": {"data": {"resident": "device"}},
    "all, on the host": {"data": {"resident": "host"}},
    "latents": {"data": {"vae": "random://smoke"} | SYNTHETIC},
    "latents of resident images": {"data": {"vae": "random://smoke", "resident": "device"} | SYNTHETIC},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_abstract_step_takes_what_training_gives(form: str):
    """Shapes, dtypes and places of every argument."""
    settings = {name: dict(section) for name, section in FORMS[form].items()}
    latents = settings.get("data", {}).get("vae")
    config = tiny_config(**settings, **({"model": {"patch_size": 1}} if latents else {}))
    assert isinstance(config, Config)

    with prepare(config) as run:
        dtype = run.parts.space.image_dtype
        images = ImageFacts(run.source.shape, run.source.num_classes, len(run.source), dtype=dtype)
        found = abstract_step(run.config, images, run.layout)
        state = jax.eval_shape(run.empty)
        given = (state, next(run.feed), run.frozen, run.widths, run.key, np.bool_(True))
        assert shapes(found.arguments) == shapes(given)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


@pytest.mark.parametrize("vae", [None, "random://smoke"])
def test_the_abstract_pretraining_takes_what_training_gives(vae: str | None):
    data = DataConfig(vae=vae, **SYNTHETIC)
    mae, train = MAEConfig(base_channels=32, layers=(1, 1)), RunConfig(batch_size=64, ema_decays=(0.9,))
    with prepare_pretraining(PretrainConfig(data=data, mae=mae, train=train)) as run:
        dtype = run.parts.space.image_dtype
        images = ImageFacts(run.source.shape, run.source.num_classes, len(run.source), dtype=dtype)
        _, found = abstract_pretraining(run.config, images, run.layout)
        given = (jax.eval_shape(run.empty), next(run.feed), run.frozen, run.key)
        assert shapes(found) == shapes(given)


# --- the command ------------------------------------------------------------------------------------------------------


def test_slices_have_as_many_chips_as_are_asked_for():
    for device in SLICES:
        for power in range(9):
            sides = [int(side) for side in slice_shape(device, 2**power).split("x")]
            assert np.prod(sides) == max(4, 2**power) and len(sides) == (2 if device in ("tpu-v5e", "tpu-v6e") else 3)
    assert slice_shape("tpu-v6e", 8) == "2x4" and slice_shape("tpu-v5p", 64) == "4x4x4"
    for device, chips in (("tpu-v6e", 6), ("tpu-v5e", 512)):
        with pytest.raises(ConfigError, match=rf"^mesh={chips}: no slice of {device} has {chips} chips"):
            slice_shape(device, chips)


def found_step(**changes: Any) -> CompiledStep:
    return CompiledStep(
        **{
            "peak": 50 * 10**9,
            "arguments": 10**9,
            "temporaries": 49 * 10**9,
            "aliased": 10**9,
            "largest": (("f32[8,4] jit(step)/loss/dot", 128),),
            "counts": count_module(MODULE),
            "trace_seconds": 1.0,
            "compile_seconds": 2.0,
        }
        | changes
    )


def test_the_command_tells_what_the_compiler_found(monkeypatch: Any, capsys: pytest.CaptureFixture[str]):
    asked: list[Any] = []
    monkeypatch.setattr(plan, "compile_step", lambda *given: asked.append(given) or found_step())
    command = ["plan", f"--config={TINY}", "--device=h100", "--compile"]
    assert main([*command, "--micro_batch=2"]) == 0
    text = capsys.readouterr().out
    assert asked[0][0].train.micro_batch == 2 and asked[0][2] == "h100"
    assert "f32[8,4] jit(step)/loss/dot" in text and "all-reduce" in text and "loops: 1 of 5 turns" in text
    assert "fits on 1 x h100 (data=1,fsdp=1) with train.micro_batch=2" in text
    monkeypatch.setattr(plan, "compile_step", lambda *given: found_step(peak=61 * 10**9))
    assert main([*command, "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["fits"] is False and values["peak"] == 61 * 10**9 and values["counts"]["launches"]["loss"] == 5
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert main(command) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=l4"], "--device=l4: no compiler is for it: use one of a100-40"),
        (["--device=h10"], "--device=h10: use one of"),
        (["--device=tpu-v6e", "--mesh=data=2,fsdp=3"], "no slice of tpu-v6e has 6 chips"),
        (["--device=h200"], "--device=h200: its compiler is not installed: pip install 'drifting[plan-gpu]'"),
        (["--device=tpu-v4"], "--device=tpu-v4: its compiler is not installed: pip install 'drifting[plan-tpu]'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
):
    there = importlib.util.find_spec
    hidden = ("jax_cuda12_plugin", "libtpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else there(name, *rest))
    if "slice" in message:
        monkeypatch.setattr("drifting.experiments.plan.compiled._require_plugin", lambda *_: None)
        monkeypatch.setattr("drifting.experiments.plan.plan.check_spread", lambda *_: None)
    assert main(["plan", f"--config={TINY}", "--compile", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_json_is_of_the_compilers_figures(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", f"--config={TINY}", "--device=h100", "--json"]) == 2
    assert "--json: give --compile as well" in capsys.readouterr().err


def test_the_compiler_knows_no_share_of_the_peak(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", f"--config={TINY}", "--device=h100", "--compile", "--efficiency=0.3"]) == 2
    assert "--efficiency=0.3: with --compile there are no times" in capsys.readouterr().err


def test_every_card_has_a_description():
    from importlib import resources

    for card in CARDS:
        text = (resources.files("drifting.experiments.plan") / "targets" / f"{card}.txtpb").read_text()
        memory = float(text.split("device_memory_size: ")[1].split()[0])
        assert memory == pytest.approx(plan.DEVICE_KINDS[card].memory, rel=0.08)
