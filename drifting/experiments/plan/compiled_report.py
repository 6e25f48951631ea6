"""What the compiler found, as tables for a terminal."""

from rich.console import Console
from rich.table import Table

from drifting.experiments.plan.compiled import CompiledStep
from drifting.experiments.plan.module import PARTS


def print_compiled(console: Console, step: CompiledStep, usable: float) -> None:
    """Prints memory, the largest buffers, what a step does by part, and what travels.

    `usable`: bytes of a device that a run has.
    """
    memory = Table("on each device", "GB", title="Memory, as the compiler assigns it")
    for name, size in (
        ("arguments: state, batch, frozen networks", step.arguments),
        ("temporaries", step.temporaries),
        ("outputs in the place of arguments", step.aliased),
    ):
        memory.add_row(name, f"{size / 1e9:.2f}")
    memory.add_row("peak", f"{step.peak / 1e9:.2f}", style="bold")
    memory.add_row("usable", f"{usable / 1e9:.2f}")
    console.print(memory)
    if step.largest:
        largest = Table("GB", "what makes it", title="The largest temporaries")
        for what, size in step.largest:
            largest.add_row(f"{size / 1e9:.2f}", what)
        console.print(largest)
    counts = step.counts
    parts = Table("part", "launches", "GB moved", title="A step of one device, loops as often as they run")
    for part in (*PARTS, "rest"):
        if counts.launches[part]:
            parts.add_row(part, f"{counts.launches[part]:,}", f"{counts.moved[part] / 1e9:,.1f}")
    parts.add_row("all", f"{counts.launches.total():,}", f"{counts.moved.total() / 1e9:,.1f}", style="bold")
    console.print(parts)
    travels = Table("collective", "how many", "MB", title="What travels between devices in a step")
    for kind, count in counts.collectives.items():
        travels.add_row(kind, f"{count:,}", f"{counts.collective_bytes[kind] / 1e6:,.3f}")
    if counts.collectives:
        console.print(travels)
    loops = ", ".join(f"{count} of {trips} turns" for trips, count in sorted(counts.loops.items())) or "none"
    console.print(f"loops: {loops}; matrix products, TFLOP: {_products(step)}")
    console.print(f"traced and lowered in {step.trace_seconds:.0f} s, compiled in {step.compile_seconds:.0f} s")


def _products(step: CompiledStep) -> str:
    found = step.counts.products.most_common()
    return "; ".join(f"{kind} {operations / 1e12:.2f}" for kind, operations in found) or "none"
