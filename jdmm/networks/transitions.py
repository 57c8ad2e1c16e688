"""Transitions of the latent state."""

import jax
from flax import linen as nn
from flax.linen.initializers import lecun_normal
from jax import numpy as jnp

from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import constrain_sd
from jdmm.networks.dense import StateDense


class GatedTransition(nn.Module):
    """z -> N(mean, sd^2); a gate mixes a linear and a nonlinear mean.

    As a quotient of densities it is p(z' | z) / p(z'), an expert that multiplies the prior.

    Attributes:
        latent: D.
        hidden: H.
        identity: whether the mean starts near the state itself, with the identity as linear part
            (Krishnan et al. 2017) and the gate almost closed.
    """

    latent: int
    hidden: int
    identity: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> Moments:
        """Moments ``(latent, *states)`` given states ``(latent, *states)``."""
        hidden = nn.relu(StateDense(2 * self.hidden, name="hidden_layers")(z))
        closed = -2.0 if self.identity else 0.0
        gate = StateDense(self.latent, bias_start=closed, name="gate")(hidden[: self.hidden])
        nonlinear = StateDense(self.latent, name="nonlinear")(hidden[self.hidden :])
        start = (lambda _, shape: jnp.eye(*shape)) if self.identity else lecun_normal()
        linear = StateDense(self.latent, start, name="linear")(z)
        sd = constrain_sd(StateDense(self.latent, name="sd")(nonlinear))
        return Moments(linear + nn.sigmoid(gate) * (nonlinear - linear), sd**2)
