"""`drifting export`, `import` and `hub push`: weights to publish."""

from absl import flags

from drifting.cli.command import Command
from drifting.cli.shared import WEIGHTS_HELP, define_import, number_of, out_of, place_of, workdir_of
from drifting.errors import ConfigError


def _weights(values: flags.FlagValues) -> str:
    if not values.weights:
        raise ConfigError("--weights: give a folder of weights, or hf://OWNER/REPO[/FOLDER] where they are downloaded")
    return str(values.weights)


def _define_out(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "folder to write", flag_values=values)
    formats = "safetensors (default), or released: the layout and tensor names of the released weights"
    flags.DEFINE_string("format", "safetensors", formats, flag_values=values)


def _define_export(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train` or `pretrain`", flag_values=values)
    _define_out(values)
    flags.DEFINE_float("ema", None, "which average of a generator's parameters; default its own", flag_values=values)
    define_import(values)


def _export(values: flags.FlagValues) -> int:
    workdir, out = workdir_of(values), out_of(values)
    from drifting.experiments.export import export_run

    export_run(workdir, out, average=values.ema, layout=values.format)
    print(out)
    return 0


def _define_ema(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train` with train.ema_stds", flag_values=values)
    widths = "widths of the averages relative to the run, e.g. 0.05,0.1"
    flags.DEFINE_list("std", None, widths, flag_values=values)
    flags.DEFINE_string("out", None, "folder of the folders to write; default WORKDIR/ema", flag_values=values)
    define_import(values)


def _ema(values: flags.FlagValues) -> int:
    workdir = workdir_of(values)
    if not values.std:
        raise ConfigError("--std: give the widths of the averages to make, such as 0.05,0.1")
    stds = [number_of("std", std, "0.05,0.1") for std in values.std]
    from drifting.experiments.export import export_averages

    for folder in export_averages(workdir, stds, place_of(values, "out") if values.out else workdir / "ema"):
        print(folder)
    return 0


def _define_import(values: flags.FlagValues) -> None:
    flags.DEFINE_string("weights", None, WEIGHTS_HELP, flag_values=values)
    _define_out(values)


def _import(values: flags.FlagValues) -> int:
    weights, out = _weights(values), out_of(values)
    from drifting.experiments.export import import_weights

    import_weights(weights, out, layout=values.format)
    print(out)
    return 0


def _define_push(values: flags.FlagValues) -> None:
    flags.DEFINE_string("weights", None, "folder that `drifting export` or `import` wrote", flag_values=values)
    flags.DEFINE_string("repo", None, "where to: OWNER/NAME; made if it is not there", flag_values=values)
    flags.DEFINE_string("revision", None, "branch; default main", flag_values=values)
    flags.DEFINE_boolean("private", False, "make a new repository private", flag_values=values)


def _push(values: flags.FlagValues) -> int:
    weights = _weights(values)
    if not values.repo:
        raise ConfigError("--repo: give the repository, OWNER/NAME")
    from drifting.weights.push import push_weights

    print(push_weights(weights, values.repo, revision=values.revision, private=values.private))
    return 0


COMMANDS = {
    "export": Command(
        "write a run's weights as a folder to publish",
        _define_export,
        _export,
        usage="--workdir=DIR --out=DIR [--flags]",
        flag_of={"average": "ema", "layout": "format"},
        out="folder",
        needs_devices=False,
    ),
    "ema": Command(
        "make averages of other widths of those a run has stored",
        _define_ema,
        _ema,
        usage="--workdir=DIR --std=NUMBERS [--out=DIR]",
        flag_of={"stds": "std"},
        needs_devices=False,
    ),
    "import": Command(
        "turn published weights of any kind into a folder of ours",
        _define_import,
        _import,
        usage="--weights=WEIGHTS --out=DIR [--flags]",
        flag_of={"layout": "format"},
        out="folder",
        needs_devices=False,
    ),
    "hub push": Command(
        "upload a folder of weights to the Hugging Face hub",
        _define_push,
        _push,
        usage="--weights=DIR --repo=OWNER/NAME",
        flag_of={"folder": "weights"},
        needs_devices=False,
    ),
}
