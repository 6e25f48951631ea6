"""`python -m drifting.cli`: the command line of the environment that runs it."""

import sys

from drifting.cli.commands import program

sys.exit(program())
