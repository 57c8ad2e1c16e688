"""The persistent compilation cache, and counts of compilations."""

import collections
import functools
import os
import re
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import threadpoolctl

DEVICE_AXIS = "devices"
"""Name of the mapped axis of devices that share a batch, over which they sum."""

MIN_COMPILE_SECONDS = 0.2
"""Programs that compile faster are not cached, because reading them back takes as long."""

T = TypeVar("T")

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's name of the event."""


def cache_dir() -> Path:
    """The user's cache directory of jdmm: $XDG_CACHE_HOME/jdmm, or ~/.cache/jdmm if that is unset.

    It holds compiled programs and prepared data sets, and can be deleted at any time.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jdmm"


def enable_compilation_cache(directory: str | None = None) -> None:
    """Keeps compiled programs on disk, so that later processes load them instead of compiling.

    Call it once, before anything is compiled::

        jdmm.enable_compilation_cache()

    It applies to everything that the process compiles with JAX. A program is loaded if its code,
    shapes, devices and versions are the same; values such as seeds make no difference. Programs
    that compile in less than `MIN_COMPILE_SECONDS` are not kept.

    `main.py` and `jdmm.experiments.study` call this function with their flag
    `--compilation_cache`. The library does not call it on its own.

    Environment variables: XDG_CACHE_HOME moves the default directory. JAX_COMPILATION_CACHE_DIR
    sets JAX's own directory and wins over the default, but not over `directory`.
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off altogether.

    Args:
        directory: where the programs are kept. None means JAX's directory if one is configured,
            otherwise ``compiled`` in `cache_dir`. "" turns the cache off.
    """
    if directory is None:
        if getattr(jax.config, "jax_compilation_cache_dir", None):
            return
        directory = str(cache_dir() / "compiled")
    jax.config.update("jax_compilation_cache_dir", directory or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def limit_threads(count: int) -> None:
    """Limits the threads that XLA and BLAS compute with on the CPU; call it before both do.

    The steps of a recursion are small: handing their parts to several threads costs more time than
    it saves. For XLA the variable NPROC of the environment wins, and virtual CPU devices are left
    alone, because they need a thread each.

    Args:
        count: number of threads; 0 leaves it to XLA and BLAS, which take one per core.
    """
    if not count:
        return
    threadpoolctl.threadpool_limits(count, "blas")
    virtual = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not virtual:
        os.environ.setdefault("NPROC", str(count))


@functools.cache
def _counts() -> collections.Counter[str]:
    """Function name -> number of compilations, or loads from the cache, since the first call."""
    counts: collections.Counter[str] = collections.Counter()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == _COMPILED:
            counts[re.sub(r"^\w+\((.*)\)$", r"\1", str(kwargs.get("fun_name")))] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return counts


class Compilations:
    """Counts compilations by function name, from its construction on."""

    def __init__(self) -> None:
        """Starts counting."""
        self._before = _counts().copy()

    def of(self, *names: str) -> dict[str, int]:
        """Function name -> number of compilations since construction."""
        return {name: _counts()[name] - self._before[name] for name in names}


class Static(Generic[T]):
    """A static argument of compiled functions: programs are kept for each different value.

    Values are compared by equality. A value without a hash, such as a model whose encoder has a
    list as a field, is compared by identity.
    """

    def __init__(self, value: T) -> None:
        """Finds out whether the value has a hash."""
        self.value = value
        try:
            self._hash = hash(value)
            self._hashable = True
        except TypeError:
            self._hash = id(value)
            self._hashable = False

    def __hash__(self) -> int:
        """That of the value, or of its identity."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Whether the values are equal, or the same object."""
        if not isinstance(other, Static):
            return NotImplemented
        if self.value is other.value:
            return True
        return self._hashable and other._hashable and self.value == other.value
