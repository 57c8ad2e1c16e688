"""Checkpoints of all that a resume needs, each written completely or not at all (Orbax).

They hold plain arrays, so that a run can resume on another number of devices. In a job of several
processes only the first one reads and writes them.
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
"""Number of checkpoints kept: if the latest is damaged, the one before remains."""


class Checkpoints:
    """The checkpoints of a run, by train step."""

    def __init__(self, directory: Path) -> None:
        """Opens `directory`; the first save creates it."""
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
        """Writes `progress` under its step, unless that step is saved already."""
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
        """The latest progress, or None if nothing was saved yet.

        Args:
            like: a fresh progress of the same model and settings, for the shapes of the arrays.

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
        except Exception as error:  # damaged files raise errors of many kinds
            raise InputError(
                f"expected a readable checkpoint in {self.directory}, got "
                f"{type(error).__name__} for the latest: delete its folder to resume from the one "
                "before, or delete the work directory to start again"
            ) from error
        return Progress(**saved["arrays"], **saved["figures"])

    def close(self) -> None:
        """Waits for Orbax, and releases its resources."""
        if self._manager is not None:
            self._manager.close()


def separate(progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a progress in two groups: trees of numpy arrays, and plain figures."""
    fields = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress)}
    arrays = {name: fields.pop(name) for name in ("state", "best", "candidates")}
    return jax.tree.map(np.asarray, arrays), fields
