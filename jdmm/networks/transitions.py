"""Transitions of the latent state, ``(latent, *states)`` -> moments of the next."""

from typing import Any

import jax
from flax import linen as nn
from flax.linen.initializers import lecun_normal
from jax import numpy as jnp

from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import constrain_sd, unconstrain_sd
from jdmm.networks.dense import StateDense


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
    """An initializer."""
    del key
    return jnp.eye(*shape, dtype=dtype)


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
        start = _identity if self.identity else lecun_normal()
        linear = StateDense(self.latent, start, name="linear")(z)
        sd = constrain_sd(StateDense(self.latent, name="sd")(nonlinear))
        return Moments(linear + nn.sigmoid(gate) * (nonlinear - linear), sd**2)


class ProductTransition(nn.Module):
    """z -> N(A z + b + C (tanh(U z + c) * (V z + d)), sd^2), near the identity at the start.

    With inputs u, the linear maps A, U and V take z and u.

    The hidden units are products, so that a part of the state can be a parameter of the dynamics of
    the others, such as a frequency; layers of sums need many more units for that. They grow no
    faster than the state does. The sd of each dimension is a constant.

    Attributes:
        latent: D.
        hidden: H.
        sd: the first sd of every dimension.
    """

    latent: int
    hidden: int
    sd: float = 0.1

    @nn.compact
    def __call__(self, z: jax.Array, inputs: jax.Array | None = None) -> Moments:
        """Moments ``(latent, *states)`` given states ``(latent, *states)``.

        Args:
            z: the states.
            inputs: of the next step, ``(input, *states)``, if there are any.
        """
        given = z if inputs is None else jnp.concatenate([z, inputs])
        gate = jnp.tanh(StateDense(self.hidden, name="gate")(given))
        products = gate * StateDense(self.hidden, name="value")(given)
        small = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
        change = StateDense(self.latent, small, name="change")(products)
        linear = StateDense(self.latent, _identity, name="linear")(given)
        start = nn.initializers.constant(unconstrain_sd(jnp.array(self.sd)))
        raw_sd = self.param("sd", start, (self.latent,))
        variance = constrain_sd(raw_sd).reshape(-1, *(1,) * (z.ndim - 1)) ** 2
        return Moments(linear + change, jnp.broadcast_to(variance, z.shape))
