"""Imputation of a real table with many columns: Beijing's air, 12 stations of 11 channels.

    python benchmarks/air_quality.py DATA.npz                      # the model of full covariance
    python benchmarks/air_quality.py DATA.npz --method=linear      # linear Gaussian model, by EM
    python benchmarks/air_quality.py DATA.npz --method=bfvi        # MDMM by variational inference
    python benchmarks/air_quality.py DATA.npz --method=interpolate
    python benchmarks/air_quality.py DATA.npz --method=last        # last value
    python benchmarks/air_quality.py DATA.npz --write_masks=FILE.npz

DATA.npz holds `x`, ``(station, hour, channel)`` float32 with NaN where missing: the hourly PRSA
data of the UCI Machine Learning Repository, 2013 to 2017. All 132 columns are one series, cut into
windows, split by time (60 % training, 20 % validation, 20 % test) and standardised by the known
values of the training windows. Known values are held out in all three parts, those of the test
windows are predicted. `--complete` holds none out in training and validation. Errors are in
standardised units, times are CPU times. Prints figures, or writes windows and masks for
`air_quality_pypots.py`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import air_quality_data
import numpy as np
from air_quality_data import PARTS, Part

import jdmm
from jdmm import Deletions, Modality, Series, TrainSettings, compiling
from jdmm.data.tables.calendar import calendar
from jdmm.data.tables.schema import CALENDARS
from jdmm.data.tables.steps import MICROSECONDS
from jdmm.data.tables.transforms import TRANSFORMS

NAME = "air"
START = np.datetime64("2013-03-01", "us").astype(np.int64)
"""Of the first hour, in microseconds."""
SKEWED = (0, 1, 2, 3, 4, 5, 9, 10)
"""Channels that are positive and skewed: pollutants, rain and wind."""
OFFSETS = {"log": 0.1, "root": 0.0}
"""Transform of skewed channels -> what is added before, in units of the sd of a column."""
PATTERNS: dict[str, dict[str, Any]] = {
    "point10": {"fraction": 0.1},
    "point50": {"fraction": 0.5},
    "block50": {"fraction": 0.5, "blocks": 6},
}
SEEDS = {"test": 0, "validation": 1, "train": 2}
BASELINES = {"interpolate": "interpolate", "last": "carry"}


def load(path: Path, hours: int, driven: bool) -> dict[str, Series]:
    """Windows of so many hours of each part, standardised; driven ones have the calendar."""
    with np.load(path) as file:
        table = np.moveaxis(file["x"], 0, 1)
    table = table.reshape(len(table), -1)
    stamps = START + np.arange(len(table)) * MICROSECONDS["h"]
    inputs = calendar(stamps[None], CALENDARS) if driven else None
    whole = jdmm.series_from_arrays({NAME: table[None]}, inputs=inputs)
    windows = jdmm.windows(whole, hours).series
    parts = jdmm.split(windows, (0.6, 0.2, 0.2))
    scaling = jdmm.Standardise.fit(parts[0])
    return dict(zip(PARTS, map(scaling.apply, parts), strict=True))


class ChannelTransform:
    """Of the skewed channels, x being 0 at the least training value, to what is more symmetric."""

    def __init__(self, name: str, train: Series, channels: int) -> None:
        """Fits the range of the training values, and the scale of what they become."""
        self.transform, self.offset = TRANSFORMS[name], OFFSETS[name]
        known = np.where(train.observed[NAME], train.values[NAME], np.nan)
        self.least, self.most = np.nanmin(known, (0, 1)), np.nanmax(known, (0, 1))
        self.skewed = np.isin(np.arange(len(self.least)) % channels, SKEWED)
        self.scaling = jdmm.Standardise.fit(self._forward(train))

    def _forward(self, series: Series) -> Series:
        value = series.values[NAME]
        changed = self.transform.forward(np.maximum(value - self.least, 0) + self.offset)
        values = np.where(series.observed[NAME], np.where(self.skewed, changed, value), 0)
        return series.replace(values={NAME: values})

    def apply(self, series: Series) -> Series:
        """What the model sees, standardised."""
        return self.scaling.apply(self._forward(series))

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Values ``(..., column)`` in standardised units of the data.

        Skewed columns stay below their largest training value: an error of a logarithm would
        otherwise grow without limit.
        """
        changed = np.asarray(self.scaling.undo({NAME: values})[NAME], np.float32)
        value = self.transform.backward(changed) - self.offset + self.least
        return np.where(self.skewed, np.minimum(value, self.most), changed)


def write_masks(path: Path, whole: dict[str, Series], hidden: dict[str, Series]) -> None:
    """Writes the windows and the held-out values of each part."""
    parts = {}
    for name, series in whole.items():
        known = np.asarray(series.observed[NAME])
        values = np.where(known, series.values[NAME], np.float32(np.nan))
        parts[name] = Part(values, np.asarray(hidden[name].observed[NAME]))
    air_quality_data.write(path, parts)


def train(method: str, series: Series, validation: Series, options: Any) -> jdmm.FittedModel:
    """The fitted model of a method."""
    features = series.values[NAME].shape[-1]
    air = (Modality(NAME, features),)
    nothing = Deletions.none()
    if method == "linear":
        model = jdmm.LinearGaussianSSM(
            air, latent=options.latent, iterations=20, inputs=series.num_inputs
        )
        return jdmm.fit(model, series)
    if method in BASELINES:
        return jdmm.fit(jdmm.ImputationBaseline(air, BASELINES[method]), series)
    if method == "bfvi":
        model = jdmm.MDMM(air, latent=options.latent, hidden=options.hidden)
        hide = Deletions(burst=0.0, scattered_features=0.5, scattered_features_range=(0.05, 0.3))
        settings = TrainSettings(epochs=options.epochs, batch_size=64, deletions=hide)
        return jdmm.fit(model, series, validation, settings, seed=options.seed)
    model = jdmm.SigmaPointSSM(
        air,
        latent=options.latent,
        hidden=options.hidden,
        residual=options.residual,
        iterations=0,  # emissions are linear
        inputs=series.num_inputs,
    )
    settings = TrainSettings(
        epochs=options.epochs,
        batch_size=max(64 * 24 // options.hours, 1),  # as many hours, whatever the windows
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        ema_decay=0.9,  # there are few steps
        beta_rise=0.0,
        beta_peak=1.0,
        beta_final=1.0,
        deletions=nothing,
    )
    return jdmm.fit(model, series, validation, settings, seed=options.seed)


def main() -> None:
    """Trains a method and prints its scores."""
    parser = argparse.ArgumentParser(description="Imputation of Beijing's air quality.")
    parser.add_argument("data", type=Path, help="the .npz file")
    methods = ("sigma_point", "bfvi", "linear", *BASELINES)
    parser.add_argument("--method", choices=methods, default="sigma_point")
    parser.add_argument("--pattern", choices=PATTERNS, default="point10", help="[point10]")
    parser.add_argument("--hours", type=int, default=24, help="of a window [24]")
    parser.add_argument("--complete", action="store_true", help="hide test values alone")
    parser.add_argument("--write_masks", type=Path, help="write windows and masks, and stop")
    parser.add_argument("--latent", type=int, default=32, help="dimensions of the state [32]")
    parser.add_argument("--hidden", type=int, default=64, help="units of hidden layers [64]")
    parser.add_argument("--residual", action="store_true", help="of each feature, in sigma_point")
    parser.add_argument("--calendar", action="store_true", help="drives sigma_point and linear")
    parser.add_argument("--transform", choices=OFFSETS, help="of the skewed channels [none]")
    parser.add_argument("--part", choices=PARTS[1:], default="test", help="to score [test]")
    parser.add_argument("--test_every", type=int, default=1, help="score each n-th window too [1]")
    parser.add_argument("--epochs", type=int, default=20, help="of training [20]")
    parser.add_argument("--learning_rate", type=float, default=0.02, help="peak [0.02]")
    parser.add_argument("--seed", type=int, default=0, help="of training; masks keep theirs [0]")
    options = parser.parse_args()
    compiling.limit_threads(1)

    whole = load(options.data, options.hours, options.calendar)
    shown, hidden = {}, {}
    for name, series in whole.items():
        shown[name], hidden[name] = jdmm.hold_out(
            series, seed=SEEDS[name], **PATTERNS[options.pattern]
        )
    if options.write_masks:
        return write_masks(options.write_masks, whole, hidden)

    known = whole if options.complete else shown
    targets, given = whole[options.part], shown[options.part]
    transform = None
    if options.transform:
        channels = np.load(options.data)["x"].shape[-1]
        transform = ChannelTransform(options.transform, known["train"], channels)
        known = {name: transform.apply(series) for name, series in known.items()}
        targets, given = transform.apply(targets), transform.apply(given)
    began = time.process_time()
    fitted = train(options.method, known["train"], known["validation"], options)
    training = time.process_time() - began
    for record in fitted.history:
        if "validation/score" in record:
            print({name: round(float(value), 4) for name, value in record.items()})
    began = time.process_time()
    predicted = fitted.predict(given, targets=targets, return_samples=transform is not None)
    inference = time.process_time() - began
    mask = hidden[options.part].observed[NAME]
    truth = whole[options.part].values[NAME]
    # a median passes through the transform, a mean does not: it is that of the samples
    point, mean, crps = predicted.mean[NAME], None, predicted.crps[NAME]
    if transform is not None:
        point = transform.undo(point)
        drawn = np.stack([transform.undo(own) for own in predicted.samples[NAME]])
        mean, crps = drawn.mean(0), np.zeros_like(truth)
        crps[mask], _ = air_quality_data.spread_scores(drawn[:, mask], truth[mask])
    covered = np.abs(predicted.pit[NAME] - 0.5) <= 0.475
    for every in sorted({1, options.test_every}):
        rows = np.s_[::every]
        scored = mask[rows]
        air_quality_data.print_scores(
            air_quality_data.named(options.method, every),
            (point - truth)[rows][scored],
            crps[rows][scored],
            covered[rows][scored],
            training,
            inference,
            None if mean is None else (mean - truth)[rows][scored],
        )


if __name__ == "__main__":
    main()
