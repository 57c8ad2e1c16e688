"""Running a program so that a user's mistake costs them one line and not a traceback."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from jdmm.errors import DivergenceError, InputError, Interrupted

MISTAKE, FAILURE, TERMINATED = 2, 1, 143
"""Exit statuses: bad input; training diverged; stopped by SIGTERM (128 + 15)."""


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, calls `main` with the remaining arguments, and exits."""
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        _exit(error, MISTAKE)
    except DivergenceError as error:
        _exit(error, FAILURE)
    except Interrupted as error:
        _exit(error, TERMINATED)


def _parse(arguments: list[str]) -> list[str]:
    """The arguments that are no flags."""
    try:
        rest = flags.FLAGS(arguments)
    except Exception as error:  # a configuration file is a program: it can raise anything
        raise InputError(f"bad option or configuration: {error or type(error).__name__}") from error
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell much at level INFO
    return rest


def _exit(error: Exception, status: int) -> None:
    print(f"{sys.argv[0]}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(status)
