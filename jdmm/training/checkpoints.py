"""Checkpoints with everything that a resume needs, written whole or not at all (Orbax).

They hold plain arrays, so that what n devices wrote m can read; in a job of several processes the
first one writes and reads them alone.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdmm.errors import InputError
from jdmm.training.progress import Progress

KEPT = 2
"""Checkpoints kept: should the latest turn out damaged, the one before is still there."""


class Checkpoints:
    """The checkpoints of one run, by train step."""

    def __init__(self, directory: Path) -> None:
        """Opens `directory`, and makes it when first saved to."""
        self.directory = directory
        self._manager: ocp.CheckpointManager | None = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.directory.absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=KEPT,
                    create=False,
                    enable_async_checkpointing=False,
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        primary_host=0, active_processes={0}
                    ),
                ),
            )
        return self._manager

    def save(self, progress: Progress) -> None:
        """Writes `progress` under its step, if that is not there already."""
        manager, step = self._open(), progress.steps
        if step in manager.all_steps():
            return
        arrays, figures = separate(progress)
        manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), figures=ocp.args.JsonSave(figures)
            ),
        )

    def restore(self, like: Progress) -> Progress | None:
        """The latest progress, or None where nothing was saved yet.

        Args:
            like: a fresh progress of the same model and settings, for the arrays' shapes.

        Raises:
            InputError: if the latest checkpoint cannot be read.
        """
        if not self.directory.is_dir():
            return None
        try:
            manager = self._open()
            step = manager.latest_step()
            if step is None:
                return None
            target = separate(like)[0]
            saved = manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(target), figures=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # damaged files make the readers raise all sorts of things
            raise InputError(
                f"expected a readable checkpoint in {self.directory}, got "
                f"{type(error).__name__} for the latest: delete its folder to resume from the one "
                "before, or the work directory to start anew"
            ) from error
        return Progress(**saved["arrays"], **saved["figures"])

    def close(self) -> None:
        """Waits for and releases what Orbax holds."""
        if self._manager is not None:
            self._manager.close()


def separate(progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """A progress as trees of numpy arrays and as plain figures, its two groups of arguments."""
    fields = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress)}
    arrays = {name: fields.pop(name) for name in ("state", "best", "runners")}
    return jax.tree.map(np.asarray, arrays), fields
