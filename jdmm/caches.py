"""What may be kept between runs, in the user's cache directory: data sets and compiled programs."""

import os
from pathlib import Path

import jax

LEAST_SECONDS = 0.2
"""Programs that compile faster are not kept: reading them back would take as long."""


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
