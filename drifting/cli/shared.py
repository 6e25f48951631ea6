"""Flags that several commands have."""

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from drifting.cli.catalogue import experiments
from drifting.cli.flag_paths import try_to_write
from drifting.cli.overrides import overrides_of, real_number
from drifting.cli.settings import loaded_file
from drifting.config.checks import check
from drifting.config.paths import is_address
from drifting.config.registered import check_registered, check_registered_encoder, check_typed_options
from drifting.config.schema import AnyConfig, CacheBuild, Config
from drifting.data.sources import check_data_settings
from drifting.errors import ConfigError, InputError, require
from drifting.runs.directory import ENCODER_FOLDER, read_config
from drifting.runs.places import is_stored, place

WEIGHTS_HELP = "published weights: a folder or hf://OWNER/REPO[@REVISION][/FOLDER]"

SCORE_ENCODER_HELP = "inception[:WEIGHTS], pixels, mae|dinov2:WEIGHTS"


SHARE_FLAGS = {"index": "process_index", "count": "process_count"}
"""The flags that give the arguments of a `Share`, see `Command.flag_of`."""


def checked_settings(values: flags.FlagValues) -> Any:
    """The settings that `--config` and what changes it make, checked as far as that needs no JAX.

    Raises:
        ConfigError: they cannot work together, or an encoder that they name is not there.
    """
    settings = values.config
    check_without_jax(settings, overrides_of(values))
    if isinstance(settings, Config):
        check_files(settings)
    if not isinstance(settings, CacheBuild) and settings.train.wandb_project:
        from drifting.runs.metrics import import_wandb

        import_wandb()
    return settings


def check_without_jax(settings: AnyConfig, typed: Iterable[str]) -> None:
    """Checks settings as far as nothing is read for it. What registries that import JAX hold, is checked where it can
    only be the package's own: JAX is not imported yet, and so nothing has been entered. `typed`: the dotted keys of
    those that were given with the command.

    Raises:
        ConfigError: they cannot work together, or name what there is not.
    """
    check(settings)
    check_data_settings(settings.data)
    if not jax_is_imported():
        check_registered(settings)
    if isinstance(settings, Config):
        check_typed_options(settings, typed)


def jax_is_imported() -> bool:
    """Whether registries may hold other entries than the package's own: whoever enters one has imported JAX."""
    return "jax" in sys.modules


def check_named_encoder(values: flags.FlagValues) -> None:
    """Checks the encoder of images that `--encoder` names, where it can only be one of the package's own.

    Raises:
        ConfigError: there is no such encoder.
    """
    given = values["encoder"].value if "encoder" in values else None
    if given and not jax_is_imported():
        check_registered_encoder("--encoder", given)


def check_files(config: Config) -> None:
    """Checks that what a training needs, and its scores after it, is there.

    Raises:
        ConfigError: a folder of an encoder or a file of real images is not.
    """
    check_encoders(config)
    remedies = {"reference": "`drifting reference` makes one", "real_images": "give a folder of images or an .npz"}
    for key, remedy in remedies.items():
        path: str | None = getattr(config.eval, key)
        there = path is None or is_address(path) or Path(path).exists()
        require(there, f"eval.{key}", path, f"there is no such file; {remedy}")
    encoder = config.eval.encoder or ""
    weights = encoder.partition(":")[2]
    there = weights in ("", "random") or is_address(weights) or Path(weights).exists()
    require(there, "eval.encoder", encoder, "there are no such weights; give a folder or hf://OWNER/REPO")


def check_encoders(config: Config) -> None:
    """Checks that folders of encoders are there; where an experiment of the package makes one, says how.

    Raises:
        ConfigError: one is not.
    """
    for name in config.features.encoders:
        weights = config.features.options.get(name, {}).get("weights")
        if not isinstance(weights, str) or "://" in weights or Path(weights).expanduser().exists():
            continue
        workdir, _, last = weights.rpartition("/")
        made = [one.example for one in experiments() if one.command == "pretrain" and last == ENCODER_FOLDER]
        command = next((line for line in made if line.endswith(f"--workdir={workdir}")), None)
        remedy = f"make it: {command}" if command else "`drifting pretrain` makes one"
        where = "" if Path(weights).is_absolute() else f" below {Path.cwd()}"
        raise ConfigError(f"features.options.{name}.weights={weights!r}: there is no such folder{where}; {remedy}")


def define_import(values: flags.FlagValues) -> None:
    """Declares `--import`, for a command that opens a run whose settings may name a kernel or network of one's own."""
    entries = "files that enter kernels or networks of your own, as a run's file of settings did"
    flags.DEFINE_list("import", [], entries, flag_values=values)


def import_entries(values: flags.FlagValues) -> None:
    """Runs what `--import` names, which enters kernels, networks, encoders or sources in the registries.

    Raises:
        ConfigError: there is no such file, or it fails.
    """
    names: list[str] = values["import"].value or [] if "import" in values else []
    for name in names:
        with loaded_file(name, "import"):
            pass


def guidance_scale(text: str) -> float:
    """The guidance scale that one of several behind `--alpha` means. Raises `ConfigError` for none."""
    return _guidance_scale(text, number_of("alpha", text, "1.0,1.5"))


def _guidance_scale(text: str, number: float) -> float:
    if not 0 < number < math.inf:
        raise ConfigError(f"--alpha={text}: use a positive guidance scale")
    return number


class _GuidanceScale(flags.FloatParser):
    """Reads one guidance scale."""

    def parse(self, argument: Any) -> float:
        try:
            return _guidance_scale(argument, real_number(argument))
        except OverflowError as error:
            raise ConfigError(f"--alpha={argument}: {error}") from error


def define_alpha(values: flags.FlagValues, meaning: str) -> None:
    """Declares `--alpha`, one guidance scale."""
    flags.DEFINE(_GuidanceScale(), "alpha", None, meaning, flag_values=values, serializer=flags.ArgumentSerializer())


def workdir_of(values: flags.FlagValues, what: str = "the run's folder") -> Path:
    """The folder that `--workdir` gives. Raises `ConfigError` where it gives none, or a file."""
    if not values.workdir:
        raise ConfigError(f"--workdir: give {what}")
    workdir = place_of(values, "workdir")
    if not is_stored(workdir) and os.path.exists(workdir) and not workdir.is_dir():
        raise ConfigError(f"--workdir={values.workdir}: is a file; give a folder")
    return workdir


def workdir_to_write(values: flags.FlagValues) -> Path:
    """The folder that `--workdir` gives, which is there or can be made, as is tried before JAX is imported.

    Raises:
        ConfigError: none is given, or what is not there cannot be made.
        MachineError: there is no room.
    """
    workdir = workdir_of(values)
    if not is_stored(workdir) and not os.path.exists(workdir):
        there = next(path for path in workdir.absolute().parents if os.path.exists(path))
        if not there.is_dir():
            raise ConfigError(f"--workdir={values.workdir}: cannot be written, {there} is a file; give another folder")
        try_to_write(f"--workdir={values.workdir}", there)
    return workdir


def run_of(values: flags.FlagValues) -> Path:
    """The folder that `--workdir` gives, which holds a run of `drifting train`.

    Raises:
        ConfigError: it holds none. That is found before JAX is imported.
    """
    workdir = workdir_of(values)
    read_config(workdir)
    return workdir


def number_of(flag: str, text: str, example: str, before: str = "") -> float:
    """The number that one of a flag's values means, after the word `before`; `example` shows right ones.

    Raises:
        ConfigError: it means none.
    """
    if not text and not before:
        raise ConfigError(f"--{flag}: nothing between two commas; give numbers such as {example}")
    try:
        return real_number(text)
    except OverflowError as error:
        raise ConfigError(f"--{flag}={before}{text}: {error}") from error
    except ValueError as error:
        wanted = f"expected numbers with commas between them, e.g. {example}"
        raise ConfigError(f"--{flag}={before}{text}: {wanted}") from error


def place_of(values: flags.FlagValues, flag: str) -> Path:
    """The path, or the address of an object store, that a flag gives."""
    try:
        return place(str(values[flag].value))
    except InputError as error:
        raise ConfigError(f"--{flag}={error}") from error


def out_of(values: flags.FlagValues, what: str = "folder") -> Path:
    """The path that `--out` gives."""
    if not values.out:
        raise ConfigError(f"--out: give the {what} to write")
    return place_of(values, "out")


def define_share(values: flags.FlagValues, what: str) -> None:
    """Declares the flags of which `share_of` is made."""
    process = f"which of several processes that {what}; default SLURM's, or 0"
    flags.DEFINE_integer("process_index", None, process, lower_bound=0, flag_values=values)
    count = "how many there are; default SLURM's, or 1"
    flags.DEFINE_integer("process_count", None, count, lower_bound=1, flag_values=values)


def share_of(values: flags.FlagValues) -> tuple[int, int]:
    """Index and count of the processes that share a command's work."""
    # They are those of a step of SLURM's; a batch script's own environment names tasks that do not run.
    index, count = (os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    if values.process_index is None and values.process_count is None and index and count:
        return int(index), int(count)
    if values.process_index is None and (values.process_count or 1) > 1:
        raise ConfigError(f"--process_count={values.process_count}: say which of them this one is, --process_index=I")
    return values.process_index or 0, values.process_count or 1
