"""The multimodal deep Markov model: networks, and their wiring to inference and loss.

Tan, Soh & Ong, *Factorized Inference in Deep Markov Models for Incomplete Multimodal Time Series*,
AAAI 2020.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.corruption import is_range
from jdmm.errors import InputError
from jdmm.inference import posterior
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import Parts, Points
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import SD_FLOOR, Raw
from jdmm.models import objectives
from jdmm.models.base import (
    Config,
    Modality,
    Multimodal,
    Variables,
    at_least,
    bound,
    decoder_of,
    encoder_of,
    evidence_of,
    loss_fields,
)
from jdmm.models.objectives import Loss, LossWeights
from jdmm.networks import GatedTransition
from jdmm.series import Series


class Networks(nn.Module):
    """Everything learned: prior, transitions, encoders and decoders."""

    modalities: tuple[Modality, ...]
    latent: int
    hidden: int

    def setup(self) -> None:
        """Makes the submodules."""
        self.prior_mean = self.param("prior_mean", nn.initializers.zeros, (self.latent,))
        self.prior_log_sd = self.param("prior_log_sd", nn.initializers.zeros, (self.latent,))
        self.forward_transition = GatedTransition(self.latent, self.hidden)
        self.backward_transition = GatedTransition(self.latent, self.hidden)
        self.encoders = {m.name: encoder_of(m, self.latent, self.hidden) for m in self.modalities}
        self.decoders = {m.name: decoder_of(m, self.hidden) for m in self.modalities}

    def prior(self) -> Moments:
        """The stationary prior p(z), ``(latent,)``."""
        return Moments(self.prior_mean, (jnp.exp(self.prior_log_sd) + SD_FLOOR) ** 2)

    def encode(self, series: Series) -> dict[str, Gaussian]:
        """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""
        return evidence_of(self.encoders, series)

    def decode(self, modality: str, states: jax.Array) -> Raw:
        """Raw outputs of the modality's likelihood."""
        return self.decoders[modality](states)

    def step_forward(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t-1}) / p(z_t) for one state."""
        return self.forward_transition(state)

    def step_backward(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t+1}) / p(z_t) for one state."""
        return self.backward_transition(state)

    def __call__(self, series: Series) -> None:
        """Touches every parameter once, for `init`."""
        self.encode(series)
        state = self.prior().mean
        for modality in self.modalities:
            self.decode(modality.name, state)
        self.step_forward(state)
        self.step_backward(state)


@dataclass(frozen=True)
class MDMM(Multimodal):
    """A multimodal deep Markov model with backward-forward variational inference.

    Attributes:
        latent: D, dimensions of the state.
        hidden: H, units of each hidden layer of the default networks.
        points: how moments are matched in training.
        prediction_points: how they are matched in prediction.
        weights: of the training loss.
    """

    latent: int = 5
    hidden: int = 20
    points: Points = Points()
    prediction_points: Points = Points(count=200)
    weights: LossWeights = field(default_factory=LossWeights)

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> "MDMM":
        """The model of the fields `model`, `inference` and `loss` of a configuration.

        Raises:
            InputError: for an impossible value.
        """
        for name in ("latent", "hidden"):
            at_least(f"model.{name}", config.model[name], 1)
        weights = loss_fields(config, modalities)
        for name, value in weights.items():
            if name == "filter_fade":
                if not is_range(value):
                    raise InputError(
                        f"expected loss.{name} to be two rising fractions, got {value}"
                    )
            elif name != "multipliers":
                at_least(f"loss.{name}", value, 1 if name == "match_particles" else 0)
        if not weights["filter"] and not weights["smoother"]:
            raise InputError("expected loss.filter or loss.smoother above 0, got both 0")
        how = config.inference
        return cls(
            modalities=modalities,
            latent=config.model.latent,
            hidden=config.model.hidden,
            points=Points(how.moments, how.particles),
            prediction_points=Points(how.prediction_moments, how.prediction_particles),
            weights=LossWeights(**weights),
        )

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(tuple(self.modalities), self.latent, self.hidden)

    @property
    def quick(self) -> "MDMM":
        """The model for validation during training: with no more points than there."""
        return self.with_points(self.points)

    def with_points(self, points: Points) -> "MDMM":
        """The same model with other points in prediction."""
        return replace(self, prediction_points=points)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        return self.networks.init(key, series)

    def parts(self, variables: Variables) -> Parts:
        """The networks as pure functions, for the recursions of `jdmm.inference`."""
        method = bound(self.networks, variables)
        return Parts(
            prior=method(Networks.prior)(),
            forward=method(Networks.step_forward),
            backward=method(Networks.step_backward),
            encode=method(Networks.encode),
            decode=method(Networks.decode),
        )

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Loss:
        """Numerators and count of the training loss; see `objectives.mdmm_loss`."""
        parts, weights = self.parts(variables), self.weights
        return objectives.mdmm_loss(
            parts, self.likelihoods, series, targets, key, self.points, weights, progress
        )

    def infer(self, variables: Variables, series: Series, key: jax.Array) -> SmoothedPosterior:
        """The MAP sequence and its conditional variance, ``(batch, time, latent)``."""
        parts = self.parts(variables)
        return posterior.map_sequence(parts, series, key, self.prediction_points)

    def draw(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> SmoothedPosterior:
        """Posterior draws of latent sequences, ``(count, batch, time, latent)``."""
        parts = self.parts(variables)
        return posterior.draw_sequences(parts, series, key, self.prediction_points, count, scale)

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        parts = self.parts(variables)
        return {m.name: parts.decode(m.name, states) for m in self.modalities}

    def sample(
        self, variables: Variables, key: jax.Array, count: int, time: int, reverse: bool = False
    ) -> jax.Array:
        """Latent sequences ``(count, time, latent)`` from the prior, from either end of time."""
        return posterior.sample_prior(self.parts(variables), key, count, time, reverse)
