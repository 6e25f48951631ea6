"""Evaluation: which images are scored against what, that files and generators agree, and what is written."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from drifting.cli.commands import main
from drifting.config.schema import Config, DataConfig
from drifting.data.fingerprint import data_facts
from drifting.data.sources import source
from drifting.data.sources.digits import digits
from drifting.devices.block_function import BlockFunction
from drifting.errors import ConfigError, InputError
from drifting.runs.files import sha256
from drifting.runs.shared_work import Share
from drifting.sampling.files import write_images, write_npz
from drifting.sampling.generator import TrainedGenerator, params_sha256
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels, wanted_labels
from drifting.scoring import against_own_data, against_reference
from drifting.scoring.against_own_data import own_data_judge
from drifting.scoring.evaluate import evaluate_files, evaluate_generator, score
from drifting.scoring.image_features import ScoreEncoder, score_encoder
from drifting.scoring.image_sets import NpzImages, SourceImages, open_images
from drifting.scoring.metrics.class_accuracy import class_accuracy
from drifting.scoring.metrics.density_coverage import density_coverage
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.inception_score import inception_score
from drifting.scoring.metrics.kid import kid
from drifting.scoring.metrics.precision_recall import f1, precision_recall
from drifting.scoring.reference import make_reference
from drifting.scoring.results import latest_scores, score_table
from drifting.scoring.settings import ScoreSettings
from tests.support.runs import finished_run

PAIRS = ("class_accuracy", "frechet_distance", "precision", "recall", "f1", "kid", "density", "coverage")


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy of the finished run, which evaluation may write to."""
    shutil.copytree(finished_run(tmp_path_factory), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the training digits' pixels."""
    path = tmp_path_factory.mktemp("reference") / "pixels.npz"
    make_reference(SourceImages(digits(), {"images": "digits"}), score_encoder("pixels", (8, 8, 1)), path)
    return path


# --- against the run's own data ---------------------------------------------------------------------------------------


def test_all_averages_are_scored_against_the_same_real_images(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Their features are taken once."""
    taken, side = [], against_own_data._side
    monkeypatch.setattr(against_own_data, "_side", lambda *given: taken.append(len(given[0])) or side(*given))
    assert main(["evaluate", f"--workdir={run}", "--ema=0.9,0.99", "--num=20"]) == 0
    assert len(taken) == len(set(taken)) == 2  # the training images, and those that were held out
    found = [json.loads((run / f"eval-120-ema{decay}.json").read_text()) for decay in ("0.9", "0.99")]
    assert [one["ema_decay"] for one in found] == [0.9, 0.99] and found[0]["scores"] != found[1]["scores"]


def test_scores_against_the_runs_own_data(run: Path):
    trained = TrainedGenerator.from_run(run, 0.99)
    found = evaluate_generator(trained, str(run), settings=ScoreSettings(alphas=[1.5, 2.0]))
    assert found is not None and [one["alpha"] for one in found] == [1.5, 2.0]
    scores = found[0]
    written = json.loads((run / "eval-120.json").read_text())
    assert written["scores"] == found and not list(run.glob(".*"))  # in one piece
    facts = {"num": 40, "step": 120, "seed": 0, "ema_decay": 0.99, "data": "digits", "uint8": "truncate"}
    assert {name: written[name] for name in facts} == facts
    wanted = {*(f"{name}{end}" for name in (*PAIRS, "kid_std") for end in ("", "_heldout"))}
    wanted |= {"frechet_ratio", "num", "alpha"}
    assert set(scores) == wanted

    labels = balanced_labels(40, 10)
    images = GeneratedImages(trained, labels, source="", alpha=1.5).part(range(40))
    train, heldout = digits(), digits("heldout")
    levels = {"": images, "_heldout": SourceImages(heldout, {}).part(range(len(heldout)))}
    x, *both = (
        z.reshape(len(z), 64).astype(np.float64) / 127.5 - 1
        for z in (SourceImages(train, {}).part(range(len(train))), *levels.values())
    )
    for end, y, asked in zip(levels, both, (labels, heldout.labels), strict=True):
        precision, recall = precision_recall(x, y, 3)
        distance = frechet_distance(x.mean(axis=0), np.cov(x.T), y.mean(axis=0), np.cov(y.T))
        expected = {"class_accuracy": class_accuracy(x, train.labels, y, asked), "frechet_distance": distance}
        expected |= {"precision": precision, "recall": recall, "f1": f1(precision, recall)}
        expected["kid"], expected["kid_std"] = kid(x, y)
        expected["density"], expected["coverage"] = density_coverage(x, y, 3)
        for name, value in expected.items():
            assert scores[name + end] == pytest.approx(value, rel=1e-6), name
    assert scores["frechet_ratio"] == scores["frechet_distance"] / scores["frechet_distance_heldout"]
    # The held-out digits are real: the figures of the task they were chosen for.
    assert scores["class_accuracy_heldout"] > 0.98 and scores["precision_heldout"] > 0.85

    table = score_table(found)
    for name in set(PAIRS) - {"kid"}:
        assert f"{scores[name]:.4f}" in table and f"{scores[name + '_heldout']:.4f}" in table
    assert f"{scores['kid']:.6f}" in table and f"{scores['frechet_ratio']:.2f}" in table
    assert table.splitlines()[-1] == "40 images, alpha 2"
    best = latest_scores(run)
    assert best is not None and best["frechet_distance"] == min(one["frechet_distance"] for one in found)
    assert best["step"] == 120 and latest_scores(run.parent) is None


def test_what_cannot_be_compared_with_its_own_data(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained = TrainedGenerator.from_run(run)
    with pytest.raises(ConfigError, match=r"^num=3: must exceed eval\.neighbours=3$"):
        evaluate_generator(trained, str(run), settings=ScoreSettings(num=3))
    with pytest.raises(ConfigError, match=r"^neighbours=6: must be less than the 5 images that are scored$"):
        evaluate_generator(trained, str(run), settings=ScoreSettings(num=5, neighbours=6))
    with pytest.raises(ConfigError, match=r"^encoder=pixels: a run's own data are compared pixel by pixel: leave"):
        evaluate_generator(trained, str(run), encoder="pixels")
    with pytest.raises(ConfigError, match=r"^reference: published needs statistics of real images, see"):
        evaluate_generator(replace(trained, config=None), "published", settings=ScoreSettings(num=10))
    with pytest.raises(ConfigError, match=r"^reference: several processes need statistics of real images"):
        evaluate_generator(trained, str(run), share=Share(0, 2))
    monkeypatch.setattr("drifting.scoring.against_own_data.OWN_IMAGES", 1000)
    with pytest.raises(ConfigError, match=r"^reference: 1,400 training images are too many to compare pixel by pixel"):
        evaluate_generator(trained, str(run))
    monkeypatch.undo()
    assert trained.config is not None
    images, labels = digits().__getitems__(np.arange(1400))
    for name, arrays, words in [
        ("bare", dict(image=images, label=labels), r"^data\.path='.*': has no key 'image_heldout'"),
        (
            "whole",
            dict(image=images[1:], label=labels[1:], image_heldout=images[:1], label_heldout=labels[:1]),
            r"^data\.name='array': .*data, samples, checksum are not what .* was trained with",
        ),
    ]:
        np.savez(tmp_path / f"{name}.npz", **arrays)
        data = replace(trained.config.data, name="array", path=str(tmp_path / f"{name}.npz"))
        other = replace(trained, config=replace(trained.config, data=data))
        with pytest.raises(ConfigError, match=words):
            evaluate_generator(other, str(run))
    assert not (run / "eval-120.json").exists()


@pytest.mark.parametrize(
    ("flat", "heldout", "words"),
    [
        (True, 40, r"^training images of mine: all images look alike to the encoder pixels .*: give another encoder"),
        (False, 1, r"^data\.name='array', split heldout: 1 image cannot be scored against: give at least 2 images$"),
    ],
)
def test_own_data_that_nothing_can_be_scored_against(tmp_path: Path, flat: bool, heldout: int, words: str):
    images, labels = digits().__getitems__(np.arange(80))
    images, path = images * (not flat), tmp_path / "own.npz"
    own = dict(image=images[40:], label=labels[40:], image_heldout=images[:heldout], label_heldout=labels[:heldout])
    np.savez(path, **own)
    config = Config(data=DataConfig(name="array", path=str(path)))
    facts = data_facts(source(config.data))
    with pytest.raises(InputError, match=words):
        assert own_data_judge(config, facts, "mine", 3).scores(SourceImages(digits("heldout"), {}))


# --- against a reference ----------------------------------------------------------------------------------------------


def test_a_file_scores_as_the_generator_that_drew_it(run: Path, pixels: Path, tmp_path: Path):
    trained = TrainedGenerator.from_run(run)
    settings = ScoreSettings(num=600, alphas=[1.0, 2.0], seed=7)
    drawn = evaluate_generator(trained, str(run), reference=pixels, settings=settings)
    assert drawn is not None and len({one["frechet_distance"] for one in drawn}) == 2
    labels = wanted_labels(trained.usage.class_names, 600)
    for alpha, scores in zip([1.0, 2.0], drawn, strict=True):
        out = tmp_path / f"{alpha}.npz"
        assert write_images(GeneratedImages(trained, labels, source="", seed=7, alpha=alpha, batch_size=16), out)
        found = evaluate_files(open_images(out), tmp_path / "scores.json", pixels)
        assert found == [{name: value for name, value in scores.items() if name != "alpha"}]  # to the last bit
    folder = tmp_path / "folder"
    assert write_images(GeneratedImages(trained, labels, source="", seed=7, alpha=2.0), folder)
    assert evaluate_files(open_images(folder), tmp_path / "scores.json", pixels) == found
    assert sorted(file.name for file in run.glob("eval*")) == ["eval-120.json"]

    x = NpzImages(out).part(range(600)).reshape(600, 64) / np.float32(127.5) - 1
    y = SourceImages(digits(), {}).part(range(1400)).reshape(1400, 64) / np.float32(127.5) - 1
    gaussians = [(z.mean(axis=0, dtype=np.float64), np.cov(z.astype(np.float64), rowvar=False)) for z in (y, x)]
    assert found is not None
    assert found[0]["frechet_distance"] == pytest.approx(frechet_distance(*gaussians[0], *gaussians[1]), rel=1e-6)
    precision, recall = precision_recall(y, x)
    assert (found[0]["precision"], found[0]["recall"]) == (precision, recall)
    said = json.loads((run / "eval-120.json").read_text())
    assert said["reference"]["path"] == str(pixels) and said["encoder"] == "pixels" and said["neighbours"] == 3


def test_scores_without_files(run: Path, pixels: Path, tmp_path: Path):
    trained = TrainedGenerator.from_run(run)
    before = sorted(run.rglob("*"))
    for reference, alpha in ((None, None), (pixels, 1.5)):
        settings = ScoreSettings(num=30, seed=2, alphas=None if alpha is None else [alpha])
        written = evaluate_generator(trained, "run", tmp_path / "s.json", reference=reference, settings=settings)
        assert written is not None
        found = score(trained, num=30, seed=2, reference=reference, alpha=alpha)
        assert {"alpha": alpha or 1.0} | found == written[0]
    assert sorted(run.rglob("*")) == before


def test_processes_share_an_evaluation_and_a_killed_one_goes_on(
    run: Path, pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = TrainedGenerator.from_run(run)

    def evaluate(name: str, share: Share | None = None) -> list[dict[str, Any]] | None:
        out, settings = tmp_path / f"{name}.json", ScoreSettings(num=600, alphas=[1.0, 2.0])
        return evaluate_generator(trained, str(run), out, reference=pixels, settings=settings, share=share)

    whole = evaluate("whole")
    assert whole is not None and len(whole) == 2
    assert evaluate("shared", Share(1, 2)) is None
    assert evaluate("shared", Share(0, 2)) == whole
    encode, calls = ScoreEncoder.__call__, []

    def failing(self, images, tick):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, images, tick)

    monkeypatch.setattr(ScoreEncoder, "__call__", failing)
    with pytest.raises(KeyboardInterrupt, match=r"^the same command goes on from there$"):
        evaluate("killed")
    assert evaluate("killed") == whole
    assert calls == [512, 88, 512, 512, 88]
    assert not list(tmp_path.glob("*.parts"))


def test_half_an_evaluation_of_another_run_is_not_continued(run: Path, pixels: Path, tmp_path: Path):
    trained, settings = TrainedGenerator.from_run(run), ScoreSettings(num=600)
    out = tmp_path / "scores.json"
    assert evaluate_generator(trained, "a", out, reference=pixels, settings=settings, share=Share(0, 2)) is None
    other = replace(trained, params=jax.tree.map(lambda leaf: leaf * 1.01, trained.params))
    with pytest.raises(
        ConfigError, match=r"^out=.*json: .*parts\S+, begun before, is of something else \(weights was '"
    ):
        evaluate_generator(other, "a", out, reference=pixels, settings=settings)
    assert evaluate_generator(trained, "b", out, reference=pixels, settings=settings) is not None


def test_scores_say_what_was_scored(run: Path, pixels: Path, tmp_path: Path):
    trained = TrainedGenerator.from_run(run)
    evaluate_generator(trained, str(run), tmp_path / "run.json", settings=ScoreSettings(num=10))
    assert json.loads((tmp_path / "run.json").read_text())["weights"] == params_sha256(trained.params)
    path = tmp_path / "images.npz"
    for shade in (0, 1):
        write_npz(path, 9, (8, 8, 1), iter([np.full((9, 8, 8, 1), shade, np.uint8)]), np.zeros(9, int))
        evaluate_files(open_images(path), tmp_path / "scores.json", pixels)
        assert json.loads((tmp_path / "scores.json").read_text())["sha256"] == sha256(path)
    (tmp_path / "folder").mkdir()
    digests = set()
    for shade in (0, 1):
        Image.new("L", (8, 8), shade).save(tmp_path / "folder" / "0.png")
        digests.add(open_images(tmp_path / "folder").facts["sha256"])
    assert len(digests) == 2


def test_a_reference_of_other_features_is_found_before_weights_are(run: Path, tmp_path: Path, monkeypatch):
    np.savez(tmp_path / "wide.npz", mu=np.zeros(192), sigma=np.eye(192))
    monkeypatch.setattr(
        "drifting.scoring.image_features.inception.load_weights", lambda *_: pytest.fail("asked for weights")
    )
    monkeypatch.setattr(GeneratedImages, "part", lambda *_: pytest.fail("drew images"))
    trained = TrainedGenerator.from_run(run)
    for encoder, words in ((None, "inception gives 2048"), ("pixels", "pixels gives 64")):
        with pytest.raises(ConfigError, match=rf"^reference=.*wide\.npz: has 192 features, {words}"):
            evaluate_generator(trained, str(run), reference=tmp_path / "wide.npz", encoder=encoder)


def test_scores_by_other_settings_are_not_written_over(run: Path, pixels: Path, tmp_path: Path, capsys, quiet):
    common = ["evaluate", f"--workdir={run}", f"--reference={pixels}"]
    out = run / "eval-120.json"
    assert main([*common, "--num=20"]) == 0
    before = out.read_bytes()
    assert main([*common, "--num=20"]) == 0 and out.read_bytes() == before
    capsys.readouterr()
    for flags, words in [
        (("--num=30",), "num was 20, is 30"),
        (("--num=20", "--alpha=1.5"), "alpha was [1.0], is [1.5]"),
        (("--num=20", "--seed=3"), "seed was 0, is 3"),
        (("--num=20", "--ema=0.99"), "ema_decay was 0.9, is 0.99"),
    ]:
        found = line(capsys, *common, *flags)
        assert found.startswith(f"--out={out}: was scored otherwise ({words}") and "choose another" in found
    found = line(capsys, "evaluate", f"--workdir={run}", "--num=20")
    assert "reference was a file, is" in found and 'is "the run\'s own data"' in found
    with np.load(pixels) as arrays:
        np.savez(tmp_path / "other.npz", **dict(arrays) | {"mu": arrays["mu"] + 1})
    found = line(capsys, "evaluate", f"--workdir={run}", "--num=20", f"--reference={tmp_path / 'other.npz'}")
    assert "was scored otherwise (reference was another file)" in found
    assert out.read_bytes() == before
    assert main([*common, "--num=30", f"--out={tmp_path / 'other.json'}"]) == 0
    capsys.readouterr()
    (tmp_path / "mine.json").write_text("[]")
    assert "holds no scores" in line(capsys, *common, f"--out={tmp_path / 'mine.json'}")
    # A run that was trained anew is scored anew; so does a sweep, whose cells are its own.
    trained = TrainedGenerator.from_run(run)
    settings, other = ScoreSettings(num=20), jax.tree.map(lambda leaf: leaf * 1.01, trained.params)
    trained = replace(trained, params=other)
    assert evaluate_generator(trained, "", out, reference=pixels, settings=settings, replace=False) is not None
    assert evaluate_generator(trained, "", out, reference=pixels, settings=ScoreSettings(num=30)) is not None


def inception_like(shape: tuple[int, int, int]) -> ScoreEncoder:
    """Has the outputs of the Inception network, at no cost."""

    def function(_: Any, images: jax.Array) -> dict[str, jax.Array]:
        x = images.reshape(len(images), -1).astype("float32") / 255
        return {"features": x[:, :12], "spatial": x[:, 5:10], "logits": 3 * x[:, 20:30]}

    blocks = BlockFunction(function, 32)
    return ScoreEncoder("inception", "", "0123", shape, blocks, blocks.place({}))


def test_scores_of_the_inception_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    rng = np.random.default_rng(3)
    real, fake = (rng.integers(low, 256, (200, 4, 4, 3), dtype=np.uint8) for low in (0, 30))
    x, y = (z.reshape(200, 48).astype(np.float64) / 255 for z in (real, fake))
    monkeypatch.setattr(against_reference, "score_encoder", lambda given, shape: inception_like(shape))
    monkeypatch.setattr(against_reference, "known_widths", lambda given, shape: {})  # 2048 features
    write_npz(tmp_path / "fake.npz", 200, (4, 4, 3), iter([fake]), np.zeros(200, np.int64))
    statistics = dict(mu=x[:, :12].mean(0), sigma=np.cov(x[:, :12], rowvar=False))
    statistics |= dict(mu_s=x[:, 5:10].mean(0), sigma_s=np.cov(x[:, 5:10], rowvar=False))
    np.savez(tmp_path / "adm.npz", arr_0=real, **statistics)
    np.savez(tmp_path / "bare.npz", **statistics)
    out = tmp_path / "scores.json"
    found = evaluate_files(open_images(tmp_path / "fake.npz"), out, tmp_path / "adm.npz")
    assert found is not None
    scores = found[0]
    moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x[:, :12], y[:, :12], x[:, 5:10], y[:, 5:10])]
    assert scores["fid"] == pytest.approx(frechet_distance(*moments[0], *moments[1]), rel=1e-5)
    assert scores["sfid"] == pytest.approx(frechet_distance(*moments[2], *moments[3]), rel=1e-5)
    expected = inception_score(3 * y[:, 20:30])
    assert (scores["inception_score"], scores["inception_score_std"]) == pytest.approx(expected, rel=1e-5)
    # ADM's reference holds images: their features are taken here.
    assert (scores["precision"], scores["recall"]) == pytest.approx(precision_recall(x[:, :12], y[:, :12]))
    assert "fid" in score_table(found) and f"{scores['sfid']:.4f}" in score_table(found)
    with caplog.at_level(logging.WARNING, "drifting"):
        bare = evaluate_files(open_images(tmp_path / "fake.npz"), out, tmp_path / "bare.npz")  # the same statistics
    assert bare is not None and bare[0]["fid"] == scores["fid"] and "precision" not in bare[0]
    assert "bare.npz: holds no features: no precision and recall, KID, density and coverage" in caplog.text


# --- one line for whatever is wrong -----------------------------------------------------------------------------------


def line(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    errors = [text for text in captured.err.splitlines() if text.startswith("drifting: error: ")]
    assert captured.out == "" and len(errors) == 1, captured.err
    return errors[0].removeprefix("drifting: error: ")


@pytest.fixture
def quiet():
    logger = logging.getLogger("drifting")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_what_cannot_be_evaluated(run: Path, pixels: Path, tmp_path: Path, capsys, quiet, monkeypatch):
    write_npz(tmp_path / "large.npz", 9, (16, 16, 1), iter([np.zeros((9, 16, 16, 1), np.uint8)]), np.zeros(9, int))
    write_npz(tmp_path / "small.npz", 9, (8, 8, 1), iter([np.zeros((9, 8, 8, 1), np.uint8)]), np.zeros(9, int))
    small = f"--images={tmp_path / 'small.npz'}"
    for arguments, words in [
        ((), "--workdir: give the run's folder, or --weights or --images"),
        ((small, f"--workdir={run}"), "--workdir says what to score, leave one out"),
        ((small,), "--reference: give statistics of real images"),
        ((small, f"--reference={pixels}", "--alpha=1,2"), "--alpha=1,2: --images have been drawn: give --workdir or"),
        ((small, f"--reference={pixels}", "--seed=0"), "--seed=0: --images have been drawn"),
        ((small, f"--reference={pixels}", "--uint8=round"), "--uint8=round: --images have been drawn"),
        ((small, f"--reference={pixels}", "--batch=4"), "--batch=4: --images have been drawn"),
        ((small, f"--reference={pixels}", "--num=10"), "--num=10: "),
        ((small, f"--reference={pixels}", "--num=3"), "--num=3: must exceed the neighbours=3"),
        ((small, f"--reference={pixels}", "--encoder=mae:x"), "--encoder=mae:x: "),
        ((small, f"--reference={tmp_path / 'large.npz'}"), "has no mu and sigma"),
        (
            (f"--images={tmp_path / 'large.npz'}", f"--reference={pixels}"),
            "is of images of [8, 8, 1], these are of [16",
        ),
        ((f"--images={tmp_path / 'absent'}", f"--reference={pixels}"), "there is no such file or folder"),
        ((f"--workdir={run}", f"--reference={pixels}", "--alpha=1,x"), "--alpha=x: expected numbers"),
        ((f"--workdir={run}", f"--reference={pixels}", "--classes="), "--classes: give a value"),
        ((f"--workdir={run}", f"--reference={pixels}", "--process_index=2"), "--process_index=2: must be 0 or more"),
    ]:
        found = line(capsys, "evaluate", *arguments)
        assert words in found, found
    # A diverged generator.
    part = GeneratedImages.part
    monkeypatch.setattr(GeneratedImages, "part", lambda self, items, tick=None: part(_diverged(self), items))
    assert "image 0 has a pixel that is not finite" in line(capsys, "evaluate", f"--workdir={run}")
    assert not list(run.glob("eval-*.json"))


def _diverged(images: GeneratedImages) -> GeneratedImages:
    images._trained = replace(images._trained, params=jax.tree.map(lambda leaf: leaf * np.nan, images._trained.params))
    return images


def test_an_alpha_outside_the_trained_range_is_a_warning(run: Path, pixels: Path, capsys, quiet):
    arguments = [f"--workdir={run}", f"--reference={pixels}", "--alpha=1,9", "--num=20"]
    assert main(["evaluate", *arguments]) == 0
    captured = capsys.readouterr()
    assert "warning: alpha=9 lies outside the trained range [1, 4]" in captured.err
    assert len(captured.out.splitlines()) == 4 and captured.out.endswith("eval-120.json\n")


def test_reference_from_the_command_line(tmp_path: Path, capsys, quiet):
    config, out = tmp_path / "config.py", tmp_path / "reference.npz"
    config.write_text("from drifting.config import train_config as get_config\n")
    assert main(["reference", f"--config={config}", "--encoder=pixels", f"--out={out}", "--keep=5"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["features"].shape == (5, 64)
        assert json.loads(str(arrays["metadata"]))["images"] == "digits, train"
    assert main(["reference", "--help"]) == 0
    assert "usage: drifting reference --config=FILE|--images=PATH --out=NPZ" in capsys.readouterr().out
    assert "--out: give the file" in line(capsys, "reference", f"--config={config}")
