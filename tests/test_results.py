"""The results on MNIST: docs/results.md says what docs/results/mnist.csv says."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sweeps import mnist as sweep
from configs.sweeps import mnist_recipe as recipe
from drifting.cli.settings import load_settings
from drifting.errors import ConfigError
from drifting.experiments.grid import cells_of
from scripts import mnist_figures, mnist_tables
from scripts.mnist_tables import (
    COLUMNS,
    CURVE_COLUMNS,
    REAL,
    TABLES,
    TITLES,
    Row,
    read_rows,
    recipe_of,
    spread,
    write_rows,
)
from tests.support.runs import ROOT

PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")

NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")


def section(title: str) -> str:
    """The text below a heading of the page, up to the next one of its level."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def numbers_of(rows: list[Row]) -> set[str]:
    """What may stand on the page of these rows of the sweep over widths."""
    found = {row[name] for row in rows for name in ("width", "gap")}
    groups = [seeds for by_width in mnist_tables.cells(rows).values() for seeds in by_width.values()]
    return found | scores_of([[row] for row in rows] + groups)


def scores_of(groups: Iterable[list[Row]]) -> set[str]:
    """Every score of these rows, means and deviations of each group, with two or three places."""
    found = set()
    for group in groups:
        for name in mnist_tables.SCORES:
            found |= {text for places in (2, 3) for text in spread(group, name, places).split(" ± ")}
    return found


def test_the_page_shows_what_the_table_says():
    text, rows, recipes = section("MNIST"), read_rows(mnist_tables.TABLE), read_rows(mnist_tables.RECIPES)
    tables = [*(make(rows) for make in TABLES), mnist_tables.recipe_table(recipes)]
    assert mnist_tables.with_tables(PAGE, mnist_tables.SECTION, tables) == PAGE
    readme = mnist_tables.README.read_text(encoding="utf-8")
    assert mnist_tables.with_tables(readme, mnist_tables.README_SECTION, [mnist_tables.short_table(rows)]) == readme
    for table in tables:
        assert table in text, "a table differs, run what the header of its sweep says"
        text = text.replace(table, "")
    published = {number for said in mnist_tables.PUBLISHED.values() for number in NUMBER.findall(" ".join(said))}
    curves = read_rows(mnist_tables.CURVES)
    correlation = f"{mnist_figures.rank_correlation(mnist_figures.last_steps(curves)):.2f}"
    by_recipe = [[row for row in recipes if row["recipe"] == name] for name in {row["recipe"] for row in recipes}]
    found = numbers_of(rows) | scores_of([*by_recipe, *([row] for row in recipes)])
    settings = set(NUMBER.findall(str(recipe.BEST) + str(recipe.CHANGES)))
    unknown = set(NUMBER.findall(text)) - found - published - settings - {correlation}
    assert not unknown, f"in no table: {sorted(unknown)}"


def test_the_sweep_has_more_seeds_where_the_table_is_best():
    rows = read_rows(mnist_tables.TABLE)
    found = mnist_tables.best_widths(rows)
    whole = {o: by for o, by in mnist_tables.cells(rows).items() if len(by) == len(sweep.WIDTHS[o])}
    assert {o: float(found[o]) for o in whole} == {o: sweep.BEST[o] for o in whole}
    assert set(TITLES) == set(sweep.WIDTHS) == set(sweep.BEST) == set(mnist_tables.PUBLISHED)
    for objective, width in sweep.BEST.items():
        assert min(sweep.WIDTHS[objective]) < width < max(sweep.WIDTHS[objective])  # bracketed


def test_the_best_recipe_is_that_of_the_experiment():
    base = load_settings(str(ROOT / "configs" / "mnist.py:best_cpu"))
    for key, value in recipe.BEST.items():
        section, _, name = key.partition(".")
        assert base[section][name] == value, key
    cells = cells_of(recipe.get_sweep(), base)
    names = [recipe_of(cell) for cell in cells]
    assert names == [mnist_tables.BEST_RECIPE] * 3 + list(recipe.CHANGES)


def test_recipes_have_a_row_each():
    row = dict.fromkeys(mnist_tables.RECIPE_COLUMNS, "0.25") | {"recipe": "a", "steps": "850", "seconds": "200"}
    rows = [row, row | {"frechet_distance": "0.75", "seconds": "210"}, row | {"recipe": "b"}]
    lines = mnist_tables.recipe_table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert lines[2].startswith("| a | 2 | 850 | 0.500 ± 0.354 | 0.250 ± 0.000 |") and lines[2].endswith(" | 205 ± 7 |")


def made_up(tmp_path: Path) -> tuple[list[Row], list[Row]]:
    """A table of some cells, and their curves, that have been written and read."""
    rng, rows, curves = np.random.default_rng(0), [], []
    for objective, kernel in TITLES:
        for width, seed in (("0.05", 0), ("0.1", 0), ("0.1", 1), ("0.1", 2), ("0.5", 0)):
            cell: dict[str, Any] = {"objective": objective, "kernel": kernel, "width": width, "seed": seed}
            scores = {name: float(rng.uniform(0.3, 0.9)) for name in mnist_tables.SCORES}
            scores["frechet_distance"] = 2.0 - (width == "0.1") + 0.125 * seed
            rows.append(cell | scores | {"gap": 1.5, "steps": 10})
            for step, gap in ((5, 4.0), (10, float(rng.uniform(1, 2)))):
                curves.append(cell | {"step": step, "gap": gap, "frechet_distance": 2 * gap})
    rows.append({"objective": REAL} | dict.fromkeys(mnist_tables.SCORES, 0.25))
    for name, columns, table in (("rows", COLUMNS, rows), ("curves", CURVE_COLUMNS, curves)):
        write_rows(tmp_path / name, columns, table)
    return read_rows(tmp_path / "rows"), read_rows(tmp_path / "curves")


def test_tables_show_means_and_deviations_over_seeds(tmp_path: Path):
    rows, _ = made_up(tmp_path)
    assert set(mnist_tables.best_widths(rows).values()) == {"0.1"}
    best = mnist_tables.best_table(rows).splitlines()
    assert len(best) == 2 + len(TITLES) + 1 and len({line.count("|") for line in best}) == 1
    assert best[2].startswith("| log-KDE-Gauss# | 0.1 | 3 | 1.125 ± 0.125 | ")
    assert best[2].endswith("| 6.81 (0.2) | 0.57 |")
    assert best[-1].startswith("| real test images | | | 0.250 | 0.250 | ")
    assert "1.12" in numbers_of(rows) and "1.13" not in numbers_of(rows)
    widths = mnist_tables.width_table(rows).splitlines()
    assert widths[0] == "| width | 0.05 | 0.1 | 0.5 |" and widths[2] == "| log-KDE-Gauss# | 2.000 | 1.000 | 2.000 |"


def test_figures_are_drawn_of_whatever_there_is(tmp_path: Path):
    rows, curves = made_up(tmp_path)
    mnist_figures.draw(rows, curves, tmp_path, tmp_path)
    mnist_figures.draw(rows[:1], [], tmp_path, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"mnist_widths.png", "mnist_gap.png"}
    assert mnist_figures.rank_correlation(mnist_figures.last_steps(curves)) == pytest.approx(1)


def test_every_width_has_its_tick_and_labels_have_room():
    figure = mnist_figures.width_figure(read_rows(mnist_tables.TABLE))
    figure.draw_without_rendering()
    tried = {width for widths in sweep.WIDTHS.values() for width in widths}
    for axes in figure.axes:
        assert tried == {float(place) for place in (*axes.get_xticks(), *axes.get_xticks(minor=True))}
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(boxes) == len(mnist_figures.LABELLED_WIDTHS)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_lines_hold_what_the_axis_of_the_gap_can_show(tmp_path: Path):
    _, curves = made_up(tmp_path)
    curves[0] = dict(curves[0]) | {"gap": "-0.5"}
    (axes,) = mnist_figures.gap_figure(curves).axes
    gaps = [float(gap) for line in axes.lines for gap in np.asarray(line.get_xdata())]
    assert len(gaps) == len(curves) - 1 and min(gaps) > 0


def test_a_cell_that_is_run_again_is_within_the_range_of_the_seeds(tmp_path: Path):
    rows, _ = made_up(tmp_path)
    again = next(row for row in rows if row["width"] == "0.1") | {"seed": 0}
    for distance, fits in ((1.0, True), (1.24, True), (0.76, True), (1.26, False), (0.74, False)):
        text, found = mnist_tables.compare(again | {"frechet_distance": distance}, rows)
        assert found == fits and ("frechet_distance" in text) and ("outside" in text) == (not fits)
    with pytest.raises(ConfigError, match=r"^mnist\.csv: has no spread for log_kde gaussian 0\.5 0$"):
        mnist_tables.compare(again | {"width": "0.5"}, rows)
