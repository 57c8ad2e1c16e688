"""Exceptions raised by jdmm."""

import textwrap


class InputError(ValueError):
    """Invalid input from the user.

    The message is one line: what was expected, what was given, and what to do. `main.py` prints
    the message without a traceback and exits with status 2.
    """


class UnsuitableDataError(InputError):
    """A model cannot take these data; another one may."""


class DivergenceError(RuntimeError):
    """Training produced a value that is not finite. The message names the quantity and the step."""


class Interrupted(RuntimeError):
    """Training was stopped by SIGTERM after its state was saved. The same command resumes it."""


class PeerLost(RuntimeError):
    """Another process of a distributed job ended, and this one cannot continue without it."""


def one_line(error: Exception) -> str:
    """Another library's error in one short line, for the message of an `InputError`."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 120)
