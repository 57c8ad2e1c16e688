"""Makes air.csv, a synthetic hour by hour record of a measuring station with gaps.

python docs/data/make_air.py
"""

from pathlib import Path

import numpy as np

HOURS = 2016  # twelve weeks
CALM, BREEZE, STORM = "calm", "breeze", "storm"


def make() -> list[str]:
    """The lines of the file."""
    rng = np.random.default_rng(0)
    hour = np.arange(HOURS)
    day = 2 * np.pi * hour / 24
    front = _slow(rng, 60)  # weather, over days
    sun = np.maximum(np.sin(day - np.pi / 2), 0) * (1 - 0.4 / (1 + np.exp(-2 * front)))
    temperature = 12 + 4 * front + 7 * _lagged(sun, 4) + 0.3 * rng.normal(size=HOURS)
    humidity = 70 - 2 * (temperature - 15) + 6 * _slow(rng, 40) + 1.5 * rng.normal(size=HOURS)
    pressure = 1013 - 8 * front + 0.4 * rng.normal(size=HOURS)
    wind = np.exp(0.8 + 0.5 * front + 0.4 * _slow(rng, 15) + 0.1 * rng.normal(size=HOURS))
    rush = np.exp(-0.5 * ((hour % 24 - 8) / 2) ** 2) + np.exp(-0.5 * ((hour % 24 - 18) / 2.5) ** 2)
    rush = rush * np.where(hour // 24 % 7 < 5, 1.0, 0.4)
    no2 = np.exp(2.6 + 0.9 * rush - 0.6 * np.log(wind) + 0.1 * rng.normal(size=HOURS))
    kind = np.select([wind < 2, wind < 4.5], [CALM, BREEZE], STORM)

    columns = {
        "temperature": np.char.mod("%.2f", temperature),
        "humidity": np.char.mod("%.1f", np.clip(humidity, 5, 100)),
        "pressure": np.char.mod("%.1f", pressure),
        "wind": np.char.mod("%.2f", wind),
        "no2": np.char.mod("%.1f", no2),
        "weather": kind,
    }
    for place, (name, texts) in enumerate(columns.items()):
        missing = rng.random(HOURS) < 0.05
        for _ in range(5):  # an instrument that fails for hours or days
            start = rng.integers(HOURS)
            missing[start : start + rng.integers(6, 60)] = True
        empty = "-999" if place == 2 else ""
        columns[name] = np.where(missing, empty, texts.astype("U12"))
    lost = (hour >= 900) & (hour < 924)  # no row at all
    stamps = np.datetime64("2024-01-01T00:00") + hour.astype("timedelta64[h]")
    rows = zip(stamps[~lost], *(texts[~lost] for texts in columns.values()), strict=True)
    lines = [",".join([str(row[0]).replace("T", " "), *map(str, row[1:])]) for row in rows]
    return [",".join(["time", *columns]), *lines]


def _slow(rng: np.random.Generator, hours: float) -> np.ndarray:
    """A stationary process of sd 1 that forgets within so many hours."""
    keep = np.exp(-1 / hours)
    values = rng.normal(size=HOURS)
    for step in range(1, HOURS):
        values[step] = keep * values[step - 1] + np.sqrt(1 - keep**2) * values[step]
    return values


def _lagged(values: np.ndarray, hours: float) -> np.ndarray:
    """The values with an exponential memory."""
    found, keep = values.copy(), np.exp(-1 / hours)
    for step in range(1, HOURS):
        found[step] = keep * found[step - 1] + (1 - keep) * values[step]
    return found


if __name__ == "__main__":
    Path(__file__).with_name("air.csv").write_text("\n".join(make()) + "\n")
