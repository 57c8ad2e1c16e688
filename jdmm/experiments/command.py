"""Runs a program: a user's mistake ends it with one line, a bug with a traceback."""

import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from jdmm import compiling
from jdmm.errors import DivergenceError, InputError, Interrupted, PeerLost
from jdmm.training import parallel

_THREADS: Any = flags.DEFINE_integer(
    "threads", 1, "Threads of XLA on the CPU; 0 for one per core.", lower_bound=0
)

MISTAKE, FAILURE, TERMINATED = 2, 1, 143
"""Exit statuses: bad input; diverged training, a lost process or a bug; SIGTERM (128 + 15)."""


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, calls `main` with the remaining arguments, and exits."""
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        _exit(error, MISTAKE)
    except (DivergenceError, PeerLost) as error:
        _exit(error, FAILURE)
    except Interrupted as error:
        _print(error)
        sys.exit(TERMINATED)
    except Exception:
        traceback.print_exc()
        parallel.exit_process(FAILURE)


def _parse(arguments: list[str]) -> list[str]:
    """The arguments that are not flags."""
    try:
        rest = flags.FLAGS(arguments)
        for flag in flags.FLAGS.flags_by_module_dict().get(arguments[0], []):
            hasattr(flag.value, "to_dict")  # raises where the configuration file failed to load
    except Exception as error:  # a configuration file is a program and can raise any exception
        text = error.args[0] if isinstance(error, KeyError) else error  # str() adds quotes
        lines = (str(text) or type(error).__name__).splitlines()
        cause = lines[-1:] if any("Traceback" in line for line in lines) else lines
        raise InputError(f"bad option or configuration: {' '.join(cause)}") from error
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries log much at level INFO
    compiling.limit_threads(_THREADS.value)
    return rest


def _exit(error: Exception, status: int) -> None:
    _print(error)
    parallel.exit_process(status)


def _print(error: Exception) -> None:
    print(f"{sys.argv[0]}: {' '.join(str(error).split())}", file=sys.stderr)
