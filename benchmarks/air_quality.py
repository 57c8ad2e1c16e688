"""Imputation of a real table with many columns: Beijing's air, 12 stations of 11 channels.

    python benchmarks/air_quality.py DATA.npz                      # the model of full covariance
    python benchmarks/air_quality.py DATA.npz --method=linear      # linear Gaussian model, by EM
    python benchmarks/air_quality.py DATA.npz --method=bfvi        # MDMM by variational inference
    python benchmarks/air_quality.py DATA.npz --method=interpolate

DATA.npz holds `x`, ``(station, hour, channel)`` float32 with NaN where missing: the hourly PRSA
data of the UCI Machine Learning Repository, 2013 to 2017. All 132 columns are one series, cut into
windows of 24 hours, split by time (60 % training, 20 % validation, 20 % test) and standardised by
the training windows. A tenth of the known test values is held out. Errors are in standardised
units. Prints figures, writes nothing.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

import jdmm
from jdmm import Deletions, Modality, Series, TrainSettings

NAME = "air"


def load(path: Path) -> tuple[Series, Series, Series]:
    """Training, validation and test windows, standardised."""
    with np.load(path) as file:
        table = np.moveaxis(file["x"], 0, 1)
    table = table.reshape(len(table), -1)
    windows = jdmm.windows(jdmm.series_from_arrays({NAME: table[None]}), 24).series
    train, validation, test = jdmm.split(windows, (0.6, 0.2, 0.2))
    scaling = jdmm.Standardise.fit(train)
    return tuple(scaling.apply(part) for part in (train, validation, test))  # type: ignore[return-value]


def train(method: str, series: Series, validation: Series, options: Any) -> jdmm.FittedModel:
    """The fitted model of a method."""
    features = series.values[NAME].shape[-1]
    air = (Modality(NAME, features),)
    nothing = Deletions.none()
    if method == "linear":
        return jdmm.fit(jdmm.LinearGaussianSSM(air, latent=options.latent, iterations=20), series)
    if method == "interpolate":
        return jdmm.fit(jdmm.ImputationBaseline(air, "interpolate"), series)
    if method == "bfvi":
        model = jdmm.MDMM(air, latent=options.latent, hidden=options.hidden)
        hide = Deletions(burst=0.0, scattered_features=0.5, scattered_features_range=(0.05, 0.3))
        settings = TrainSettings(epochs=options.epochs, batch_size=64, deletions=hide)
        return jdmm.fit(model, series, validation, settings)
    model = jdmm.SigmaPointSSM(
        air, latent=options.latent, hidden=options.hidden, residual=options.residual
    )
    settings = TrainSettings(
        epochs=options.epochs,
        batch_size=64,
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        ema_decay=0.9,  # there are few steps
        beta_rise=0.0,
        beta_peak=1.0,
        beta_final=1.0,
        deletions=nothing,
    )
    return jdmm.fit(model, series, validation, settings)


def main() -> None:
    """Trains a method and prints its scores."""
    parser = argparse.ArgumentParser(description="Imputation of Beijing's air quality.")
    parser.add_argument("data", type=Path, help="the .npz file")
    methods = ("sigma_point", "bfvi", "linear", "interpolate")
    parser.add_argument("--method", choices=methods, default="sigma_point")
    parser.add_argument("--latent", type=int, default=32, help="dimensions of the state [32]")
    parser.add_argument("--hidden", type=int, default=64, help="units of hidden layers [64]")
    parser.add_argument("--residual", action="store_true", help="of each feature, in sigma_point")
    parser.add_argument("--epochs", type=int, default=20, help="of training [20]")
    parser.add_argument("--learning_rate", type=float, default=0.02, help="peak [0.02]")
    options = parser.parse_args()

    series, validation, test = load(options.data)
    shown, held_out = jdmm.hold_out(test, 0.1, seed=0)
    began = time.perf_counter()
    fitted = train(options.method, series, validation, options)
    seconds = time.perf_counter() - began
    for record in fitted.history:
        if "validation/score" in record:
            print({name: round(float(value), 4) for name, value in record.items()})
    began = time.perf_counter()
    predicted = fitted.predict(shown, targets=test)
    inference = time.perf_counter() - began
    mask = held_out.observed[NAME]
    error = (predicted.mean[NAME] - test.values[NAME])[mask]
    covered = np.abs(predicted.pit[NAME][mask] - 0.5) <= 0.475
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{options.method}: MSE {np.mean(error**2):.4f}, MAE {np.mean(np.abs(error)):.4f}, "
        f"95 % intervals cover {np.mean(covered):.3f}; training {seconds:.0f} s, "
        f"inference {inference:.1f} s, memory {memory:.2f} GB"
    )


if __name__ == "__main__":
    main()
