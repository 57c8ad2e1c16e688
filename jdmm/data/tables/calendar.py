"""Covariates that follow from time stamps: places in the day, the week and the year."""

from collections.abc import Sequence

import numpy as np

from jdmm.data.tables.steps import MICROSECONDS, Times

DAY = MICROSECONDS["d"]


def calendar(times: Times, names: Sequence[str]) -> np.ndarray:
    """Sine and cosine of each covariate, ``(..., 2 * covariate)`` float32.

    Args:
        times: ``(...)`` microseconds; of stamps with a zone in UTC.
        names: among "hour", "weekday" and "month".
    """
    angles = [2 * np.pi * _share(times, name) for name in names]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack(waves, -1).astype(np.float32)


def _share(times: Times, name: str) -> np.ndarray:
    """The part of the day, week or year that has passed, 0 to 1."""
    if name == "hour":
        return times % DAY / DAY
    if name == "weekday":
        return (times + 3 * DAY) % (7 * DAY) / (7 * DAY)  # 1970 began on a Thursday
    stamps = times.astype("datetime64[us]")
    year = stamps.astype("datetime64[Y]")
    begin, end = (each.astype("datetime64[us]").astype(np.int64) for each in (year, year + 1))
    return (times - begin) / (end - begin)
