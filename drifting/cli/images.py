"""`drifting sample`, `evaluate` and `compare`: the images of a generator."""

import logging
from pathlib import Path
from typing import Any

from absl import flags

from drifting.cli.command import Command
from drifting.cli.shared import (
    SCORE_ENCODER_HELP,
    SHARE_FLAGS,
    WEIGHTS_HELP,
    define_alpha,
    define_import,
    define_share,
    guidance_scale,
    number_of,
    place_of,
    run_of,
    share_of,
)
from drifting.config.schema import ema_decay
from drifting.errors import ConfigError, as_argument
from drifting.runs.directory import read_config
from drifting.runs.places import place

logger = logging.getLogger("drifting")

STD = "std"
"""Begins the name of an average that is known by its width, `std=0.05`."""

MOST_COLUMNS = 10_000
"""Images in a row of a grid; a PNG of more could not be looked at."""


def _define_images(values: flags.FlagValues) -> None:
    """Which images a generator draws, but for the average of its parameters."""
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`, or give --weights", flag_values=values)
    flags.DEFINE_string("weights", None, f"or {WEIGHTS_HELP}", flag_values=values)
    flags.DEFINE_string("vae", None, "VAE to decode the weights' latents with; default theirs", flag_values=values)
    flags.DEFINE_string("labels", None, "file with the label of each image, in place of --classes", flag_values=values)
    seed = "seed of the first image, each has its own; default 0"
    flags.DEFINE_integer("seed", 0, seed, lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    conversion = "truncate to whole levels, as the released evaluation (default), or round"
    flags.DEFINE_string("uint8", "truncate", conversion, flag_values=values)
    flags.DEFINE_integer("batch", 64, "images in flight; default 64", lower_bound=1, flag_values=values)
    define_import(values)


def _check_trained(values: flags.FlagValues) -> None:
    """Checks that the flags name one generator, and that a run is there; JAX is not imported for it."""
    if bool(values.workdir) == bool(values.weights):
        raise ConfigError("--workdir or --weights: give one, a run's folder or published weights")
    if values.weights and values.ema is not None:
        shown = ",".join(values.ema) if isinstance(values.ema, list) else values.ema
        raise ConfigError(f"--ema={shown}: published weights are one average, leave it out")
    if values.workdir and values.vae:
        raise ConfigError(f"--vae={values.vae}: a run has its own, leave it out")
    if values.workdir:
        run_of(values)


def _trained(values: flags.FlagValues, average: float | None, std: float | None = None) -> Any:
    """The generator that the flags name, with one average of its parameters."""
    from drifting.sampling.generator import TrainedGenerator

    if values.weights:
        return TrainedGenerator.from_weights(values.weights, values.vae)
    return TrainedGenerator.from_run(place_of(values, "workdir"), average, std=std)


def _averages(values: flags.FlagValues) -> dict[str, tuple[float | None, float | None]]:
    """Decay and width of each average that `--ema` names, by its name; those that have to be made come last.

    Raises:
        ConfigError: a name means none, or one is given twice.
    """
    found: dict[str, tuple[float | None, float | None]] = {}
    for name in values.ema or []:
        wide = name.startswith(f"{STD}=")
        word = f"{STD}=" if wide else ""
        number = number_of("ema", name.removeprefix(word), "0.999,std=0.05", word)
        label = f"{STD}{number:g}" if wide else f"ema{number:g}"
        if label in found:
            raise ConfigError(f"--ema={','.join(values.ema)}: names {name} twice, give it once")
        found[label] = (None, number) if wide else (number, None)
    return dict(sorted(found.items(), key=lambda item: item[1][1] or 0.0)) or {"": (None, None)}


def _leave_out(values: flags.FlagValues, names: tuple[str, ...], why: str) -> None:
    """Refuses flags that would be ignored."""
    for flag in names:
        if values[flag].present:
            value = values[flag].value
            shown = ",".join(value) if isinstance(value, list) else value
            raise ConfigError(f"--{flag}={shown}: {why}, or leave it out")


def _define_sample(values: flags.FlagValues) -> None:
    _define_images(values)
    flags.DEFINE_float("ema", None, "which average of a run's parameters; default its own", flag_values=values)
    out = "PNG grid, .npz of ADM's form, or folder of PNGs; default samples.png in WORKDIR or here"
    flags.DEFINE_string("out", None, out, flag_values=values)
    flags.DEFINE_integer(
        "num",
        None,
        "images, for an .npz or a folder; default eval.num_samples of a run",
        lower_bound=1,
        flag_values=values,
    )
    classes = "names or numbers: a grid's rows, default at most 10, or in turn, default all"
    flags.DEFINE_list("classes", None, classes, flag_values=values)
    grid = "images of each class in a grid; default 10"
    flags.DEFINE_integer("columns", 10, grid, lower_bound=1, upper_bound=MOST_COLUMNS, flag_values=values)
    define_alpha(values, "guidance scale; default eval.alpha")
    define_share(values, "draw into one file or folder")


def _sample(values: flags.FlagValues) -> int:
    from drifting.runs.shared_work import Share

    path = place_of(values, "out") if values.out else place(values.workdir or ".") / "samples.png"
    _check_trained(values)
    if path.suffix != ".png":
        if path.suffix not in ("", ".npz") and not path.is_dir() and not values.out.endswith("/"):
            forms = f"write a grid (.png), an .npz, or a new folder of that name as {values.out}/"
            raise ConfigError(f"--out={values.out}: {forms}")
        _leave_out(values, ("columns",), "is of a grid: write a .png")
        share = Share(*share_of(values))
        return _sample_images(values, _trained(values, values.ema), path, share)
    from drifting.sampling.grid import write_grid

    remedy = "a grid has --classes and --columns: write an .npz or a folder"
    _leave_out(values, ("num", "labels", "uint8", "process_index", "process_count"), remedy)
    trained = _trained(values, values.ema)
    write_grid(
        trained,
        path,
        classes=values.classes,
        columns=values.columns,
        alpha=values.alpha,
        seed=values.seed,
        batch_size=values.batch,
    )
    print(path)
    return 0


def _sample_images(values: flags.FlagValues, trained: Any, path: Path, share: Any) -> int:
    from drifting.sampling.files import write_images
    from drifting.sampling.images import GeneratedImages
    from drifting.sampling.labels import class_line, distinct_class_labels, wanted_labels

    names = trained.usage.class_names
    num = values.num
    if num is None and values.labels is None and trained.config is not None:
        num = trained.config.eval.num_samples
    labels = wanted_labels(names, num, values.classes, values.labels)
    in_turn = class_line(distinct_class_labels(values.classes, names), names) if values.labels is None else ""
    images = GeneratedImages(
        trained,
        labels,
        source=values.weights or values.workdir,
        seed=values.seed,
        alpha=trained.alpha(values.alpha),
        uint8=values.uint8,
        batch_size=values.batch,
    )
    if write_images(images, path, share, about=in_turn and f"classes in turn: {in_turn}"):
        print(path)
    return 0


def _define_evaluate(values: flags.FlagValues) -> None:
    _define_images(values)
    several = "averages of a run: decays, or std=WIDTH, see `drifting ema`; default its own"
    flags.DEFINE_list("ema", None, several, flag_values=values)
    files = "score the images of a folder or .npz, in place of --workdir or --weights"
    flags.DEFINE_string("images", None, files, flag_values=values)
    reference = ".npz that `drifting reference` wrote, or ADM's; default: a run's own pixels"
    flags.DEFINE_string("reference", None, reference, flag_values=values)
    flags.DEFINE_string("encoder", None, f"features: {SCORE_ENCODER_HELP}; default the reference's", flag_values=values)
    real = "real images for precision to coverage; default the reference's"
    flags.DEFINE_string("real_images", None, real, flag_values=values)
    flags.DEFINE_list("alpha", None, "guidance scales, e.g. 1.0,1.5,2.0; default eval.alpha", flag_values=values)
    count = "images; default eval.num_samples, 50000 of --weights, all of --images"
    flags.DEFINE_integer("num", None, count, lower_bound=2, flag_values=values)
    classes = "names or numbers, drawn in turn; default all"
    flags.DEFINE_list("classes", None, classes, flag_values=values)
    radii = "neighbour that sets the radii of precision to coverage; default eval.neighbours, or 3"
    flags.DEFINE_integer("neighbours", None, radii, lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "JSON to write; default eval-STEP.json in WORKDIR or here", flag_values=values)
    define_share(values, "score the same images")


def _evaluate(values: flags.FlagValues) -> int:
    given = [flag for flag in ("workdir", "weights", "images") if values[flag].value]
    if not given:
        raise ConfigError("--workdir: give the run's folder, or --weights or --images")
    if len(given) > 1:
        raise ConfigError(f"--{given[1]}={values[given[1]].value}: --{given[0]} says what to score, leave one out")
    alphas = None if values.alpha is None else [guidance_scale(alpha) for alpha in values.alpha]
    from drifting.runs.shared_work import Share
    from drifting.scoring.metrics import rank
    from drifting.scoring.results import score_table
    from drifting.scoring.settings import ScoreSettings

    share = Share(*share_of(values))
    if values.images:
        return _evaluate_files(values, share)
    _check_trained(values)
    settings = ScoreSettings(
        num=values.num,
        alphas=alphas,
        seed=values.seed if values["seed"].present else None,
        classes=values.classes,
        labels=values.labels,
        uint8=values.uint8,
        batch_size=values.batch if values["batch"].present else None,
        neighbours=values.neighbours,
    )
    from drifting.scoring.evaluate import evaluate_generator, judge_for, scores_file
    from drifting.weights.averages import check_reconstructible

    averages, source = _averages(values), values.weights or values.workdir
    for average, std in averages.values() if values.workdir else ():
        ema_decay(read_config(place_of(values, "workdir")), average)
        if std is not None:
            with as_argument("average", f"{STD}={std:g}"):
                check_reconstructible(place_of(values, "workdir"), std)
    against: dict[str, Any] = dict(
        reference=place_of(values, "reference") if values.reference else None,
        real_images=place_of(values, "real_images") if values.real_images else None,
        encoder=values.encoder,
        settings=settings,
        share=share,
    )
    best: dict[str, Any] = {}
    judge = None
    for label, (average, std) in averages.items():
        trained = _trained(values, average, std)
        judge = judge or judge_for(trained, source, **against)
        out = place_of(values, "out") if values.out else scores_file(trained, source)
        if len(averages) > 1:
            out = out.with_name(f"{out.stem}-{label}{out.suffix}")
        found = evaluate_generator(trained, source, out, **against, replace=False, judge=judge)
        if found is not None:
            print(*([f"{label}:"] if len(averages) > 1 else []), score_table(found), out, sep="\n")
            best[label] = min(found, key=rank)
    if len(best) > 1:
        label = min(best, key=lambda one: rank(best[one]))
        print(f"best: {label} at alpha {best[label]['alpha']:g}")
    return 0


def _evaluate_files(values: flags.FlagValues, share: Any) -> int:
    drawing = ("alpha", "ema", "classes", "labels", "vae", "seed", "uint8", "batch")
    _leave_out(values, drawing, "--images have been drawn: give --workdir or --weights")
    if not values.reference:
        raise ConfigError("--reference: give statistics of real images, see `drifting reference`")
    from drifting.scoring.evaluate import evaluate_files
    from drifting.scoring.image_sets import open_images
    from drifting.scoring.results import score_table

    path = Path(values.images)
    with as_argument("images", path):
        images = open_images(path)
    out = place_of(values, "out") if values.out else path.with_name(f"{path.stem}-eval.json")
    found = evaluate_files(
        images,
        out,
        place_of(values, "reference"),
        encoder=values.encoder,
        num=values.num,
        neighbours=values.neighbours,
        real_images=place_of(values, "real_images") if values.real_images else None,
        share=share,
    )
    if found is not None:
        print(score_table(found))
        print(out)
    return 0


def _define_compare(values: flags.FlagValues) -> None:
    for flag in ("a", "b"):
        flags.DEFINE_string(flag, None, f"run directory, or {WEIGHTS_HELP}", flag_values=values)
    flags.DEFINE_string("out", "compare.html", "HTML file to write; default compare.html here", flag_values=values)
    reference = ".npz that `drifting reference` wrote, or ADM's; default: A's own pixels"
    flags.DEFINE_string("reference", None, reference, flag_values=values)
    flags.DEFINE_string("encoder", None, f"features: {SCORE_ENCODER_HELP}; default the reference's", flag_values=values)
    flags.DEFINE_integer("num", None, "images of each; default A's eval.num_samples", lower_bound=2, flag_values=values)
    define_alpha(values, "guidance scale of both; default each one's own")
    flags.DEFINE_integer("seed", None, "of the first image; default A's eval.seed", lower_bound=0, flag_values=values)
    resamples = "for the intervals; default 200, or 20 of more than 512 features"
    flags.DEFINE_integer("resamples", None, resamples, lower_bound=2, flag_values=values)
    define_import(values)


def _compare(values: flags.FlagValues) -> int:
    if not values.a or not values.b:
        raise ConfigError("compare: give two runs or weights, drifting compare A B")
    from drifting.experiments.compare import compare_generators, comparison_table

    out = place_of(values, "out")
    found = compare_generators(
        values.a,
        values.b,
        out,
        reference=place_of(values, "reference") if values.reference else None,
        encoder=values.encoder,
        num=values.num,
        alpha=values.alpha,
        seed=values.seed,
        resamples=values.resamples,
    )
    print(comparison_table(found, [values.a, values.b]))
    print(out)
    return 0


COMMANDS = {
    "sample": Command(
        "draw images: a PNG grid, an .npz for evaluators, a folder",
        _define_sample,
        _sample,
        usage="--workdir=DIR|--weights=WEIGHTS [--flags]",
        flag_of=SHARE_FLAGS | {"average": "ema", "path": "out", "batch_size": "batch"},
    ),
    "evaluate": Command(
        "score a run, weights or images: FID, precision, recall",
        _define_evaluate,
        _evaluate,
        usage="--workdir=DIR|--weights=WEIGHTS|--images=PATH [--reference=NPZ] [--flags]",
        flag_of=SHARE_FLAGS | {"average": "ema", "std": "ema", "alphas": "alpha", "batch_size": "batch"},
        out="file",
    ),
    "compare": Command(
        "set two generators side by side at the same seeds",
        _define_compare,
        _compare,
        usage="A B [--reference=NPZ] [--flags]",
        takes=("a", "b"),
        out="page",
    ),
}
