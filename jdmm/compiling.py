"""Compiled programs: kept from run to run in the user's cache directory, and counted."""

import collections
import functools
import os
import re
from pathlib import Path
from typing import Any

import jax

LEAST_SECONDS = 0.2
"""Programs that compile faster are not kept: reading them back would take as long."""

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""What jax calls the event."""


def cache_dir() -> Path:
    """Ours in the user's: $XDG_CACHE_HOME/jdmm, or else ~/.cache/jdmm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jdmm"


def keep_compiled(directory: str | None = None) -> None:
    """Compiled programs are kept in `directory`, and found there by the next run that needs them.

    None stands for "compiled" in the cache directory, "" for not keeping any. A directory that
    jax was given already (JAX_COMPILATION_CACHE_DIR) stays.
    """
    if directory is None:
        if getattr(jax.config, "jax_compilation_cache_dir", None):
            return
        directory = str(cache_dir() / "compiled")
    jax.config.update("jax_compilation_cache_dir", directory or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


@functools.cache
def _counts() -> collections.Counter[str]:
    """Name of a function -> how often it was compiled, or read back, since the first call."""
    counts: collections.Counter[str] = collections.Counter()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == _COMPILED:
            counts[re.sub(r"^\w+\((.*)\)$", r"\1", str(kwargs.get("fun_name")))] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return counts


class Compilations:
    """Counts how often functions are compiled from now on."""

    def __init__(self) -> None:
        """Starts counting."""
        self._before = _counts().copy()

    def of(self, *names: str) -> dict[str, int]:
        """Name of a function -> how often it was compiled."""
        return {name: _counts()[name] - self._before[name] for name in names}
