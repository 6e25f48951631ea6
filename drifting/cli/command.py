"""What a command of the command line consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from absl import flags

from drifting.config.schema import Settings


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: a line for the overview.
        define: declares its flags.
        run: does it, and returns the exit code.
        settings: the configuration that `--config` gives, for a command that takes one.
        usage: the flags that have to be given, where they are not `--workdir`.
        without_config: a flag with which `--config` is left out.
        has_defaults: `--config` may be left out, all settings having a default.
        settings_of: the command whose configuration that is, where it is not its own.
        takes: flags that are given by their values alone, in this order.
        any_training: takes the settings of `drifting pretrain` as well.
        flag_of: arguments of library functions, and the flags that give them, where their names differ.
    """

    summary: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], int]
    settings: type[Settings] | None = None
    usage: str = ""
    without_config: str | None = None
    has_defaults: bool = False
    settings_of: str | None = None
    takes: tuple[str, ...] = ()
    any_training: bool = False
    flag_of: Mapping[str, str] = field(default_factory=dict)
