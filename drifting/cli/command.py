"""What a command of the command line consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from absl import flags

from drifting.config.schema import Settings


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: what it does, in a line for the overview.
        define: the function that declares its flags.
        run: the function that does it and returns the exit code.
        settings: the kind of settings that `--config` gives, for a command that takes some.
        usage: the flags that have to be given, where they are not `--workdir`.
        without_config: the flag with which `--config` is left out.
        defaults_with: the flag with which `--config` may be left out, as all settings that are needed have a default.
        has_defaults: whether `--config` may be left out because all settings have a default.
        settings_of: the command whose settings it takes, where they are not its own.
        takes: the flags that are given by their values alone, in this order.
        any_training: whether it takes the settings of `drifting pretrain` as well.
        any_settings: whether it takes settings of every command, and the experiment by its name alone.
        flag_of: the flag that gives an argument of a library function, by the argument's name, where the two names
            differ. An `ArgumentError` is told in the name of the flag.
        out: what `--out` names, `file`, `page` (HTML) or `folder`; "": a file or a folder, by its ending.
        needs_devices: whether it computes; a command that does not looks for no device, and runs on any machine.
    """

    summary: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], int]
    settings: type[Settings] | None = None
    usage: str = ""
    without_config: str | None = None
    defaults_with: str | None = None
    has_defaults: bool = False
    settings_of: str | None = None
    takes: tuple[str, ...] = ()
    any_training: bool = False
    any_settings: bool = False
    flag_of: Mapping[str, str] = field(default_factory=dict)
    out: str = ""
    needs_devices: bool = True
