"""Series in batches of equal shape, for programs that are compiled once."""

from collections.abc import Iterator

import numpy as np

from jdmm.errors import InputError

BUCKETS = 4
"""Series of different lengths are in batches of at most so many numbers of steps."""


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of one size; the last batch is filled up with the last row.

    Raises:
        InputError: for a size below 1.
    """
    if size < 1:
        raise InputError(f"expected a batch size of at least 1, got {size}")
    size = min(size, count)
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def bucketed_batches(lengths: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Row numbers in batches of one size, and the number of time steps of each batch.

    Series of similar length share a batch, which ends at a multiple of a quarter of the longest
    series: padding costs little, and there are at most `BUCKETS` shapes to compile.

    Args:
        lengths: number of steps of each series, ``(batch,)``.
        size: series of a batch.

    Raises:
        InputError: for a size below 1.
    """
    longest = max(int(lengths.max(initial=1)), 1)
    edges = np.unique(-(-longest * np.arange(1, BUCKETS + 1) // BUCKETS))
    bucket = np.searchsorted(edges, lengths)
    for number, steps in enumerate(edges):
        if len(members := np.flatnonzero(bucket == number)):
            yield from ((members[rows], int(steps)) for rows in batches(len(members), size))
