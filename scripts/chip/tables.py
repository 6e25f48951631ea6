"""The report as Markdown, for docs/performance.md."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.chip.rows import Row

Cell = Callable[[Row], str]


def number(name: str, digits: int = 3, factor: float = 1.0) -> Cell:
    """Shows the number of that name with so many significant digits; a dash where there is none."""

    def cell(row: Row) -> str:
        value = row.get(name)
        return "–" if value is None else f"{value * factor:,.{digits}g}" if value < 10**digits else f"{value:,.0f}"

    return cell


STEPS: dict[str, Cell] = {
    "recipe": lambda row: row["name"],
    "devices": number("devices"),
    "labels × generated": lambda row: f"{row['labels']} × {row['generated_images'] // row['labels']}",
    "`micro_batch`": lambda row: (
        f"{row['micro_batch'] or 'all'}"
        + "".join(f", {size or 'all'} did not fit" for size in row["out_of_memory_with"])
    ),
    "step, ms: least, median": lambda row: f"{_ms(row, 'step_seconds_min')}, {_ms(row, 'step_seconds_median')}",
    "images a second": number("generated_images_per_second"),
    "MFU, %": number("mfu", 3, 100.0),
    "GB: peak, compiler, `plan`": lambda row: ", ".join(
        number(f"{name}_memory_gb")(row) for name in ("peak", "compiled", "planned")
    ),
    "compiled in, s": number("compile_seconds"),
    "attention": lambda row: "one kernel" if row["flash"] else "products",
    "loss": lambda row: "kernels" if row["loss_in_kernels"] else "operations of JAX",
}

SAMPLING: dict[str, Cell] = {
    "drawn": lambda row: row["name"],
    "images a second": number("images_per_second"),
    "ms: median, 95 %": lambda row: f"{number('median_ms')(row)}, {number('p95_ms')(row)}" if "p95_ms" in row else "–",
}


def _ms(row: Row, name: str) -> str:
    return number(name, 3, 1e3)(row)


def markdown(sections: Mapping[str, Sequence[Row]]) -> str:
    """All that is known so far."""
    steps = [row for name in ("ablation", "ablation_pallas", "latent_b", "mnist") for row in sections.get(name, ())]
    sampling = sections.get("sampling", ())
    parts = [
        *_machine(sections.get("machine", ())),
        *_table("A training step", STEPS, [row for row in steps if "compile_seconds" in row]),
        *_table("Sampling", SAMPLING, [row for row in sampling if "images" in row]),
        *_agreement(sections.get("agreement", ())),
        *_problems(sections),
    ]
    return "\n".join(parts) + "\n"


def _machine(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        if "device" not in row:
            continue
        tried = ", the report tried out in its smallest form: these numbers say nothing" if row["tiny"] else ""
        lines.append(f"## {row['devices']} × {row['device']}, {row['date'][:10]}{tried}\n")
        kept = (
            "memory_gb",
            "driver",
            "runtime",
            "jax",
            "jaxlib",
            "python",
            "host",
            "drifting",
            "commit",
            "environment",
        )
        facts = (f"{name.removesuffix('_gb')} {_shown(row[name])}" for name in kept if row[name])
        lines.append(", ".join(facts) + ".\n")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"`{name}={text}`" for name, text in value.items())
    return f"{value:.1f} GB" if isinstance(value, float) else str(value)


def _table(title: str, columns: Mapping[str, Cell], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = [f"### {title}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return [*lines, *(f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows), ""]


def _agreement(rows: Sequence[Row]) -> list[str]:
    """One line for each group: the worst of it."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if "tolerance" in row:
            groups.setdefault(row["group"], []).append(row)

    def worst(found: Row) -> str:
        errors = [(row["largest_error"], row["name"]) for row in found["rows"] if "largest_error" in row]
        error, name = max(errors, default=(None, "–"))
        return "–" if error is None else f"{error:.1e} ({name.partition(': ')[2]})"

    columns: dict[str, Cell] = {
        "computed by the device and by the CPU": lambda found: found["group"],
        "within": lambda found: f"{found['rows'][0]['tolerance']:g}",
        "largest relative error": worst,
        "passed": lambda found: f"{sum(row.get('ok') is True for row in found['rows'])} of {len(found['rows'])}",
    }
    return _table("Agreement", columns, [{"group": name, "rows": found} for name, found in groups.items()])


def _problems(sections: Mapping[str, Sequence[Row]]) -> list[str]:
    """What failed, did not pass, or was left out."""
    lines = []
    for section, rows in sections.items():
        for row in rows:
            where = row["name"] if row["name"] == section else f"{section}: {row['name']}"
            if "error" in row:
                lines.append(f"* {where}: {row['error']}")
            elif row.get("ok") is False:
                found = (
                    f"{row['largest_error']:.1e}, not within {row['tolerance']:g}"
                    if "tolerance" in row
                    else "not finite"
                )
                lines.append(f"* {where}: {found}")
            elif "left_out" in row:
                lines.append(f"* {where}: left out, {row['left_out']}")
    return ["### Failed or left out\n", *lines, ""] if lines else []
