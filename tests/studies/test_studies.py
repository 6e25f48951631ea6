"""The studies: their claims at small sizes, their parts against independent references, and the command."""

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import wasserstein_distance

from drifting.cli.commands import main
from drifting.cli.settings import load_settings
from drifting.config.parse import parse
from drifting.config.schema import DiagnoseSettings, FeaturesConfig
from drifting.errors import ConfigError
from drifting.method.encoders import FeatureEncoder
from drifting.method.fields import FIELDS, drift_field
from drifting.method.kernels import KERNELS
from drifting.method.objective import Objective
from drifting.method.potentials import LOSSES
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.diagnosis import Gathering, Problem, one_problem
from drifting.studies import STUDIES, plots
from drifting.studies.alignment import align
from drifting.studies.curl import attraction, curl, jacobian, point_field, relative_curl, vanishes
from drifting.studies.curl import draw as draw_curl
from drifting.studies.diagnose import draw_plane
from drifting.studies.equilibrium import estimate_drift
from drifting.studies.links import POINT_DISTANCES, best, load_digits
from drifting.studies.profiles import TAIL_EXPONENTS, tail_exponents
from drifting.studies.profiles import run as run_profiles
from drifting.studies.settings import CurlSettings, DiagnoseStudy, ProfilesSettings, ProfilesStudy
from drifting.studies.study import Claim, Result, Table, check_results_folder, loglog_slope, show
from drifting.studies.subject import subject
from drifting.studies.targets import MIXTURE_PAIRS, TARGETS, circle, mixture
from drifting.studies.toy2d import objective
from drifting.studies.toy_training import Start, ToyRecipe, move, rbf_mmd, sliced_wasserstein, train_toy
from tests.support.runs import finished_run

TinyRun = Callable[[str], tuple[dict, set[str]]]

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "studies"


def tiny(name: str):
    """The settings of a study's variant `tiny`."""
    return parse(load_settings(f"{CONFIGS / name}.py:tiny"), STUDIES[name].settings)


def points(seed: int, n: int, d: int = 2) -> jax.Array:
    return jnp.float32(np.random.default_rng(seed).normal(size=(n, d)))


# --- configurations ---------------------------------------------------------------------------------------------------


def test_every_study_has_a_file_and_starts_from_its_defaults():
    assert sorted(path.stem for path in CONFIGS.glob("*.py")) == sorted(STUDIES)
    for name, study in STUDIES.items():
        text = (CONFIGS / f"{name}.py").read_text()
        assert f"drifting study {name} " in text and "tiny" in text
        full = parse(load_settings(str(CONFIGS / f"{name}.py")), study.settings)
        assert full.study == study.settings().study
        assert tiny(name) != full


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory):
    """From a study's name to what its variant `tiny` wrote; each is run once, with coarse pictures."""

    @cache
    def run(name: str) -> tuple[dict, set[str]]:
        out = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "FIGURE_DPI", 60)
            patch.setattr(
                "drifting.studies.links.SMALL_WIDTH_OBJECTIVES", (("log_kde", "gaussian"),)
            )  # each is compiled for seconds
            assert main(["study", name, f"--config={CONFIGS / name}.py:tiny", f"--out={out}"]) == 0
        return json.loads((out / "result.json").read_text()), {path.name for path in out.iterdir()}

    return run


# `profiles` and `diagnose` have their own tests of the command.
@pytest.mark.parametrize("name", sorted(STUDIES.keys() - {"profiles", "diagnose"}))
def test_tiny_variants_write_finite_numbers(name: str, tiny_run: TinyRun):
    result, files = tiny_run(name)
    does_not_apply = ("width", "rate", "SWD", "Fréchet", "F1") if name == "links" else ()
    for row in result["table"]:
        assert all(k in does_not_apply for k, v in row.items() if v is None)
        assert all(np.isfinite(v) for v in row.values() if isinstance(v, float))
    assert result["table"] and all(claim["value"] is not None for claim in result["claims"])
    more = {"alignment": {"slopes.csv"}, "toy2d": {"figure_drift.png", "evolution.gif"}}.get(name, set())
    assert files == {"figure.png", "result.json", "table.csv"} | more


# --- curl -------------------------------------------------------------------------------------------------------------


def test_curl_is_the_usual_one_in_two_and_three_dimensions():
    m = np.random.default_rng(0).normal(size=(3, 3))
    usual = [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]
    np.testing.assert_allclose(curl(jnp.asarray(m)), usual, rtol=1e-6)
    np.testing.assert_allclose(curl(jnp.asarray(m[:2, :2])), [m[1, 0] - m[0, 1]], rtol=1e-6)


def test_curl_in_any_dimension_has_every_pair_once():
    m = np.random.default_rng(0).normal(size=(5, 5))
    got = np.asarray(curl(jnp.asarray(m)))
    assert got.shape == (10,)
    np.testing.assert_allclose(2 * np.sum(got**2), np.sum((m - m.T) ** 2), rtol=1e-5)
    assert not np.any(curl(jnp.asarray(m + m.T)))


@pytest.mark.parametrize("name", ["mean_shift", "sharp"])
def test_curl_of_the_attraction(name: str):
    y, x = 0.7 * points(0, 40), 1.2 * points(1, 25)
    for kernel in ("gaussian", "laplace", "rational_quadratic"):
        each, overall = relative_curl(jax.jit(lambda x, k=kernel: jacobian(attraction(name, y, k, 0.5), x))(x))
        if vanishes(name, kernel):
            assert float(jnp.max(each)) < 1e-4
        else:
            assert float(overall) > 1e-2


def test_the_score_of_laplace_has_no_curl_beside_a_sample_either():
    y = 0.7 * points(0, 200)
    field = attraction("score", y, "laplace", 0.5)
    each, _ = relative_curl(jax.jit(lambda x: jacobian(field, x))(y + 1e-3 * points(1, 200)))
    assert float(jnp.max(each)) < 1e-4


def test_the_row_normalised_drift_is_conservative_with_gauss_alone():
    y, q, x = points(0, 30), points(2, 20) + 0.5, points(1, 10)
    for kernel, conservative in (("gaussian", True), ("laplace", False)):
        field = point_field("drift_row", y, q, kernel, 0.6)
        _, overall = relative_curl(jax.jit(lambda x, field=field: jacobian(field, x))(x))
        assert (float(overall) < 1e-4) == conservative == vanishes("drift_row", kernel)


# --- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "rational_quadratic"])
def test_tails(kernel: str):
    found = tail_exponents(points(0, 50, 1)[:, 0], KERNELS[kernel], 0.5, (200.0, 400.0))
    for field, exponent in found.items():
        wanted = TAIL_EXPONENTS.get((field, kernel))
        assert exponent < -10 if wanted is None else abs(exponent - wanted) < 0.05


# --- equilibrium ------------------------------------------------------------------------------------------------------


def test_equilibrium_falls_like_the_root_of_the_draws(tiny_run: TinyRun):
    claims = tiny_run("equilibrium")[0]["claims"]
    assert len(claims) == 3 * len(tiny("equilibrium").study.fields) and all(claim["holds"] for claim in claims)
    slopes = [claim for claim in claims if "slope" in claim["text"]]
    assert all((claim["low"], claim["high"]) == (-0.6, -0.4) for claim in slopes) and slopes


def test_estimate_drift_is_the_mean_over_batches():
    x, key = points(0, 5), jax.random.key(3)
    p, q = (lambda k, s=s: s + jax.random.normal(k, (6, 2)) for s in (0.0, 1.0))
    found = estimate_drift(x, p, q, field="drift", kernel="laplace", width=0.5, draws=4, key=key)
    keys = [jax.random.split(jax.random.fold_in(key, t)) for t in range(4)]
    each = np.stack([drift_field(x, p(a), q(b), field="drift", kernel="laplace", width=0.5) for a, b in keys])
    np.testing.assert_allclose(found.mean, each.mean(axis=0), atol=1e-5)
    running = np.cumsum(each, axis=0) / np.arange(1, 5)[:, None, None]
    np.testing.assert_allclose(found.norms, np.sqrt(np.mean(running**2, axis=(1, 2))), rtol=1e-4)
    np.testing.assert_allclose(found.deviation, np.sqrt(np.mean((each - each.mean(axis=0)) ** 2)), rtol=1e-3)
    own = estimate_drift(x, p, q, field=lambda x, a, b: jnp.ones_like(x), draws=4, key=key)
    assert float(own.deviation) == 0 and np.all(own.mean == 1)


# --- alignment --------------------------------------------------------------------------------------------------------


def test_alignment_with_dimension(tiny_run: TinyRun):
    result, _ = tiny_run("alignment")
    bounds = {"slope": (-1.15, -0.85), "cosine": (0.99, np.inf), "theory": (0.98, 1.02)}
    assert len(result["claims"]) == 6
    for claim in result["claims"]:
        low, high = next(bound for word, bound in bounds.items() if word in claim["text"])
        assert low <= claim["value"] <= high, claim
    assert [row["D"] for row in result["table"] if row["mixture"] == "ring"][-1] == 1024


@pytest.mark.parametrize("kernel", ["gaussian", "laplace"])
def test_alignment_against_autodiff(kernel: str):
    x, p, q, width = points(0, 6, 3), points(1, 20, 3), points(2, 15, 3) + 0.4, 0.8

    def log_density(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(KERNELS[kernel].log_k(jnp.linalg.norm(x - y, axis=1), width))

    def side(y: jax.Array):
        d = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y), axis=2)
        k = np.exp(-(d**2) / (2 * width**2) if kernel == "gaussian" else -d / width)
        w = k / k.sum(axis=1, keepdims=True)
        s = jax.vmap(jax.grad(log_density), in_axes=(0, None))(x, y)
        a = np.full(len(d), width**2) if kernel == "gaussian" else width * np.sum(w * d, axis=1)
        return w @ np.asarray(y) - np.asarray(x), np.asarray(s), a, 1 / np.sum(w**2, axis=1)

    (v_p, s_p, a_p, n_p), (v_q, s_q, a_q, _) = side(p), side(q)
    v, s = v_p - v_q, s_p - s_q
    scale = np.sum(v * s) / np.sum(s * s)
    gap = (v_p - a_p[:, None] * s_p) - (v_q - a_q[:, None] * s_q)
    found = align(x, p, q, KERNELS[kernel], width)
    wanted = {
        "scale": scale,
        "relative_error": np.sum((v - scale * s) ** 2) / np.sum(v**2),
        "cosine": np.mean(np.sum(v * s, axis=1) / np.linalg.norm(v, axis=1) / np.linalg.norm(s, axis=1)),
        "preconditioner_ratio": a_p.mean() / a_q.mean(),
        "theory_ratio": scale / (0.5 * (a_p.mean() + a_q.mean())),
        "residual_gap": np.mean(np.sum(gap**2, axis=1)),
        "effective_pos": n_p.mean(),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=2e-4, atol=1e-8, err_msg=name)


def test_mixtures_are_those_of_the_paper():
    for name, modes in (("ring", (6, 6)), ("raw", (6, 4))):
        for sample, count in zip(MIXTURE_PAIRS[name](jax.random.key(0), 64), modes, strict=True):
            x = np.asarray(sample(jax.random.key(1), 4000))
            assert x.shape == (4000, 64)
            noise = 0.40 if name == "ring" else 0.5
            spread = np.linalg.eigvalsh(np.cov(x, rowvar=False))
            np.testing.assert_allclose(np.median(spread), noise**2, rtol=0.1)
            assert np.sum(spread > 2 * noise**2) <= count


# --- generators of points ---------------------------------------------------------------------------------------------


def test_scores_of_points():
    a, b = points(0, 60), 0.5 * points(1, 60) + 1
    directions = jax.random.normal(jax.random.key(2), (2, 7))
    directions = np.asarray(directions / jnp.linalg.norm(directions, axis=0))
    wanted = np.mean([wasserstein_distance(np.asarray(a) @ u, np.asarray(b) @ u) for u in directions.T])
    np.testing.assert_allclose(sliced_wasserstein(a, b, jax.random.key(2), 7), wanted, rtol=1e-4)

    x, y = (np.asarray(v, np.float64) for v in (a, b))
    k = {n: np.exp(-np.sum((u[:, None] - v) ** 2, -1) / 2) for n, u, v in (("xx", x, x), ("yy", y, y), ("xy", x, y))}
    within = [k[n][~np.eye(60, dtype=bool)].mean() for n in ("xx", "yy")]
    np.testing.assert_allclose(rbf_mmd(a, b, 1.0), np.sqrt(sum(within) - 2 * k["xy"].mean()), rtol=1e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_fill_their_square(name: str):
    x = np.asarray(TARGETS[name](jax.random.key(0), 2000))
    assert x.shape == (2000, 2) and 0.9 < np.abs(x).max() < 1.9
    if name == "checkerboard":
        cells = np.floor((x + 1) * 2).astype(int)
        assert np.all(cells.sum(axis=1) % 2 == 0) and len(np.unique(cells, axis=0)) == 8


def test_a_generator_learns_a_shape_with_both_kernels():
    keys, found = jax.random.split(jax.random.key(1), 3), {}
    recipe = ToyRecipe(steps=600, batch=128, learning_rate=0.01, hidden_size=64)
    real = TARGETS["ring"](keys[1], 5000)
    for kernel in ("laplace", "gaussian"):
        start = Start((0.5, -0.5), 0.7)
        trained = train_toy(objective("mean_shift", kernel), 0.3, TARGETS["ring"], recipe, start=start, snapshots=3)
        assert trained.snapshots.shape == (3, 512, 2)
        np.testing.assert_allclose(trained.snapshots[0].mean(axis=0), start.centre, atol=start.scale)
        found[kernel] = float(sliced_wasserstein(trained.sample(keys[0], 5000), real, keys[2]))
    assert max(found.values()) <= 0.05, found


@pytest.mark.parametrize("name", ["log_kde", "drift"])
def test_move_is_the_field_of_the_objective(name: str):
    x, y = points(0, 7), points(1, 9)
    got = jax.jit(move, static_argnums=0)(Objective(name, KERNELS["laplace"], False, "none"), 0.6, x, y)
    field = "sharp" if name == "log_kde" else name
    wanted = drift_field(x, y, field=field, kernel="laplace", width=0.6)
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_textbook_distances_differ_far_from_the_origin_alone():
    points_here = jnp.asarray(load_digits().train[:40])
    assert abs(float(jnp.mean(POINT_DISTANCES["centred"](points_here, points_here))) - 1) < 0.1
    close = POINT_DISTANCES["textbook"](points_here[:20], points_here[20:]) - POINT_DISTANCES["centred"](
        points_here[:20], points_here[20:]
    )
    far = points_here + 100 / 8
    apart = POINT_DISTANCES["textbook"](far[:20], far[20:]) - POINT_DISTANCES["centred"](far[:20], far[20:])
    assert float(jnp.max(jnp.abs(close))) < 1e-5 < 1e-4 < float(jnp.max(jnp.abs(apart)))


def test_each_objective_counts_at_its_own_learning_rate():
    assert best(lambda rate: (abs(rate - 0.003), 7.0), (0.01, 0.003, 0.001)) == ((0.0, 7.0), 0.003)


def test_colours_are_those_of_the_fields_shown():
    config = CurlSettings(kernels=("laplace",), fields=("mean_shift", "sharp", "drift_raw"), grid=2)
    pictures = {(name, "laplace"): np.full(4, size) for name, size in zip(config.fields, (0.3, 0.1, 9.0), strict=True)}
    image = draw_curl(config, pictures, np.zeros((1, 2))).axes[0].images[0]
    assert image.get_clim() == (-0.3, 0.3)


# --- diagnose ---------------------------------------------------------------------------------------------------------


# The unconditional block far away: with a narrow Gauss its share of the softmax over all targets is zero in float32.
@pytest.mark.parametrize(("kernel", "width", "away"), [("laplace", 0.7, 0.0), ("gaussian", 0.3, 5.0)])
def test_blocks_against_float64(kernel: str, width: float, away: float):
    x, pos, unc = points(0, 5, 3), points(1, 6, 3), points(2, 4, 3) + away
    ref_q, ref_p, ref_u = points(3, 30, 3), points(4, 20, 3), points(5, 25, 3)
    compute = jax.jit(one_problem, static_argnums=1)
    _, _, blocks = compute(Problem(x, pos, unc, ref_q, ref_p, ref_u), KERNELS[kernel], width)
    X, P, U = (np.asarray(a, np.float64) for a in (x, pos, unc))

    def log_k(y):
        d = np.linalg.norm(X[:, None] - np.asarray(y, np.float64), axis=2)
        return -d / width if kernel == "laplace" else -(d**2) / (2 * width**2)

    def softmax(logits, axis=1):
        k = np.exp(logits - logits.max(axis=axis, keepdims=True))
        return k / k.sum(axis=axis, keepdims=True)

    with np.errstate(divide="ignore"):
        logits = np.concatenate([log_k(X) + np.log(1 - np.eye(5)), log_k(U), log_k(P)], axis=1)
    two = np.sqrt(np.maximum(softmax(logits) * softmax(logits, axis=0), 1e-6))
    for i, (cut, y, ref) in enumerate(((slice(0, 5), X, ref_q), (slice(5, 9), U, ref_u), (slice(9, 15), P, ref_p))):
        w, w2 = softmax(logits[:, cut]), two[:, cut] / two[:, cut].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(blocks.effective[i], 1 / np.sum(w**2, axis=1), rtol=1e-4)
        np.testing.assert_allclose(blocks.symmetry[i], np.sum((w @ y - w2 @ y) ** 2, axis=1), rtol=1e-3, atol=1e-7)
        oracle = softmax(log_k(ref)) @ np.asarray(ref, np.float64)
        np.testing.assert_allclose(blocks.pool[i], np.sum((w @ y - oracle) ** 2, axis=1), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_map_of_one_channel_shows_its_field_by_place(channels: int):
    fake, v = np.asarray(points(1, 5, channels)), np.asarray(points(2, 5, channels))
    with plots.style():
        ax = plots.figure()[1][0, 0]
        draw_plane(ax, "norm", np.asarray(points(0, 9, channels)), fake, v)
    generated = next(line for line in ax.lines if line.get_label() == "generated")
    if channels == 1:
        np.testing.assert_array_equal(generated.get_xydata(), np.concatenate([fake, v], axis=1))
    assert len(ax.collections) == (channels > 1)  # the arrows


def test_diagnosis_compares_pools_that_share_no_sample(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
):
    run = finished_run(tmp_path_factory)
    trained, found = subject(DiagnoseStudy(), run, None, None)
    assert (found.loss.positives, found.loss.unconditional) == (4, 2)
    maps = Gathering(found, DiagnoseSettings(labels=2, generated=6, references=12), 1.0)(trained.params)["global"]
    for pool, others in ((maps.x, maps.ref_q), (maps.pos, maps.ref_p), (maps.unc, maps.ref_u)):
        assert others.shape[1] == 12
        both = np.concatenate([pool, others], axis=1)[:, :, 0]
        assert all(len(np.unique(of_label, axis=0)) == both.shape[1] for of_label in both)
    few = min(np.bincount(found.source.labels))
    found = dataclasses.replace(found, loss=dataclasses.replace(found.loss, positives=few))
    with caplog.at_level("WARNING", logger="drifting"):
        maps = Gathering(found, DiagnoseSettings(labels=10, generated=6), 1.0)(trained.params)["global"]
    assert (maps.pos.shape[1], maps.ref_p.shape[1]) == (few // 2, few - few // 2)
    assert f"a class has {few} real samples" in caplog.text


def test_diagnose_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]):
    run = finished_run(tmp_path_factory)
    path = tmp_path / "settings.py"
    path.write_text(
        "from drifting.studies.settings import *\n\ndef get_config():\n    config = study_config(DiagnoseStudy())\n"
        "    config.study.update(labels=2, generated=6, references=12, positions=1, kernel='laplace', widths=(0.3,))\n"
        "    return config\n"
    )
    assert main(["study", "diagnose", f"--run={run}", f"--out={tmp_path}", f"--config={path}"]) == 0
    found = json.loads((tmp_path / "result.json").read_text())["table"]
    assert [row["map"] for row in found] == ["global"] and 0 < found[0]["cosine"] <= 1
    assert (tmp_path / "map_global.png").is_file()
    printed = capsys.readouterr().out
    assert "more numbers: blocks.csv, all.csv" in printed
    blocks = (tmp_path / "blocks.csv").read_text(encoding="utf-8")
    assert "eps_sym²" in blocks and "unconditional" in blocks
    with (tmp_path / "all.csv").open() as file:
        assert all(np.isfinite(float(v)) for row in csv.DictReader(file) for k, v in row.items() if k != "map")


def test_what_a_run_names_may_have_moved(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    run = finished_run(tmp_path_factory)
    trained, found = subject(DiagnoseStudy(), run, None, None)

    def with_encoder(config: FeaturesConfig, space: object) -> FeatureEncoder:
        if config.options.get("mae", {}).get("weights") != "moved":
            raise ConfigError("features.options.mae.weights=None: there is no such folder")
        return FeatureEncoder(found.encoder.features, found.encoder.params, {"mae": "other weights"})

    monkeypatch.setattr("drifting.studies.subject.feature_encoder", with_encoder)
    for settings, message in (
        (
            DiagnoseStudy(),
            "features.options.mae.weights=None: there is no such folder; if it has moved, give the new feat",
        ),
        (
            DiagnoseStudy(features=FeaturesConfig(options={"mae": {"weights": "moved"}})),
            "its weights are not those the run was trained with",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            subject(settings, run, None, None)
    monkeypatch.setitem(trained.facts["weights"], "mae", "other weights")
    monkeypatch.setattr(TrainedGenerator, "from_run", lambda *_, **__: trained)
    assert (
        subject(DiagnoseStudy(features=FeaturesConfig(options={"mae": {"weights": "moved"}})), run, None, None)[0]
        is trained
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x"], "--run: give the run's folder, or weights in its place"),
        (["--out=x", "--run=a", "--weights=b"], "--run: give the run's folder, or weights in its place"),
        (
            ["--out=x", "--run=a", "--config.loss.kernel=laplace"],
            "--run: a run has its own loss.kernel: change the section study, or where something lies (data.path, ",
        ),
        (["--out=x", "--run=a", "--vae=b"], "--vae=b: is for weights; of a run give the setting data.vae"),
    ],
)
def test_diagnose_says_what_is_missing(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["study", "diagnose", *arguments]) == 2
    assert message in capsys.readouterr().err and not Path("x").exists()


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_writes_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "deep" / "profiles"
    tiny_profiles = f"--config={CONFIGS / 'profiles'}.py:tiny"
    assert main(["study", "profiles", "--out", str(out), tiny_profiles, "--config.study.samples=60"]) == 0
    assert "exponent of the tail" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert {row["theory"] for row in result["table"]} >= {None, 1.0}  # MMD falls faster than any power
    assert result["study"] == "profiles" and result["settings"]["study"]["samples"] == 60
    assert result["claims"] and all(claim["holds"] for claim in result["claims"])
    with (out / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(result["table"]) == 9
    assert Image.open(out / "figure.png").width == round(plots.COLUMN_INCHES * plots.FIGURE_DPI)
    assert sorted(path.name for path in out.iterdir()) == ["figure.png", "result.json", "table.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "crul", "--out=x"], "did you mean study curl?"),
        (["study", "curl"], "--out: give the folder to write"),
        (["study", "curl", "--out=x", "--config.study.widht=1"], "did you mean study.width?"),
        (["study", "curl", "--out=x", "--config.study.width=-1.0"], "study.width=-1.0: use a positive number"),
        (["study", "profiles", "--out=x", "--config.study.far=(200.0,)"], "study.far=(200.0,): give two places"),
        (["study", "fields2d", "--out=x", "--config.study.angle=-1.0"], "study.angle=-1.0: use 0 or a positive number"),
        (["study", "curl", "--out=x", "--config.study.kernels=('gauss',)"], "(did you mean 'gaussian'?)"),
        (["study", "curl", "--out=x", f"--config={CONFIGS / 'alignment.py'}"], "there is no such key"),
        (["train", "--workdir=x", f"--config={CONFIGS / 'curl.py'}"], "holds settings of `drifting study`"),
        (["study", "alignment", "--out=x", "--config.study.fit_from=2000"], "study.fit_from=2000: two or more of"),
        (["study", "toy2d", "--out=x", "--config.study.targets=('rings',)"], "(did you mean 'ring'?)"),
    ],
)
def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("x").exists()


@pytest.mark.parametrize(("name", "count"), [("study", len(STUDIES)), ("hub", 1)])
def test_the_first_word_of_a_command_lists_the_second(capsys: pytest.CaptureFixture[str], name: str, count: int):
    assert main([name]) == 2 and main([name, "--help"]) == 0
    listed = [text.count(f"\n  {name} ") for text in capsys.readouterr()]
    assert listed[0] == listed[1] >= count


def test_names_in_tables_tell_entries_apart():
    names = {**LOSSES, **FIELDS}
    assert len({plots.title(name) for name in names}) == len(names)


def test_more_curves_than_markers_are_all_drawn():
    assert len(list(plots.styled(range(20)))) == 20


def test_a_kernel_of_ones_own_has_no_theory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(KERNELS, "own", KERNELS["laplace"])
    result = run_profiles(ProfilesStudy(study=ProfilesSettings(kernels=("own",), samples=20)))
    assert not result.claims and all(row[-1] is None for row in result.table.rows)


def test_claims_and_slopes():
    assert Claim("", 0.5, high=1).holds and not Claim("", 2, high=1).holds and not Claim("", np.nan, high=1).holds
    assert (Claim("", 0, 1, 2).wanted, Claim("", 0, low=1).wanted, Claim("", 0, high=2).wanted) == (
        "1 to 2",
        ">= 1",
        "<= 2",
    )
    assert abs(loglog_slope([1, 2, 8], [3, 3 / 2**0.5, 3 / 8**0.5]) + 0.5) < 1e-9


def test_tables_are_printed_without_a_broken_word(capsys: pytest.CaptureFixture[str]):
    columns = ("map", *(f"preconditioner {i}" for i in range(6)), "last")
    table = Table(columns, [("layer1_mean_4", *(1 / 3 for _ in range(6)), None)])
    claim = Claim("a long sentence " * 6, 1.0, 0.0, 2.0)
    show(Result(table, [claim], {}, full=table), "diagnose", Console(width=80))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("layer1_mean_4") == 1 and printed.count("preconditioner") >= 6
    assert "more in table.csv: preconditioner 3, preconditioner 4, preconditioner 5, last" in " ".join(printed.split())
    assert "more numbers: all.csv" in printed
    long = Table(columns[:1], [(f"map{i}",) for i in range(54)])
    show(Result(long, [], {}, {"blocks.csv": long}), "diagnose", Console(width=80))
    printed = capsys.readouterr().out
    assert printed.count("map") == 24 + 1 and "more in table.csv: 30 rows" in printed  # and the head
    assert "more numbers: blocks.csv" in printed


@pytest.mark.parametrize("span", [1.02, 3.0, 20.0, 1e4])
def test_a_logarithmic_axis_has_more_than_one_label(span: float):
    with plots.style():
        figure, axes = plots.figure(1, 2)
        axes[0, 0].plot([4e-4, 4e-4 * span], [0, 1])
        axes[0, 0].set_xscale("log")
        plots.log_ticks(axes[0, 0].xaxis)
        figure.draw_without_rendering()
    low, high = axes[0, 0].get_xlim()
    shown = [label for label in axes[0, 0].get_xticklabels() if low <= label.get_position()[0] <= high]
    assert all(float(label.get_text()) == pytest.approx(label.get_position()[0]) for label in shown if label.get_text())
    boxes = [label.get_window_extent() for label in shown if label.get_text()]
    assert len(boxes) >= 2 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_animations_are_gifs(tmp_path: Path):
    frames = [np.full((8, 9, 3), shade, np.uint8) for shade in (0, 120, 250)]
    plots.save(plots.Animation(frames), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.format, image.n_frames, image.size) == ("GIF", 3, (9, 8))


def test_circle_and_mixture():
    np.testing.assert_allclose(circle(4, 2.0), [[2, 0], [0, 2], [-2, 0], [0, -2]], atol=1e-6)
    x = mixture(circle(3), 0.0)(jax.random.key(0), 500)
    assert len(np.unique(np.round(np.asarray(x), 4), axis=0)) == 3


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": "{}"}, r"holds something else \(config.json\); give a new folder"),
        ({"sweep.json": "{}", "metadata.json": "{}"}, r"holds something else \(metadata.json, sweep.json\)"),
        ({"eval-8.json": "{}", "result.json": '{"study": "curl"}'}, r"holds something else \(eval-8.json\)"),
        ({"result.json": '{"study": "links"}'}, "holds the study links; give a new folder"),
        ({"result.json": "[]"}, "holds a result.json that is no study's"),
        ({"table.csv": "", "figure.png": ""}, "has a table.csv and a figure.png of its own"),
    ],
)
def test_a_study_writes_into_no_folder_of_another_kind(tmp_path: Path, files: dict[str, str], words: str):
    check_results_folder(tmp_path, "curl")
    (tmp_path / "notes.txt").touch()
    check_results_folder(tmp_path / "new", "curl")
    check_results_folder(tmp_path, "curl")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"^out={tmp_path}: {words}"):
        check_results_folder(tmp_path, "curl")
    for name in files:
        (tmp_path / name).unlink()
    (tmp_path / "result.json").write_text('{"study": "curl"}')
    (tmp_path / "table.csv").touch()
    check_results_folder(tmp_path, "curl")
