"""Steps of a regular grid of time."""

import math
import re
from dataclasses import dataclass

import numpy as np

from jdmm.errors import InputError

MICROSECONDS = {
    "us": 1,
    "ms": 10**3,
    "s": 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
}
"""Unit -> its length; all units but months have one."""

MONTH = "mo"

Times = np.ndarray
"""``(row,)`` int64 microseconds since 1970 in UTC, or of naive stamps as if in UTC; float64
numbers where times are numbers."""


@dataclass(frozen=True)
class Step:
    """So many units of time.

    Attributes:
        count: number of units, positive; whole for months.
        unit: "us", "ms", "s", "min", "h", "d", "mo" (calendar months), or "" for plain numbers.
    """

    count: float
    unit: str = ""

    @classmethod
    def parse(cls, step: str | float) -> "Step":
        """A step from "15min", "1h", "1mo" or a number.

        Raises:
            InputError: for something else.
        """
        if not isinstance(step, str):
            if not (math.isfinite(step) and step > 0):
                raise InputError(f"expected a positive step, got {step!r}")
            return cls(step)
        found = re.fullmatch(r"(\d+)\s*([a-z]+)", step.strip())
        if not found or found[2] not in (*MICROSECONDS, MONTH) or int(found[1]) < 1:
            raise InputError(
                f"expected a step such as '15min', '1h', '1d' or '1mo' (us, ms, s, min, h, d, mo), "
                f"or a number, got {step!r}"
            )
        return cls(int(found[1]), found[2])

    @classmethod
    def of_times(cls, differences: Times) -> "Step":
        """The commonest of positive differences between stamps.

        Different ones of 28 to 31 days are a step of a month.
        """
        values, counts = np.unique(differences, return_counts=True)
        commonest = values[counts.argmax()]
        if values.dtype.kind == "f":
            return cls(int(commonest) if commonest == int(commonest) else float(commonest))
        months = np.isin(values, [days * MICROSECONDS["d"] for days in (28, 29, 30, 31)])
        if months.sum() > 1 and counts[months].sum() > 0.5 * counts.sum():
            return cls(1, MONTH)
        for unit, length in reversed(MICROSECONDS.items()):
            if commonest % length == 0:
                return cls(int(commonest // length), unit)
        raise AssertionError("every whole number is a multiple of 1 us")

    @property
    def text(self) -> str | float:
        """As `parse` takes it."""
        return f"{self.count}{self.unit}" if self.unit else self.count

    @property
    def length(self) -> float:
        """In microseconds, or the number itself; not of months."""
        return self.count * MICROSECONDS.get(self.unit, 1)

    def phase(self, times: Times) -> float:
        """The commonest place of stamps between two multiples of the step."""
        if self.unit == MONTH:
            return 0
        if times.dtype.kind == "f":
            return float(times.min())
        places, counts = np.unique(times % int(self.length), return_counts=True)
        return int(places[counts.argmax()])

    def cells(self, times: Times, phase: float) -> np.ndarray:
        """The number of the nearest point of the grid; of months, that of the month. int64."""
        if self.unit == MONTH:
            months = times.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
            return months // int(self.count)
        if times.dtype.kind == "f":
            return np.rint((times - phase) / self.length).astype(np.int64)
        length = int(self.length)
        return (times - int(phase) + length // 2) // length

    def times(self, cells: np.ndarray, phase: float) -> Times:
        """The stamps of the points of the grid; of months, their first day."""
        if self.unit == MONTH:
            months = (cells * int(self.count)).astype("datetime64[M]")
            return months.astype("datetime64[us]").astype(np.int64)
        if self.unit:
            return cells * int(self.length) + int(phase)
        return cells * self.length + phase
