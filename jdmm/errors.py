"""The error that means: the user's input is at fault, not the program."""


class InputError(ValueError):
    """Bad input, told in one line: what was expected, what came, and what to do.

    `main.py` prints the message alone and exits with status 2.
    """


class DivergenceError(RuntimeError):
    """Training produced a value that is not finite; the message names the quantity and the step."""


class Interrupted(RuntimeError):
    """SIGTERM came; what was done is saved, and the same command goes on from there."""


class PeerLost(RuntimeError):
    """Another process of the job is gone, and this one cannot go on without it."""
