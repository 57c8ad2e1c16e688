"""Standardisation of real-valued modalities, and typical sizes of counts and positive numbers."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.likelihoods import Likelihood, Mixed
from jdmm.series import Series

LEAST_SIZE = 0.1
"""Of counts, which may all be 0."""


@dataclass(frozen=True, eq=False)
class Standardise:
    """Scales every feature to mean 0 and standard deviation 1 over the training series.

    ``scaled = (value - mean) / sd``. Fit it on the training series, apply it to all series, and
    undo it on what the model predicts. Modalities that it was not fitted on pass unchanged; leave
    out categories, counts and binary values.

    A `Series` holds float32, about seven significant digits: subtract an offset that is large
    beside the variation (1e9 + noise of 1) before the series is built.

    Attributes:
        mean: modality -> ``(feature,)`` float64, in the modality's own unit.
        sd: modality -> ``(feature,)`` float64, positive, in the modality's own unit.
    """

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]

    @classmethod
    def fit_scalable(cls, series: Series, modalities: Sequence[Modality]) -> "Standardise":
        """`fit` of the features that may be scaled; see `scalable`.

        The other features of a modality of which some are scaled get mean 0 and sd 1.

        Args:
            series: the training series.
            modalities: those of the series.
        """
        masks = {m.name: mask for m in modalities if (mask := scalable(m)).any()}
        found = cls.fit(series, list(masks))
        return cls(
            {name: np.where(mask, found.mean[name], 0.0) for name, mask in masks.items()},
            {name: np.where(mask, found.sd[name], 1.0) for name, mask in masks.items()},
        )

    @classmethod
    def fit(cls, series: Series, modalities: Sequence[str] | None = None) -> "Standardise":
        """Mean and standard deviation of the observed values, per modality and feature.

        A constant feature keeps its mean and gets sd 1. A feature that is never observed gets
        mean 0 and sd 1. Both give a warning that names the modality and the features.

        Args:
            series: the training series.
            modalities: names of the modalities to standardise; without it, all of them.

        Raises:
            InputError: if a name is not a modality of the series.
        """
        mean, sd = {}, {}
        for name in _names(series, modalities):
            features = _observed_values(series, name)
            empty = [number for number, x in enumerate(features) if not x.size]
            constant = [number for number, x in enumerate(features) if x.size and not _varies(x)]
            if empty:
                warnings.warn(
                    f"modality {name!r}: features {empty} are never observed in the training "
                    "series; they get mean 0 and sd 1",
                    stacklevel=2,
                )
            if constant:
                warnings.warn(
                    f"modality {name!r}: features {constant} are constant in the training series; "
                    "they get sd 1",
                    stacklevel=2,
                )
            mean[name] = np.array([x.mean() if x.size else 0.0 for x in features])
            sd[name] = np.array([x.std() if _varies(x) else 1.0 for x in features])
        return cls(mean, sd)

    @property
    def log_sd(self) -> dict[str, np.ndarray]:
        """Modality -> ``(feature,)`` log sd: the log-density correction of each observed value.

        ``log p(value) = log p(scaled) - log sd``, by the change of variables. A negative
        log-likelihood in nats of the scaled values therefore grows by log sd.
        """
        return {name: np.log(sd) for name, sd in self.sd.items()}

    def apply(self, series: Series) -> Series:
        """The scaled series; missing values stay 0 and unobserved.

        Raises:
            InputError: if a fitted modality is missing or has another number of features.
        """
        _check_series(series)
        values = dict(series.values)
        for name, mean in self.mean.items():
            if name not in values:
                raise InputError(
                    f"expected the standardised modality {name!r}, got {list(values)}: fit "
                    "Standardise on the modalities of these series"
                )
            scaled = (self._checked(name, values[name]) - mean) / self.sd[name]
            observed = np.asarray(series.observed[name])
            values[name] = np.where(observed, scaled, 0).astype(np.float32)
        return series.replace(values=values)

    def undo(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Locations in the original units: ``mean + sd * value``.

        Args:
            values: modality -> ``(..., feature)`` predicted means, quantiles, draws or observations
                of the scaled series. There is no mask: a missing value that reads 0 becomes the
                mean.

        Returns:
            Modality -> float64 of the same shape. Modalities that were not standardised are
            returned as they are.

        Raises:
            InputError: if a modality has another number of features.
        """
        return {
            name: self.mean[name] + self.sd[name] * self._checked(name, value)
            if name in self.mean
            else value
            for name, value in values.items()
        }

    def undo_scale(self, sd: Mapping[str, Any]) -> dict[str, Any]:
        """Scales in the original units: predicted standard deviations or interval widths.

        Args:
            sd: modality -> ``(..., feature)``; not variances.

        Returns:
            Modality -> float64 of the same shape. Modalities that were not standardised are
            returned as they are.

        Raises:
            InputError: if a modality has another number of features.
        """
        return {
            name: self.sd[name] * self._checked(name, value) if name in self.sd else value
            for name, value in sd.items()
        }

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Plain lists for JSON, from which `from_dict` restores every bit."""
        return {
            "mean": {name: mean.tolist() for name, mean in self.mean.items()},
            "sd": {name: sd.tolist() for name, sd in self.sd.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Mapping[str, Sequence[float]]]) -> "Standardise":
        """The inverse of `to_dict`.

        Raises:
            InputError: if `content` does not hold a finite mean and a positive sd of every feature.
        """
        try:
            mean, sd = (
                {name: np.asarray(row, np.float64) for name, row in content[key].items()}
                for key in ("mean", "sd")
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                "expected 'mean' and 'sd', each modality -> list of numbers, got something else: "
                "use what Standardise.to_dict returned"
            ) from None
        if set(mean) != set(sd):
            raise InputError(
                f"expected mean and sd of the same modalities, got {list(mean)} and {list(sd)}"
            )
        for name in mean:
            if mean[name].ndim != 1 or mean[name].shape != sd[name].shape:
                raise InputError(
                    f"expected one mean and one sd per feature of modality {name!r}, got shapes "
                    f"{mean[name].shape} and {sd[name].shape}"
                )
            valid = np.isfinite(mean[name]) & np.isfinite(sd[name]) & (sd[name] > 0)
            if not valid.all():
                raise InputError(
                    f"expected a finite mean and a positive sd in modality {name!r}, got "
                    f"{mean[name][~valid][0]} and {sd[name][~valid][0]}"
                )
        return cls(mean, sd)

    def _checked(self, name: str, value: Any) -> np.ndarray:
        """The value in float64, with as many features as were fitted."""
        array = np.asarray(value, np.float64)
        features = self.mean[name].shape
        if array.shape[-1:] != features:
            raise InputError(
                f"expected modality {name!r} as (..., {features[0]}), got shape {array.shape}"
            )
        return array


def scalable(modality: Modality) -> np.ndarray:
    """Which features may be shifted and scaled, ``(feature,)``.

    They are those of real numbers without a fixed sd. Pixels of images, which lie within 0 to 1,
    are left out.
    """
    likelihood = modality.likelihood
    parts = likelihood.parts if isinstance(likelihood, Mixed) else [likelihood] * modality.features
    return np.array([part.scalable and modality.image is None for part in parts])


def typical_size(likelihood: Likelihood, values: np.ndarray) -> float:
    """The size of a likelihood that has one: the mean of counts, the geometric mean of others.

    Args:
        likelihood: has a field `size`.
        values: ``(value,)`` observed training values. Without any, the size is 1.
    """
    if not values.size:
        return 1.0
    if likelihood.counts:
        return max(float(values.mean()), LEAST_SIZE)
    return float(np.exp(np.log(values).mean()))


def warn_unscaled(
    series: Series, modalities: Sequence[str] | None = None, largest: float = 100.0
) -> None:
    """Warns of values that are too large or too small for networks to learn from.

    A feature is unscaled if the magnitude of its mean or its sd is above `largest`, or if it varies
    with an sd below ``1 / largest``. Each modality with such a feature gives one warning, with the
    numbers of the first.

    Args:
        series: the training series.
        modalities: names of the modalities to check; without it, all of them.
        largest: mean or sd, in the modality's own unit, that is still sensible; above 1.

    Raises:
        InputError: if a name is not a modality of the series, or `largest` is not above 1.
    """
    if not largest > 1:
        raise InputError(f"expected largest > 1, got {largest}")
    for name in _names(series, modalities):
        features = _observed_values(series, name)
        found = [number for number, x in enumerate(features) if _unscaled(x, largest)]
        if found:
            x = features[found[0]]
            others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            warnings.warn(
                f"modality {name!r}, feature {found[0]}{others}: mean absolute value "
                f"{np.abs(x).mean():.3g} and sd {x.std():.3g} are far from 1; networks learn "
                "poorly from such values: scale them with Standardise",
                stacklevel=2,
            )


def _unscaled(x: np.ndarray, largest: float) -> bool:
    if not x.size:
        return False
    sd = x.std()
    return abs(x.mean()) > largest or sd > largest or (_varies(x) and sd < 1 / largest)


def _varies(x: np.ndarray) -> bool:
    """Whether two values differ."""
    return x.size > 0 and x.min() < x.max()


def _observed_values(series: Series, name: str) -> list[np.ndarray]:
    """The observed values of each feature, in float64.

    numpy's mean is then pairwise and its std centred in two passes: both hold at 1e9 +- 1.
    """
    value, observed = np.asarray(series.values[name]), np.asarray(series.observed[name])
    return [
        value[..., feature][observed[..., feature]].astype(np.float64)
        for feature in range(value.shape[-1])
    ]


def _check_series(series: Any) -> None:
    if not isinstance(series, Series):
        raise InputError(
            f"expected a Series, got {type(series).__name__}: build one with series_from_arrays"
        )


def _names(series: Series, modalities: Sequence[str] | None) -> list[str]:
    _check_series(series)
    if modalities is None:
        return list(series.values)
    if isinstance(modalities, str):
        raise InputError(f"expected a sequence of modalities, got the string {modalities!r}")
    if unknown := [name for name in modalities if name not in series.values]:
        raise InputError(f"expected modalities among {list(series.values)}, got {unknown[0]!r}")
    return list(modalities)
