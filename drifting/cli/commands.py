"""Finds the command, runs it, and turns what goes wrong into one line and an exit code."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from drifting.cli.data import COMMANDS as DATA
from drifting.cli.experiments import COMMANDS as EXPERIMENTS
from drifting.cli.help import command_help, overview
from drifting.cli.images import COMMANDS as IMAGES
from drifting.cli.messages import close_to, fail, one_line
from drifting.cli.settings import parse_flags
from drifting.cli.training import COMMANDS as TRAINING
from drifting.cli.weights import COMMANDS as WEIGHTS
from drifting.errors import ConfigError

logger = logging.getLogger("drifting")

COMMANDS = DATA | TRAINING | IMAGES | EXPERIMENTS | WEIGHTS

PACKAGE = Path(__file__).resolve().parent.parent

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those after the program's name. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        print(overview(COMMANDS), file=sys.stderr)
        return 2
    name, *rest = _join_name(arguments)
    if name in ("-h", "--help", "help"):
        print(overview(COMMANDS))
        return 0
    group = {command: entry for command, entry in COMMANDS.items() if command.startswith(f"{name} ")}
    asked = bool({"-h", "--help"} & set(rest))
    if group and (asked or not rest):  # `study` or `hub` alone
        print(overview(group), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    if name not in COMMANDS:
        return fail(f"{name}: there is no such command; use one of {', '.join(COMMANDS)}{close_to(name, COMMANDS)}")
    if asked:
        print(command_help(name, COMMANDS[name]))
        return 0
    _configure_logging()
    try:
        return COMMANDS[name].run(parse_flags(name, COMMANDS[name], rest))
    except (ConfigError, flags.Error) as error:
        return fail(one_line(error))
    except (ValueError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not _raised_here(error):
            raise  # out of a library: a bug of ours, which its traceback helps to find
        return fail(one_line(error), code=2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt as interrupt:
        return fail(": ".join(filter(None, (f"{name}: interrupted", str(interrupt)))), code=INTERRUPTED)


def _join_name(arguments: Sequence[str]) -> list[str]:
    """The arguments with a name of two words, such as `hub push` or a misspelt `study crul`, as one."""
    joined = " ".join(arguments[:2])
    study = arguments[0] == "study" and len(arguments) > 1 and not arguments[1].startswith("-")
    return [joined, *arguments[2:]] if joined in COMMANDS or study else list(arguments)


def _raised_here(error: BaseException) -> bool:
    """Whether a line of this package raised the error, which then is a message to the person."""
    return PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve().parents


def _configure_logging() -> None:
    """Our messages to standard error, a line each; the libraries' only when they warn."""
    logger.handlers = [_StandardError()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    # Of loops that end while something is still written, as on a full disk; what comes of it is our own message.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # Its retries without a network, twenty lines of them; what comes of them is our own message.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


class _StandardError(logging.Handler):
    """A line for each message, however long; above the progress bar, which takes the place of `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "drifting: error: " if record.levelno >= logging.ERROR else "warning: "
        print(f"{level if record.levelno >= logging.WARNING else ''}{record.getMessage()}", file=sys.stderr)
