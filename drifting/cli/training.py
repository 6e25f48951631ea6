"""`drifting pretrain`, `train`, `plan` and `replay`."""

import logging
from collections.abc import Callable

from absl import flags

from drifting.cli.command import Command
from drifting.cli.overrides import overrides_of
from drifting.cli.shared import check_without_jax, checked_settings, define_import, run_of, workdir_of, workdir_to_write
from drifting.config.schema import Config, PretrainConfig
from drifting.errors import ConfigError

logger = logging.getLogger("drifting")


def _define_training(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "where the run is written; a run that is there goes on", flag_values=values)
    _define_processes(values)
    stopped = "exit code when stopped and saved; default 130 after Ctrl-C, else 0"
    flags.DEFINE_integer("stopped_code", None, stopped, lower_bound=0, upper_bound=255, flag_values=values)


def _define_processes(values: flags.FlagValues) -> None:
    several = "HOST:PORT of the first process, or auto on TPU VMs; default the environment's"
    flags.DEFINE_string("coordinator", None, several, flag_values=values)
    flags.DEFINE_integer("process_index", None, "which of them this is", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("process_count", None, "how many there are", lower_bound=1, flag_values=values)
    gone = "seconds after which the end of one ends the others; default 100"
    flags.DEFINE_integer("peer_timeout", 100, gone, lower_bound=5, flag_values=values)


def _join_processes(values: flags.FlagValues) -> None:
    from drifting.devices.compilation import keep_if_shared
    from drifting.devices.processes import initialise, is_writer

    initialise(values.coordinator, values.process_count, values.process_index, values.peer_timeout)
    keep_if_shared()
    if not is_writer():
        logger.setLevel(logging.WARNING)


def _train(values: flags.FlagValues) -> int:
    workdir, config = workdir_to_write(values), checked_settings(values)
    from drifting.training.generator import train

    _join_processes(values)
    return _exit_code(values, lambda: train(config, workdir) >= config.train.steps)


def _pretrain(values: flags.FlagValues) -> int:
    workdir, config = workdir_to_write(values), checked_settings(values)
    from drifting.training.encoder import pretrain

    _join_processes(values)
    return _exit_code(values, lambda: pretrain(config, workdir) >= config.train.steps)


def _exit_code(values: flags.FlagValues, trains: Callable[[], bool]) -> int:
    """The exit code of a training, which says whether it came to its end.

    Ctrl-C passes on, so that a chain of commands ends, unless a launcher has chosen a code for what is to go on.
    """
    chosen = values.stopped_code
    try:
        return 0 if trains() else chosen or 0
    except KeyboardInterrupt as interrupt:
        if chosen is None or not interrupt.args:  # without a word: nothing was saved
            raise
        logger.info("stopped: %s", interrupt)
        return int(chosen)


def _define_plan(values: flags.FlagValues) -> None:
    flags.DEFINE_string("mesh", "data=1,fsdp=1", "its axes; default data=1,fsdp=1, one device", flag_values=values)
    flags.DEFINE_string("device", None, "kind of device, such as h100, rtx4090 or tpu-v6e", flag_values=values)
    sizes = "samples at a time, 0 all; default train.micro_batch if set, else what fits with room"
    flags.DEFINE_integer("micro_batch", None, sizes, lower_bound=0, flag_values=values)
    share = "share of the bf16 peak that training reaches; default 0.125, as published"
    flags.DEFINE_float("efficiency", 0.125, share, flag_values=values)
    real = "run the real compiler for the device, of all samples at a time by default; takes minutes"
    flags.DEFINE_boolean("compile", False, real, flag_values=values)
    flags.DEFINE_boolean("json", False, "with --compile: print one JSON object", flag_values=values)


def _plan(values: flags.FlagValues) -> int:
    config = values.config
    check_without_jax(config, overrides_of(values))
    if not values.device:
        raise ConfigError("--device: give the kind of device, such as h100, rtx4090 or tpu-v6e; --device=? lists all")
    from drifting.experiments.plan.plan import plan, plan_compiled

    if values.json and not values.compile:
        raise ConfigError("--json: give --compile as well, whose figures it prints")
    if values.compile:
        if values["efficiency"].present:
            raise ConfigError(f"--efficiency={values.efficiency:g}: with --compile there are no times, leave it out")
        asked = dict(mesh=values.mesh, device=values.device, micro_batch=values.micro_batch)
        return 0 if plan_compiled(config, **asked, as_json=values.json) else 1
    fits = plan(
        config, mesh=values.mesh, device=values.device, micro_batch=values.micro_batch, efficiency=values.efficiency
    )
    return 0 if fits else 1


def _define_replay(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`", flag_values=values)
    flags.DEFINE_integer("step", None, "the step, counted from 1", lower_bound=1, flag_values=values)
    define_import(values)
    _define_processes(values)


def _replay(values: flags.FlagValues) -> int:
    workdir = workdir_of(values)
    if values.step is None:
        raise ConfigError("--step: give the number of the step")
    run_of(values)
    from drifting.devices.processes import is_writer
    from drifting.experiments.replay import replay

    _join_processes(values)
    for line in replay(workdir, values.step):
        if is_writer():
            print(line, flush=True)
    return 0


COMMANDS = {
    "pretrain": Command("train a feature encoder (masked autoencoder)", _define_training, _pretrain, PretrainConfig),
    "train": Command("train a one-step generator", _define_training, _train, Config),
    "plan": Command(
        "say whether a training fits on devices, and what it takes",
        _define_plan,
        _plan,
        Config,
        usage="--config=FILE --device=KIND --mesh=data=N,fsdp=M",
        any_training=True,
        needs_devices=False,
    ),
    "replay": Command(
        "do a step of a run again and say what it consists of",
        _define_replay,
        _replay,
        usage="--workdir=DIR --step=N",
    ),
}
