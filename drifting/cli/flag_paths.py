"""The paths that flags give: `~` expanded in all of them, and addresses refused where only a path can be served."""

from collections.abc import Sequence

from absl import flags

from drifting.config.paths import expanded, is_address
from drifting.errors import ConfigError

PATH_FLAGS = ("config", "workdir", "out", "images", "reference", "real_images", "labels", "run")
"""The flags that give a path of this machine. Of those that may name weights, their readers know what is served."""


def expanded_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with `~` expanded where a value begins, which shells do only for a word of its own."""
    return [expanded(argument) for argument in arguments]


def refuse_addresses(values: flags.FlagValues) -> None:
    """Refuses an address where a path is to be given, which would become a local folder of that name.

    Raises:
        ConfigError: a flag of `PATH_FLAGS` has one.
    """
    for flag in PATH_FLAGS:
        value = values[flag].value if flag in values else None
        if isinstance(value, str) and is_address(value):
            remedy = "is an address, and only paths are read and written: mount what it names, and give the path"
            raise ConfigError(f"--{flag}={value}: {remedy}")
