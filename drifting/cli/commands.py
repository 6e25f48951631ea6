"""Finds the command, runs it, and turns what goes wrong into one line and an exit code."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence

from absl import flags
from absl import logging as absl_logging

import drifting
from drifting.cli.command import Command
from drifting.cli.compiled import keep_compiled
from drifting.cli.data import COMMANDS as DATA
from drifting.cli.experiments import COMMANDS as EXPERIMENTS
from drifting.cli.flag_paths import check_out, expanded_arguments, refuse_addresses, refuse_impossible_paths
from drifting.cli.help import command_help, overview
from drifting.cli.huge_pages import begin_with_huge_pages
from drifting.cli.images import COMMANDS as IMAGES
from drifting.cli.lookup import COMMANDS as LOOKUP
from drifting.cli.messages import fail, failure_of_the_machine
from drifting.cli.overrides import take_config
from drifting.cli.settings import given_settings, parse_flags
from drifting.cli.shared import check_named_encoder, import_entries
from drifting.cli.streams import (
    CLOSED_PIPE,
    OutputError,
    silence_the_compiler,
    silence_what_the_command_tells,
    standard_streams,
)
from drifting.cli.training import COMMANDS as TRAINING
from drifting.cli.weights import COMMANDS as WEIGHTS
from drifting.config.schema import Settings
from drifting.data.library_warnings import pillow_warnings_in_one_line
from drifting.devices.xla_flags import give_xla_flags, require_xla_flags
from drifting.errors import ArgumentError, ConfigError, DriftingError, InputError, one_line

logger = logging.getLogger("drifting")

COMMANDS = LOOKUP | DATA | TRAINING | IMAGES | EXPERIMENTS | WEIGHTS

COMMAND_SECTIONS = ("train", "cache")
"""Commands that a section of settings has its name of."""

WRONG_INPUT = (ConfigError, InputError, flags.Error)
"""Errors after which the exit code is 2, because the command cannot work as it was given."""

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def program() -> int:
    """What `drifting` and `python -m drifting.cli` run: `main`, and what a command that computes is better off with."""
    if _computes(sys.argv[1:]):
        give_xla_flags()
        begin_with_huge_pages()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those after the program's name. Returns the exit code."""
    if arguments is None:  # in a process of its own
        silence_what_the_command_tells()
        silence_the_compiler()
    try:
        with standard_streams():
            try:
                arguments = expanded_arguments(sys.argv[1:] if arguments is None else arguments)
            except ConfigError as error:
                return fail(one_line(error))
            return _run(arguments)
    except OutputError as error:
        return CLOSED_PIPE if error.reader_is_gone else fail(str(error), code=1)


def _computes(arguments: list[str]) -> bool:
    """Whether the command, as far as its first word says, is one that looks for devices."""
    if not arguments or {"-h", "--help"} & set(arguments):
        return False
    return any(name.split()[0] == arguments[0] and entry.needs_devices for name, entry in COMMANDS.items())


def _run(arguments: list[str]) -> int:
    if not arguments:
        print(overview(COMMANDS), file=sys.stderr)
        return 2
    if arguments[0] == "--version":
        print(f"drifting {drifting.__version__}")
        return 0
    topic = " ".join(arguments[1:])
    if arguments[0] == "help" and topic in COMMANDS and (topic in COMMAND_SECTIONS or topic.startswith("study ")):
        print(command_help(topic, COMMANDS[topic]), end="\n\n")  # and then what its section means
        arguments = ["help", topic]
    else:
        arguments = _asked(arguments)
    name, *rest = _join_name(arguments)
    group = {command: entry for command, entry in COMMANDS.items() if command.startswith(f"{name} ")}
    asked = bool({"-h", "--help"} & set(rest))
    if name in ("-h", "--help"):
        print(overview(COMMANDS))
        return 0
    if group and (asked or not rest):  # `study` or `hub` alone
        print(overview(group, f"{name} NAME"), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    if name not in COMMANDS:
        return fail(f"{name}: there is no such command; {_nearest(name, rest)}`drifting --help` lists all")
    _configure_logging()
    keep_compiled()
    try:
        if asked:
            print(command_help(name, COMMANDS[name], _settings_asked_for(name, rest)))
            return 0
        values = parse_flags(name, COMMANDS[name], rest)
        refuse_addresses(values)
        refuse_impossible_paths(values)
        check_out(values, COMMANDS[name].out)
        if not COMMANDS[name].needs_devices:
            os.environ["JAX_PLATFORMS"] = "cpu"  # whatever it says: JAX, which reads it, has not been imported yet
        require_xla_flags()
        import_entries(values)
        check_named_encoder(values)
        with pillow_warnings_in_one_line():
            return COMMANDS[name].run(values)
    except OutputError:
        raise
    except ArgumentError as error:
        return fail(one_line(_of_flag(error, COMMANDS[name])))
    except (DriftingError, flags.Error) as error:
        return fail(
            one_line(error) + _how_to_import(error, COMMANDS[name]), code=2 if isinstance(error, WRONG_INPUT) else 1
        )
    except KeyboardInterrupt as interrupt:
        return fail(": ".join(filter(None, (f"{name}: interrupted", str(interrupt)))), code=INTERRUPTED)
    except Exception as error:
        if (message := failure_of_the_machine(error)) is not None:
            return fail(message, code=1)
        error.add_note(f"drifting {name}: this is a bug of drifting, not of its input; please report the lines above")
        raise


def _asked(arguments: Sequence[str]) -> list[str]:
    """`help`, `help COMMAND` and `COMMAND --help` as the last of them; `help SETTING` is a command of its own."""
    name, *rest = arguments
    if name != "help" or {"-h", "--help"} & set(rest):
        return list(arguments)
    topic = " ".join(rest)
    command = topic in COMMANDS or any(known.startswith(f"{rest[0]} ") for known in COMMANDS if rest)
    return [*rest, "--help"] if not topic or command else list(arguments)


def _settings_asked_for(name: str, arguments: Sequence[str]) -> Settings | None:
    """The settings whose help is asked for: those of `--config`, with what changes them; None without it."""
    command = COMMANDS[name]
    arguments = [argument for argument in arguments if argument not in ("-h", "--help")]
    by_name = command.any_settings and bool(arguments) and not arguments[0].startswith("-")
    if command.settings is None or not (by_name or take_config(arguments)[0]):
        return None
    found: Settings = given_settings(parse_flags(name, command, arguments))
    return found


def _nearest(name: str, rest: Sequence[str]) -> str:
    if difflib.get_close_matches(name.lstrip("-"), ["version"]):
        return "did you mean drifting --version? "
    close = difflib.get_close_matches(name, COMMANDS, n=1) or [c for c in COMMANDS if c.startswith(f"{name} ")]
    return f"did you mean {close[0]}? " if close else ""


def _join_name(arguments: Sequence[str]) -> list[str]:
    """The arguments with a name of two words, such as `hub push` or a misspelt `study crul`, as one."""
    two_words = {name.split()[0] for name in COMMANDS if " " in name}
    joined = arguments[0] in two_words and len(arguments) > 1 and not arguments[1].startswith("-")
    return [" ".join(arguments[:2]), *arguments[2:]] if joined else list(arguments)


def _of_flag(error: ArgumentError, command: Command) -> ArgumentError:
    """The error in the name of the command's flag that gave the argument, if there is one."""
    flag, values = command.flag_of.get(error.argument, error.argument), flags.FlagValues()
    command.define(values)
    return ArgumentError(f"--{flag}", error.value, error.remedy) if flag in values else error


def _how_to_import(error: Exception, command: Command) -> str:
    """What to do about an entry of a registry that a run names and that its own file of settings had made."""
    values = flags.FlagValues()
    command.define(values)
    named = re.match(r"(loss|model|features|data)\.\S+: use one of ", str(error))
    return "; --import=FILE runs the file that enters it" if named and "import" in values else ""


def _configure_logging() -> None:
    """Our messages to standard error, a line each; the libraries' only when they warn."""
    logger.handlers = [_StandardError()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    if not any(isinstance(handler, _Libraries) for handler in logging.getLogger().handlers):
        logging.getLogger().addHandler(_Libraries())
    # It warns of loops that end while something is still written, as on a full disk; that becomes a message of ours.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # It reports its retries without a network in twenty lines; what comes of them is a message of ours.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


class _Libraries(logging.Handler):
    """A line for what a library warns of. What it tells with a traceback it raises as well, mostly in other threads."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not record.exc_info and record.name != logger.name:
            print(f"warning: {record.name}: {one_line(record.getMessage())}", file=sys.stderr)


class _StandardError(logging.Handler):
    """A line for each message, however long; above the progress bar, which takes the place of `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "drifting: error: " if record.levelno >= logging.ERROR else "warning: "
        print(f"{level if record.levelno >= logging.WARNING else ''}{record.getMessage()}", file=sys.stderr)
