"""The multimodal deep Markov model: networks, and their wiring to inference and loss.

Tan, Soh & Ong, *Factorized Inference in Deep Markov Models for Incomplete Multimodal Time Series*,
AAAI 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm import gaussian, inference, objectives
from jdmm.gaussian import Gaussian, Moments
from jdmm.inference import Parts, Points
from jdmm.likelihoods import SD_FLOOR, Categorical, Likelihood, Normal, Raw
from jdmm.networks import GatedTransition, LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.objectives import Loss, LossWeights
from jdmm.series import Series

Variables = Any
"""Flax variables, ``{"params": ...}``."""


@dataclass(frozen=True)
class Modality:
    """One observation sequence x^m of the model.

    Attributes:
        name: its key in `Series`.
        features: how many features it has.
        likelihood: p(x | z) given the decoder's outputs.
        encoder: a Flax module ``(values, observed) -> Moments (..., latent)``; by default the MLP,
            or the embedding for categories.
        decoder: a Flax module ``(..., latent) -> raw outputs`` of the likelihood; by default the
            MLP.
    """

    name: str
    features: int = 1
    likelihood: Likelihood = Normal()
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None


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
        self.encoders = {m.name: m.encoder or self._encoder(m) for m in self.modalities}
        self.decoders = {
            m.name: m.decoder or MLPDecoder(m.features, m.likelihood, self.hidden)
            for m in self.modalities
        }

    def _encoder(self, modality: Modality) -> nn.Module:
        if isinstance(modality.likelihood, Categorical):
            return LabelEncoder(modality.likelihood.classes, self.latent, self.hidden)
        return MLPEncoder(self.latent, self.hidden)

    def prior(self) -> Moments:
        """The stationary prior p(z), ``(latent,)``."""
        return Moments(self.prior_mean, (jnp.exp(self.prior_log_sd) + SD_FLOOR) ** 2)

    def encode(self, series: Series) -> dict[str, Gaussian]:
        """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""
        return {
            name: gaussian.mask(
                gaussian.natural(encoder(series.values[name], series.observed[name])),
                jnp.any(series.observed[name], -1, keepdims=True),
            )
            for name, encoder in self.encoders.items()
        }

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
class MDMM:
    """A multimodal deep Markov model with backward-forward variational inference.

    Attributes:
        modalities: the observation sequences.
        latent: D, dimensions of the state.
        hidden: H, units of each hidden layer of the default networks.
        points: how moments are matched in training.
        prediction_points: how they are matched in prediction.
        weights: of the training loss.
    """

    modalities: tuple[Modality, ...]
    latent: int = 5
    hidden: int = 20
    points: Points = Points()
    prediction_points: Points = Points(count=200)
    weights: LossWeights = field(default_factory=LossWeights)

    @property
    def likelihoods(self) -> dict[str, Likelihood]:
        """Modality -> likelihood."""
        return {m.name: m.likelihood for m in self.modalities}

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(tuple(self.modalities), self.latent, self.hidden)

    def with_points(self, points: Points) -> "MDMM":
        """The same model with other points in prediction."""
        return replace(self, prediction_points=points)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form."""
        return self.networks.init(key, series)

    def parts(self, variables: Variables) -> Parts:
        """The networks as pure functions, for the recursions of `jdmm.inference`."""
        networks = self.networks

        def method(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *inputs: networks.apply(variables, *inputs, method=function)

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

    def infer(self, variables: Variables, series: Series, key: jax.Array) -> Moments:
        """The MAP sequence and its conditional variance, ``(batch, time, latent)``."""
        parts = self.parts(variables)
        return inference.map_sequence(parts, series, key, self.prediction_points).posterior

    def draw(self, variables: Variables, series: Series, key: jax.Array, count: int) -> jax.Array:
        """Posterior draws of latent sequences, ``(count, batch, time, latent)``."""
        parts = self.parts(variables)
        return inference.draw_sequences(parts, series, key, self.prediction_points, count)

    def decode(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        parts = self.parts(variables)
        return {m.name: parts.decode(m.name, states) for m in self.modalities}

    def sample(
        self, variables: Variables, key: jax.Array, count: int, time: int, reverse: bool = False
    ) -> jax.Array:
        """Latent sequences ``(count, time, latent)`` from the prior, from either end of time."""
        return inference.sample_prior(self.parts(variables), key, count, time, reverse)
