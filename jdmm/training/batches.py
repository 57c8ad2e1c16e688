"""The batches of the train step: from series that stay on the devices, or streamed from a source.

Which series make up a batch follows from the step (`Schedule.rows`). A stream therefore has no
state: it begins at any step.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jdmm.data.streaming import SeriesSource
from jdmm.errors import InputError
from jdmm.models.base import GradientModel
from jdmm.series import Series
from jdmm.training.parallel import Devices

Feed = Callable[[np.ndarray], Iterator[tuple[Series, Any]]]
"""Rows ``(step, seed, batch)`` of all training series -> series and rows of each step, placed."""

READ_AHEAD = 4
"""Batches that are read in advance, each by a thread of its own."""


def keep(series: Series, devices: Devices) -> Feed:
    """Keeps all series on the devices: each step gets all of them, and the rows of its batch."""
    on_devices = devices.replicate(series)

    def feed(rows: np.ndarray) -> Iterator[tuple[Series, Any]]:
        for batch in rows:
            yield on_devices, devices.shard(batch)

    return feed


def stream(model: GradientModel, series: Series | SeriesSource, devices: Devices) -> Feed:
    """Reads the series of each batch in the background, and gives each step those alone.

    A process reads only the series of its own devices. With several seeds it reads a batch of
    each, because each has an order of its own.

    Args:
        model: is trained.
        series: all training series.
        devices: the devices that share each batch.

    Returns:
        A feed that raises an `InputError` for series that the model cannot take, or that have other
        shapes or types than the first one.
    """
    example = series.take(np.arange(1))

    def read(rows: np.ndarray) -> tuple[Series, np.ndarray]:
        *axis, seeds, size = rows.shape  # an axis of devices, where there are several
        flat = rows.ravel()  # for -1 the last series is read, which the step takes in memory too
        batch = series.take(flat)
        _check(model, batch, flat, example)
        places = np.arange(seeds * size, dtype=np.int32).reshape(seeds, size)
        return (
            jax.tree.map(lambda x: np.asarray(x).reshape(*axis, -1, *x.shape[1:]), batch),
            np.where(rows >= 0, places, np.int32(-1)),
        )

    def feed(rows: np.ndarray) -> Iterator[tuple[Series, Any]]:
        import grain  # takes a second, which only a stream needs

        options = grain.ReadOptions(num_threads=READ_AHEAD, prefetch_buffer_size=READ_AHEAD)
        steps = grain.MapDataset.range(len(rows)).map(lambda step: read(devices.parts(rows[step])))
        with contextlib.closing(iter(steps.to_iter_dataset(options))) as batches:
            for batch in batches:
                yield devices.place(batch)

    return feed


def _check(model: GradientModel, batch: Series, rows: np.ndarray, example: Series) -> None:
    """Checks the series that were read.

    Raises:
        InputError: naming the series.
    """
    found, expected = (jax.tree.map(_form, tree) for tree in (batch, example))
    if found != expected or batch.batch != len(rows):
        raise InputError(
            f"expected {len(rows)} series of the form of the first one, {expected.values}, got "
            f"{batch.batch} of {found.values}: pad all to the same number of steps"
        )
    try:
        model.check(batch)
    except InputError:
        for place, row in enumerate(rows):
            try:
                model.check(batch.take(np.array([place])))
            except InputError as error:
                raise InputError(f"training series {row}: {error}") from error
        raise


def _form(leaf: Any) -> str:
    """The type of an array and its shape without the batch."""
    return f"{leaf.dtype}{list(leaf.shape[1:])}"
