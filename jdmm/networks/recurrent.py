"""Recurrent networks."""

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.networks.dense import StateDense


class GRU(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) over states ``(units, n)``.

    The contribution of the inputs to the gates can be computed for all steps at once. `nn.GRUCell`
    computes both contributions in every step, with features last.
    """

    units: int

    def setup(self) -> None:
        """Makes the layers, each for the reset gate, the update gate and the candidate."""
        self.of_inputs = StateDense(3 * self.units)
        self.of_state = StateDense(3 * self.units)

    def gates(self, inputs: jax.Array) -> jax.Array:
        """``(3 * units, *)`` from inputs ``(feature, *)``."""
        return self.of_inputs(inputs)

    def __call__(self, state: jax.Array, gates: jax.Array) -> jax.Array:
        """The next state ``(units, n)``."""
        ours, theirs = (jnp.split(part, 3) for part in (self.of_state(state), gates))
        reset, update = (nn.sigmoid(a + b) for a, b in zip(ours[:2], theirs[:2], strict=True))
        candidate = jnp.tanh(theirs[2] + reset * ours[2])
        return candidate + update * (state - candidate)
