"""Metrics of a run, as JSON lines and for TensorBoard; a resumed run continues its log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from jdmm.files import write_text

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends one record per epoch to `metrics.jsonl` and to TensorBoard's events."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Opens the log of `workdir` and drops what was logged after `step`."""
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS
        kept = [record for record in read_metrics(workdir) if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        self._writer = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, Any]) -> None:
        """Adds the metrics of an epoch, which must have "epoch" and "step"."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if "/" in name:
                self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._writer.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of a work directory, without a last line that a kill has cut off."""
    path = workdir / METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def history(records: list[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metric -> epochs and values ``(n,)``, for the learning curves."""
    names = sorted({name for record in records for name in record if "/" in name})
    curves = {}
    for name in names:
        points = [(record["epoch"], record[name]) for record in records if name in record]
        epochs, values = zip(*points, strict=True)
        curves[name] = (np.array(epochs), np.array(values))
    return curves
