"""The Flax modules of `SigmaPointSSM`, wired to its modalities."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.inference.residual import Autoregression
from jdmm.inference.square_root import FullMoments
from jdmm.likelihoods import SD_FLOOR, Normal, constrain_sd
from jdmm.models.emission import init_decoders, init_encoders, make_decoder, make_encoder
from jdmm.networks import HomoscedasticDecoder, ProductTransition
from jdmm.networks.dense import StateDense
from jdmm.series import Series

LINEAR, MLP = "linear", "mlp"
EMISSIONS = (LINEAR, MLP)

DECAY_LOGIT = 2.0
"""Of the residuals at first: a correlation of 0.88 between successive steps."""

RESIDUAL_SD = 0.0
"""Unconstrained sd of the residuals at first, as of the emissions."""


def has_residual(modality: Modality, encoded: Sequence[str]) -> bool:
    """Whether the features of a modality have residuals: normal ones that are not encoded."""
    normal = isinstance(modality.likelihood, Normal) and modality.name not in encoded
    return normal and modality.residual


class Networks(nn.Module):
    """Everything learned: initial distribution, transition, decoders, and encoders if any."""

    modalities: tuple[Modality, ...]
    encoded: tuple[str, ...]
    latent: int
    hidden: int
    emission: str
    own_transition: nn.Module | None
    residual: bool = False
    inputs: int = 0

    def setup(self) -> None:
        """Makes the submodules."""
        self.initial_mean = self.param("initial_mean", nn.initializers.zeros, (self.latent,))
        self.initial_log_sd = self.param("initial_log_sd", nn.initializers.zeros, (self.latent,))
        if self.inputs:
            self.initial_inputs = StateDense(self.latent, nn.initializers.zeros)
        self.transition = self.own_transition or ProductTransition(self.latent, self.hidden)
        self.encoders = {
            m.name: make_encoder(m, self.latent, self.hidden)
            for m in self.modalities
            if m.name in self.encoded
        }
        hidden = self.hidden if self.emission == MLP else 0
        self.decoders = {
            m.name: make_decoder(m, hidden)
            if m.decoder or m.image
            else HomoscedasticDecoder(m.features, m.likelihood, hidden)
            for m in self.modalities
        }

        remembering = self.modalities if self.residual else ()
        self.residual_decay, self.residual_sd = (
            {
                m.name: self.param(
                    f"residual_{name}_{m.name}", nn.initializers.constant(start), (m.features,)
                )
                for m in remembering
                if has_residual(m, self.encoded)
            }
            for name, start in (("decay", DECAY_LOGIT), ("sd", RESIDUAL_SD))
        )

    def residuals(self) -> dict[str, Autoregression]:
        """Modality -> the residuals of its features, for those that have some."""
        return {
            name: Autoregression(
                nn.sigmoid(self.residual_decay[name])[:, None],
                constrain_sd(self.residual_sd[name])[:, None] ** 2,
            )
            for name in self.residual_decay
        }

    def initial(self, inputs: jax.Array | None = None) -> FullMoments:
        """p(z_1), ``(latent, n)`` given the inputs ``(input, n)`` of the first step, else n = 1."""
        sd = jnp.exp(self.initial_log_sd) + SD_FLOOR
        mean = self.initial_mean[:, None]
        if inputs is not None:
            mean += self.initial_inputs(inputs)
        return FullMoments(mean, jnp.diag(sd)[:, :, None])

    def step_forward(self, state: jax.Array, inputs: jax.Array | None = None) -> Moments:
        """p(z_{t+1} | z_t) of states ``(latent, *states)``, given the inputs of step t + 1."""
        return self.transition(state) if inputs is None else self.transition(state, inputs)

    def __call__(self, series: Series) -> None:
        """Uses every parameter once, for `init`."""
        encoded = [m for m in self.modalities if m.name in self.encoded]
        init_encoders(encoded, self.encoders, series, self.latent)
        init_decoders(self.modalities, self.decoders, self.latent)
        inputs = jnp.zeros((self.inputs, 1)) if self.inputs else None
        self.initial(inputs)
        check_transition(self.step_forward(jnp.zeros((self.latent, 1)), inputs), self.latent)


def check_transition(reached: Any, latent: int) -> None:
    """Checks what a transition returns for states ``(latent, 1)``.

    Raises:
        InputError: if that is no mean and variance of the next state.
    """
    if not isinstance(reached, Moments):
        raise InputError(
            "expected a Gaussian transition, which returns Moments(mean, variance) of the next "
            f"states, got {type(reached).__name__}"
        )
    for name, leaf in zip(Moments._fields, reached, strict=True):
        if leaf.shape != (latent, 1):
            raise InputError(
                f"expected the transition to return a {name} of shape {(latent, 1)} for states "
                f"{(latent, 1)}, got {leaf.shape}"
            )
