"""The command line: `drifting COMMAND --flags`.

Exit codes: 0 done (or stopped and saved as a machine asked), 1 something failed on the way, 2 the command or its
settings are wrong, 130 stopped by Ctrl-C. Whatever is wrong with the input is one line on standard error, written
before anything is compiled or created. Commands import what they need when they run: `drifting --help` and a misspelt
flag should not wait for JAX. To add one: an entry in the `COMMANDS` of a module here, see `command.Command`.
"""
