"""The multimodal deep Markov model: its networks, wired to inference and loss.

Tan, Soh & Ong, *Factorized Inference in Deep Markov Models for Incomplete Multimodal Time Series*,
AAAI 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.fields import check_section
from jdmm.inference import posterior
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import StateSpaceModel
from jdmm.inference.quadrature import Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import SD_FLOOR, Raw
from jdmm.models import objectives
from jdmm.models.base import (
    QUADRATURE_FIELDS,
    Config,
    GradientModel,
    Variables,
    check_multipliers,
    check_whole,
    fields_of,
    quadratures_of,
)
from jdmm.models.emission import (
    backgrounds_of,
    bind,
    evidence_of,
    init_decoders,
    init_encoders,
    make_decoder,
    make_encoder,
    raw_outputs,
)
from jdmm.models.grouping import NetworkGroups, modality_groups, updated_statistics
from jdmm.models.objectives import Loss, LossWeights
from jdmm.networks import GatedTransition
from jdmm.networks.backgrounds import Frames
from jdmm.networks.images import BATCH
from jdmm.series import Series

INFERENCE_FIELDS = {"covariance": str, **QUADRATURE_FIELDS}

OTHER_SECTIONS = ("quadrature", "prediction_quadrature", "weights", "covariance")
"""Fields of `MDMM` that the sections `inference` and `loss` of a configuration give."""


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
        self.encoders = {m.name: make_encoder(m, self.latent, self.hidden) for m in self.modalities}
        self.decoders = {m.name: make_decoder(m, self.hidden) for m in self.modalities}

    def prior(self) -> Moments:
        """The stationary prior p(z), ``(latent,)``."""
        return Moments(self.prior_mean, (jnp.exp(self.prior_log_sd) + SD_FLOOR) ** 2)

    def step_forward(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t-1}) / p(z_t)."""
        return self.forward_transition(state)

    def step_backward(self, state: jax.Array) -> Moments:
        """p(z_t | z_{t+1}) / p(z_t)."""
        return self.backward_transition(state)

    def __call__(self, series: Series) -> None:
        """Uses every parameter once, for `init`."""
        init_encoders(self.modalities, self.encoders, series, self.latent)
        init_decoders(self.modalities, self.decoders, self.latent)
        state = self.prior().mean
        self.step_forward(state)
        self.step_backward(state)


@dataclass(frozen=True)
class MDMM(GradientModel):
    """A multimodal deep Markov model with backward-forward variational inference (BFVI).

    Attributes:
        latent: D, dimensions of the state.
        hidden: H, units of each hidden layer of the default networks.
        quadrature: how moments are matched in training.
        prediction_quadrature: how they are matched in prediction.
        weights: of the terms of the training loss.
        covariance: of the messages between time steps: "diagonal" (as published), or "full", which
            keeps what the dimensions of the state have in common. The loss is the same.

    Raises:
        InputError: for values that make no model.
    """

    latent: int = 5
    hidden: int = 20
    quadrature: Quadrature = Quadrature()
    prediction_quadrature: Quadrature = Quadrature(particles=200)
    weights: LossWeights = field(default_factory=LossWeights)
    covariance: str = posterior.DIAGONAL
    samples_backward: ClassVar[bool] = True
    networks_per_modality: ClassVar[tuple[str, ...]] = ("encoders", "decoders")

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_whole("model.latent", self.latent, 1)
        check_whole("model.hidden", self.hidden, 1)
        if self.covariance not in posterior.COVARIANCES:
            known = ", ".join(map(repr, posterior.COVARIANCES))
            raise InputError(f"expected covariance among {known}, got {self.covariance!r}")
        for quadrature in (self.quadrature, self.prediction_quadrature):
            if self.covariance == posterior.FULL:
                quadrature.check_full(self.latent)
            else:
                quadrature.check_diagonal()
        for modality in self.modalities:
            make_encoder(modality, self.latent, self.hidden)
        check_multipliers(self.weights.multipliers, self.modalities)
        normalised = [m.name for m in self.modalities if m.image and m.image.normalisation == BATCH]
        if normalised and not self.weights.smoother and self.weights.filter_fade[0] < 1:
            raise InputError(
                "expected loss.smoother above 0, or loss.filter_fade of (1, 1), for batch "
                f"normalisation in modality {normalised[0]!r}: a bound that fades out keeps no "
                "running statistics"
            )

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Config) -> Self:
        """The model of the fields `model`, `inference` and `loss` of a configuration.

        Raises:
            InputError: for an unknown field or an impossible value.
        """
        how = check_section("inference", config.inference.to_dict(), INFERENCE_FIELDS)
        quadrature, prediction = quadratures_of(how)
        return cls(
            modalities,
            **fields_of(cls, "model", config.model, omit=OTHER_SECTIONS),
            quadrature=quadrature,
            prediction_quadrature=prediction,
            weights=LossWeights(**fields_of(LossWeights, "loss", config.loss.to_dict())),
            covariance=how["covariance"],
        )

    @property
    def networks(self) -> Networks:
        """The Flax module."""
        return Networks(self.modalities, self.latent, self.hidden)

    @property
    def for_validation(self) -> Self:
        """The model with no more points in prediction than in training."""
        return replace(self, prediction_quadrature=self.quadrature)

    def init(self, key: jax.Array, series: Series) -> Variables:
        """Fresh variables for series of this form.

        Raises:
            InputError: for series that disagree with the modalities, or a network whose outputs do
                not fit.
        """
        self.check(series)
        return self.networks.init(key, series)

    def state_space(self, variables: Variables) -> StateSpaceModel:
        """The model as pure functions, for the recursions of `jdmm.inference`."""
        return self._state_space(variables, *self._groups(variables))

    def _groups(
        self, variables: Variables, training: bool = False
    ) -> tuple[NetworkGroups, NetworkGroups]:
        """Encoders and decoders."""
        networks, groups = self.networks.bind(variables), modality_groups(self.modalities)
        encoders, decoders = (
            NetworkGroups(each, groups, training) for each in (networks.encoders, networks.decoders)
        )
        return encoders, decoders

    def _state_space(
        self,
        variables: Variables,
        encoders: NetworkGroups,
        decoders: NetworkGroups,
        backgrounds: Mapping[str, jax.Array | Frames] | None = None,
    ) -> StateSpaceModel:
        networks, method = self.networks.bind(variables), bind(self.networks, variables)

        def encode(series: Series) -> dict[str, Gaussian]:
            self.check(series)
            return evidence_of(encoders, series)

        return StateSpaceModel(
            prior=networks.prior(),
            forward=method(Networks.step_forward),
            backward=method(Networks.step_backward),
            encode=encode,
            decode=partial(raw_outputs, decoders, backgrounds=backgrounds),
            covariance=self.covariance,
        )

    def loss(
        self,
        variables: Variables,
        series: Series,
        targets: Series,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        training: bool = False,
    ) -> Loss:
        """Numerators and count of the training loss; see `objectives.mdmm_loss`."""
        encoders, decoders = self._groups(variables, training)
        backgrounds = backgrounds_of(self.modalities, series, scored=True)
        ssm, weights = self._state_space(variables, encoders, decoders, backgrounds), self.weights
        loss = objectives.mdmm_loss(
            ssm, self.likelihoods, series, targets, key, self.quadrature, weights, progress
        )
        if not training:
            return loss
        statistics = updated_statistics(variables, encoders=encoders, decoders=decoders)
        return loss._replace(statistics=statistics)

    def posterior_mean(self, variables: Variables, series: Series, key: jax.Array) -> PosteriorPath:
        """The recursion of conditional smoothing means, ``(batch, time, latent)``."""
        ssm = self.state_space(variables)
        return posterior.posterior_mean_path(ssm, series, key, self.prediction_quadrature)

    def posterior_samples(
        self, variables: Variables, series: Series, key: jax.Array, count: int, scale: Any = 1.0
    ) -> PosteriorPath:
        """Sample paths of the posterior, ``(count, batch, time, latent)``."""
        ssm, quadrature = self.state_space(variables), self.prediction_quadrature
        return posterior.posterior_sample_paths(ssm, series, key, quadrature, count, scale)

    def emissions(self, variables: Variables, states: jax.Array) -> dict[str, Raw]:
        """Raw likelihood outputs of every modality from states ``(..., latent)``."""
        return self.state_space(variables).decode(states)

    def emissions_of(
        self, variables: Variables, states: jax.Array, series: Series
    ) -> dict[str, Raw]:
        """`emissions`, with the background of images."""
        _, decoders = self._groups(variables)
        backgrounds = backgrounds_of(self.modalities, series)
        return raw_outputs(decoders, states, backgrounds=backgrounds)

    def _prior_samples(
        self, variables: Variables, key: jax.Array, series: Series, reverse: bool
    ) -> jax.Array:
        """Ancestral samples from either end of time."""
        ssm = self.state_space(variables)
        return posterior.prior_sample_paths(ssm, key, series.batch, series.num_steps, reverse)
