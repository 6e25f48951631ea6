"""Compares what the compiler makes of the benches' programs with what is recorded: figures that no machine moves.

    python -m scripts.bench_check                          # make bench-check
    python -m scripts.bench_check --record --note="Why a figure changed."

Floating-point operations are those of the trace, loops counted as often as they run; bytes moved and temporary memory
are the CPU compiler's, for the instructions that every machine of these years has. A figure that is 5 % off in either
direction ends it with 1: something became worse, or something better that ought to be written down.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from drifting.experiments.plan.flops import flops
from drifting.experiments.plan.module import count_module
from drifting.method.step import train_step
from scripts.bench import WORKLOAD_T, drift_loss_of, workload_t

RECORD = Path(__file__).with_name("bench_counts.json")

TOLERANCE = 0.05
"""How far a figure may be from the recorded one, as a share of that."""

COMPILER_OPTIONS: Any = {"xla_cpu_max_isa": "AVX2", "xla_backend_optimization_level": 0}
"""The same program on every machine; how its instructions are scheduled is not looked at."""

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def programs() -> dict[str, Program]:
    """The functions that are looked at and their arguments, shapes as far as that suffices."""
    parts, make, batch = workload_t()
    state, encoder = jax.eval_shape(make)
    widths, key = jnp.asarray(WORKLOAD_T.loss.widths), jax.eval_shape(partial(jax.random.key, 1))
    samples = parts.recipe.labels * parts.recipe.generated
    noise = jax.eval_shape(
        lambda p: parts.generator.sample_noise(p, jax.random.split(jax.random.key(0), samples)), state.params
    )
    labels, alpha = jax.ShapeDtypeStruct((samples,), jnp.int32), jax.ShapeDtypeStruct((samples,), jnp.float32)

    def mean_square(params: Any, *inputs: Any) -> jax.Array:
        return jnp.mean(jnp.square(parts.generator(params, *inputs)))

    step = partial(train_step, parts)
    return {
        "workload T, one step": (step, (state, batch, encoder, widths, key, jax.ShapeDtypeStruct((), jnp.bool_))),
        "generator, forward + backward": (jax.value_and_grad(mean_square), (state.params, noise, labels, alpha)),
        "drift loss, 256 problems x 64 channels": drift_loss_of(256, 64),
        "drift loss, 64 problems x 512 channels": drift_loss_of(64, 512),
    }


def counts_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, float]:
    """The figures of one program."""
    jitted = jax.jit(function, donate_argnums=0)
    compiled: Any = jitted.lower(*arguments).compile(compiler_options=COMPILER_OPTIONS)
    counts = count_module(compiled.as_text())
    return {
        "GFLOP": flops(function, *arguments) / 1e9,
        "GB moved, loops once": compiled.cost_analysis()["bytes accessed"] / 1e9,
        "MB temporary": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "loops": float(counts.loops.total()),
        "trips of loops": float(sum(trips * count for trips, count in counts.loops.items())),
        "operations, loops once": float(counts.static.total()),
    }


def difference(found: float, recorded: float) -> float:
    """How far a figure is from the recorded one, as a share of that."""
    return (found - recorded) / recorded if recorded else float(found != recorded)


def main(arguments: list[str] | None = None) -> int:
    """Prints the figures, and returns 1 if one of them is not the recorded one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what is found in place of what is recorded")
    parser.add_argument("--note", default="", help="one sentence: why it changed; needed to record")
    options = parser.parse_args(arguments)
    if options.record and not options.note.strip():
        parser.error('--record: say why with --note="One sentence."')
    if options.note and not options.record:
        parser.error("--note: is written with --record, give that as well")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"programs": {}, "notes": []}
    table = Table("what", "figure", "recorded", "now", "difference", title=f"jax {jax.__version__}, CPU compiler")
    found: dict[str, dict[str, float]] = {}
    wrong = []
    for name, (function, given) in programs().items():
        found[name] = {figure: float(np.round(value, 4)) for figure, value in counts_of(function, given).items()}
        for figure, value in found[name].items():
            recorded = record["programs"].get(name, {}).get(figure)
            off = None if recorded is None else difference(value, recorded)
            if off is None or abs(off) > TOLERANCE:
                wrong.append(f"{name}: {figure} is {value:g}, recorded {recorded}")
            shown = ["" if recorded is None else f"{recorded:g}", f"{value:g}", "" if off is None else f"{off:+.1%}"]
            table.add_row(name, figure, *shown)
    for name, figures in record["programs"].items():
        gone = sorted(set(figures) - set(found.get(name, {})))
        wrong += [f"{name}: {figure} is recorded, {figures[figure]:g}, and was not found" for figure in gone]
    Console(width=120).print(table)
    if options.record:
        notes = [*record["notes"], {"jax": jax.__version__, "note": options.note.strip()}]
        text = json.dumps({"programs": found, "notes": notes}, indent=2)
        RECORD.write_text(f"{text}\n", encoding="utf-8")
        return 0
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print('if that is meant: python -m scripts.bench_check --record --note="Why."', file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
