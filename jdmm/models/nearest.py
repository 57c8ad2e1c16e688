"""A baseline for images and labels: the nearest observed value of each modality."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Bernoulli, Categorical, Normal, Raw, unconstrain_sd
from jdmm.models.base import SelfFittingModel, Variables
from jdmm.models.emission import masked_values
from jdmm.series import Series

LEAST = 1e-4
"""Least probability of a class, and of a binary value."""


@dataclass(frozen=True)
class NearestValue(SelfFittingModel):
    """Copies all features of a modality from the nearest step at which one of them is observed.

    Of two steps at the same distance it takes the earlier one. A modality that is never observed in
    a series gets the mean, or the class frequencies, of the training series. It has no states: its
    paths hold the predictions themselves.

    Raises:
        InputError: for a modality that is neither Normal, Bernoulli nor Categorical, has a fixed
            sd, or has a network of its own.
    """

    def __post_init__(self) -> None:
        """Checks the modalities."""
        super().__post_init__()
        for modality in self.modalities:
            if not isinstance(modality.likelihood, Normal | Bernoulli | Categorical):
                raise InputError(
                    "expected a Normal, Bernoulli or Categorical likelihood in modality "
                    f"{modality.name!r} for the nearest value, got {modality.likelihood}"
                )
            if isinstance(modality.likelihood, Normal) and modality.likelihood.sd is not None:
                raise InputError(
                    f"expected modality {modality.name!r} without a fixed sd for the nearest "
                    f"value, which fits the sd, got {modality.likelihood}: use Normal()"
                )
            if modality.encoder is not None or modality.decoder is not None:
                raise InputError(
                    f"expected modality {modality.name!r} without encoder and decoder for the "
                    "nearest value, which uses no networks"
                )

    def fit(
        self, series: Series, on_iteration: Callable[[dict[str, float]], Any] | None = None
    ) -> Variables:
        """Per modality the mean of the `Modality` statistics, and the sd from step to step.

        There is one iteration, of which `on_iteration` gets the number.

        Raises:
            InputError: for series that disagree with the modalities, or never hold one of them.
        """
        self.check(series)
        means, sds = {}, {}
        for modality in self.modalities:
            name = modality.name
            own = series.select([name]).as_float()
            observed: np.ndarray = np.any(np.asarray(own.observed[name]), axis=-1)
            if not observed.any():
                raise InputError(f"expected modality {name!r} in the training series, got none")
            value = np.asarray(_numbers(modality, masked_values(own)[name]))
            means[name] = value[observed].mean(0)
            both = observed[:, 1:] & observed[:, :-1]
            steps = np.diff(value, axis=1)[both]
            sds[name] = np.sqrt(np.mean(steps**2)) if steps.size else np.std(value[observed])
        if on_iteration is not None:
            on_iteration({"iteration": 0})
        return {"mean": means, "sd": sds}

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The copied values of all modalities as states."""
        del key
        self.check(series)
        given = masked_values(series)
        each = [
            _copy(
                _numbers(modality, given[modality.name]),
                jnp.any(series.observed[modality.name], -1),
                variables["mean"][modality.name],
            )
            for modality in self.modalities
        ]
        none = jnp.zeros((series.batch, series.num_steps, 0))
        return PosteriorPath(Moments(none, none), Moments(none, none), jnp.concatenate(each, -1))

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """The same states `count` times: only the emissions vary."""
        del scale
        path = self.posterior_mean(variables, series, key)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), path)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Distributions around the copied values."""
        raw, start = {}, 0
        for modality in self.modalities:
            likelihood, size = modality.likelihood, _size(modality)
            value = states[..., start : start + size]
            start += size
            if isinstance(likelihood, Normal):
                sd = unconstrain_sd(jnp.asarray(variables["sd"][modality.name]))
                raw[modality.name] = (value, jnp.broadcast_to(sd, value.shape))
                continue
            chance = jnp.clip(value, LEAST, 1 - LEAST)
            if isinstance(likelihood, Bernoulli):
                raw[modality.name] = (jnp.log(chance) - jnp.log1p(-chance),)
            else:
                shape = (*value.shape[:-1], modality.features, likelihood.classes)
                raw[modality.name] = (jnp.log(chance).reshape(shape),)
        return raw

    def _prior_samples(
        self, variables: Variables, key: jax.Array, series: Series, reverse: bool
    ) -> jax.Array:
        """The means of the training series."""
        del reverse
        return self.posterior_mean(variables, series, key).states


def _size(modality: Modality) -> int:
    classes = modality.likelihood.classes
    return modality.features * (1 if classes is None else classes)


def _numbers(modality: Modality, values: jax.Array) -> jax.Array:
    """The values, or the categories one-hot: ``(batch, time, number)``."""
    classes = modality.likelihood.classes
    if classes is None:
        return values
    onehot = jax.nn.one_hot(values.astype(jnp.int32), classes)
    return onehot.reshape(*values.shape[:-1], -1)


def _copy(values: jax.Array, observed: jax.Array, otherwise: jax.Array) -> jax.Array:
    """The values at the nearest observed steps ``(batch, time)``."""
    time = jnp.arange(values.shape[1])
    distance = jnp.abs(time[:, None] - time[None])[None]
    far = values.shape[1]
    nearest = jnp.argmin(jnp.where(observed[:, None], distance, far), -1)
    copied = jnp.take_along_axis(values, nearest[..., None], 1)
    mean = jnp.asarray(otherwise)[None, None]
    return jnp.where(jnp.any(observed, 1)[:, None, None], copied, mean)
