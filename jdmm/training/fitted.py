"""A fitted model: a model with its variables, scaling and calibration, used in the user's units."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jdmm.data.scaling import Standardise
from jdmm.evaluation.calibration import calibrate
from jdmm.evaluation.importance import log_likelihood_bounds
from jdmm.evaluation.prediction import UNCALIBRATED, Calibration, Prediction, predict_all
from jdmm.models.base import ExactLikelihood, Model, Variables
from jdmm.series import Series


def _undo_log_density(scaling: Standardise, log_prob: Mapping[str, Any]) -> dict[str, Any]:
    """Log densities in the original units: ``log p(value) = log p(scaled) - log sd``."""
    log_sd = scaling.log_sd
    return {name: value - log_sd.get(name, 0.0) for name, value in log_prob.items()}


UNDO: dict[str, Callable[[Standardise, Mapping[str, Any]], dict[str, Any]]] = {
    "mean": Standardise.undo,
    "expected": Standardise.undo,
    "lower": Standardise.undo,
    "upper": Standardise.undo,
    "samples": Standardise.undo,
    "sd": Standardise.undo_scale,
    "crps": Standardise.undo_scale,
    "log_prob": _undo_log_density,
}
"""How the scaling is undone on each field of a `Prediction`; the other fields have no unit."""


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model with everything that its use needs.

    Series go in, and predictions come out, in the user's own units: the methods apply `scaling` to
    the series and undo it on what the model predicts.

    Attributes:
        model: the model.
        variables: its fitted variables.
        history: the figures of each epoch or iteration of the fit.
        best_epoch: the epoch that the variables are from; None where the fit chose none.
        best_score: the validation score of that epoch.
        calibration: scales of the predicted uncertainty.
        scaling: the standardisation of the training series; None where they were not scaled.
    """

    model: Model
    variables: Variables
    history: tuple[dict[str, float], ...] = ()
    best_epoch: int | None = None
    best_score: float | None = None
    calibration: Calibration = UNCALIBRATED
    scaling: Standardise | None = None

    def predict(
        self,
        series: Series,
        *,
        seed: int = 0,
        num_samples: int = 100,
        targets: Series | None = None,
        batch_size: int = 100,
        **options: Any,
    ) -> Prediction:
        """Predicts every value of the series from what is observed of them, as numpy arrays.

        Smoothing, imputation and extrapolation are one call: a value that is not observed is
        predicted. `Series.pad` adds steps to extrapolate to.

        Args:
            series: what is observed.
            seed: of all random numbers.
            num_samples: posterior samples behind the uncertainty; 95 % intervals need 39.
            targets: the values to score, as series of the same shape; without them `log_prob`,
                `pit` and `crps` are empty.
            batch_size: series at a time.
            **options: further options of `predict_all`.

        Raises:
            InputError: for series that disagree with the modalities of the model.
        """
        prediction = predict_all(
            self.model,
            self.variables,
            self._scaled(series),
            jax.random.key(seed),
            num_samples,
            None if targets is None else self._scaled(targets),
            batch_size,
            self.calibration,
            **options,
        )
        if self.scaling is None:
            return prediction
        undone = {
            field: undo(self.scaling, found)
            for field, undo in UNDO.items()
            if (found := getattr(prediction, field, None))
        }
        if prediction.log_weights is not None:  # log densities of all that is observed
            undone["log_weights"] = prediction.log_weights - self._sum_of_log_sd(series)[:, None]
        return prediction._replace(**undone)

    def calibrate(
        self,
        shown: Sequence[Series],
        held_out: Sequence[Series],
        *,
        seed: int = 0,
        num_samples: int = 60,
        **options: Any,
    ) -> "FittedModel":
        """A copy whose 95 % intervals cover the held-out values as often as they should.

        Args:
            shown: case by case what is observed, of series that the model was not trained on. All
                cases have one shape.
            held_out: the same series; their observed values are to be covered.
            seed: of all random numbers.
            num_samples: posterior samples per pair of scales; 95 % intervals need 39.
            **options: further options of `jdmm.calibrate`.

        Raises:
            InputError: for series that disagree with the modalities of the model.
        """
        calibration = calibrate(
            self.model,
            self.variables,
            [self._scaled(series) for series in shown],
            [self._scaled(series) for series in held_out],
            jax.random.key(seed),
            num_samples,
            **options,
        )
        return replace(self, calibration=calibration)

    def sample(
        self,
        count: int,
        num_steps: int,
        *,
        seed: int = 0,
        reverse: bool = False,
        inputs: Any = None,
    ) -> dict[str, np.ndarray]:
        """Samples new series from the model, with the noise of the emissions.

        These are samples of the model itself: the calibration, which is for predictions, is not
        used.

        Args:
            count: number of series.
            num_steps: their steps.
            seed: of all random numbers.
            reverse: whether the states are sampled from the last step backwards.
            inputs: ``(num_steps, input)``, those of all series, if the model has any.

        Returns:
            Modality -> ``(count, num_steps, feature)``.

        Raises:
            InputError: for a number below 1, `reverse` where the model has no backward transition,
                or inputs of another shape.
        """
        key = jax.random.key(seed)
        found = self._sampler(self.variables, key, count, num_steps, reverse, inputs)
        samples = jax.device_get(found)
        return samples if self.scaling is None else self.scaling.undo(samples)

    @functools.cached_property
    def _sampler(self) -> Callable[..., dict[str, jax.Array]]:
        """Compiled once per fitted model and shape."""
        model = self.model

        def sample(
            variables: Variables,
            key: jax.Array,
            count: int,
            num_steps: int,
            reverse: bool,
            inputs: Any,
        ) -> dict[str, jax.Array]:
            state_key, emission_key = jax.random.split(key)
            states = model.prior_samples(variables, state_key, count, num_steps, reverse, inputs)
            raw = model.emissions(variables, states)
            return {
                name: likelihood.sample(raw[name], jax.random.fold_in(emission_key, number))
                for number, (name, likelihood) in enumerate(model.likelihoods.items())
            }

        return jax.jit(sample, static_argnums=(2, 3, 4))

    def log_likelihood(
        self, series: Series, *, seed: int = 0, num_samples: int = 100, batch_size: int = 100
    ) -> np.ndarray:
        """Log p(x) of what is observed of each series, in nats and in the user's units.

        It is exact where the model knows its likelihood (`ExactLikelihood`). For other models it
        is the importance sampling bound, which lies below log p(x) in expectation and rises with
        `num_samples`; see `log_likelihood_bounds`.

        Args:
            series: what is observed.
            seed: of the bound's samples.
            num_samples: posterior samples of the bound.
            batch_size: series at a time, for the bound.

        Returns:
            ``(batch,)`` float64.

        Raises:
            InputError: for series that disagree with the modalities of the model.
        """
        scaled = self._scaled(series)
        if isinstance(self.model, ExactLikelihood):
            found = self.model.log_likelihood(self.variables, scaled)
        else:
            key = jax.random.key(seed)
            counts = (num_samples,)
            found = log_likelihood_bounds(
                self.model, self.variables, scaled, key, counts, batch_size
            ).bounds[num_samples]
        return np.asarray(found, np.float64) - self._sum_of_log_sd(series)

    def _sum_of_log_sd(self, series: Series) -> np.ndarray:
        """What a log density of the scaled series has too much, ``(batch,)``."""
        total = np.zeros(series.batch)
        for name, log_sd in {} if self.scaling is None else self.scaling.log_sd.items():
            total += np.where(series.observed[name], log_sd, 0.0).sum((1, 2))
        return total

    def _scaled(self, series: Series) -> Series:
        """Checked and standardised."""
        self.model.check(series)
        return series if self.scaling is None else self.scaling.apply(series)
