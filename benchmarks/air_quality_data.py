"""What `air_quality.py` and `air_quality_pypots.py` share: a file of windows and masks, and scores.

numpy is all that it needs, since the two programs run in environments of their own.
"""

import resource
from pathlib import Path
from typing import NamedTuple

import numpy as np

PARTS = ("train", "validation", "test")


class Part(NamedTuple):
    """The windows of one part of the data.

    values: ``(window, hour, column)`` float32, standardised, NaN where missing.
    hidden: the same shape, true where a known value is held out.
    """

    values: np.ndarray
    hidden: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """The values with NaN where they are held out."""
        return np.where(self.hidden, np.float32(np.nan), self.values)

    def take(self, rows: np.ndarray | slice) -> "Part":
        """Some of the windows."""
        return Part(self.values[rows], self.hidden[rows])


def write(path: Path, parts: dict[str, Part]) -> None:
    """Writes the parts of `PARTS` to an .npz file."""
    fields = {
        f"{name}_{field}": array
        for name, part in parts.items()
        for field, array in part._asdict().items()
    }
    np.savez_compressed(path, **fields)


def read(path: Path) -> dict[str, Part]:
    """Reads what `write` wrote."""
    with np.load(path) as file:
        return {name: Part(*(file[f"{name}_{field}"] for field in Part._fields)) for name in PARTS}


def spread_scores(samples: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CRPS of each value, and whether its 95 % interval holds it, as `jdmm` computes them.

    CRPS = E|x - value| - E|x - x'| / 2, unbiased. The i-th of n sorted samples is the quantile of
    level i / (n + 1).

    Args:
        samples: ``(sample, value)``.
        value: ``(value,)``.
    """
    samples = np.sort(samples, 0)
    count = len(samples)
    rank = 2 * np.arange(count)[:, None] - count + 1
    crps = np.mean(np.abs(samples - value), 0) - np.sum(rank * samples, 0) / (count * (count - 1))
    lower, upper = np.quantile(samples, (0.025, 0.975), axis=0, method="weibull")
    return crps, (lower <= value) & (value <= upper)


def named(method: str, every: int) -> str:
    """The name of a method that is scored on each n-th test window."""
    return method if every == 1 else f"{method}, one window of {every}"


def print_scores(
    method: str,
    error: np.ndarray,
    crps: np.ndarray | None,
    covered: np.ndarray | None,
    training: float,
    inference: float,
    mean_error: np.ndarray | None = None,
) -> None:
    """Prints the scores of the held-out values and the costs.

    Args:
        method: its name.
        error: ``(value,)`` of the point predictions.
        crps: ``(value,)`` continuous ranked probability scores; None without a distribution.
        covered: ``(value,)`` bool, whether the 95 % interval holds the value; None without one.
        training: seconds of CPU time.
        inference: seconds of CPU time.
        mean_error: as `error`, of the predictive means, if they are not the point predictions.
    """
    mse = np.mean(error**2)
    scores = [
        f"MAE {np.mean(np.abs(error)):.4f}",
        f"RMSE {np.sqrt(mse):.4f}",
        f"MSE {mse:.4f}",
        *([] if mean_error is None else [f"MSE of the mean {np.mean(mean_error**2):.4f}"]),
        f"CRPS {'none' if crps is None else f'{np.mean(crps):.4f}'}",
        f"95 % intervals cover {'none' if covered is None else f'{np.mean(covered):.3f}'}",
        f"training {training:.0f} s",
        f"inference {inference:.1f} s",
        f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB",
    ]
    print(f"{method}: {', '.join(scores)}")
