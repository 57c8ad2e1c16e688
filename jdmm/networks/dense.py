"""Dense layers over states with the latent axis first."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.linen.initializers import lecun_normal
from flax.typing import Initializer
from jax import numpy as jnp


class StateDense(nn.Module):
    """A dense layer over the first axis: ``(latent, *states)`` -> ``(units, *states)``.

    With the long axis last, XLA's small matrix products on the CPU run several times faster than
    `nn.Dense` with the features last, and so does everything elementwise that follows.

    Attributes:
        units: number of outputs.
        kernel_start: initializer of the kernel.
        bias_start: initial value of all biases.
    """

    units: int
    kernel_start: Initializer = lecun_normal()
    bias_start: float = 0.0

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """``kernel^T z + bias``."""
        kernel = self.param("kernel", self.kernel_start, (z.shape[0], self.units))
        bias = self.param("bias", nn.initializers.constant(self.bias_start), (self.units,))
        return jnp.tensordot(kernel, z, (0, 0)) + bias.reshape(-1, *(1,) * (z.ndim - 1))


def passthrough_initializers(count: int) -> tuple[Initializer, Callable[[float], Initializer]]:
    """Initializers of two layers, with a ReLU between them, that pass the first inputs through.

    The first `count` hidden units are the first `count` inputs z, the next `count` are -z; after
    the ReLU their difference is z. The other hidden units are independent of z and random.

    Args:
        count: number of inputs that pass through.

    Returns:
        The initializer of the first kernel, and a function ``share -> initializer`` of the second
        one, whose first outputs start as ``share * z`` plus a random function of the other units.
    """

    def first(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        kernel = lecun_normal()(key, shape, dtype).at[:, : 2 * count].set(0).at[:count].set(0)
        same = jnp.eye(count, dtype=dtype)
        return kernel.at[:count, : 2 * count].set(jnp.concatenate([same, -same], 1))

    def second(share: float) -> Initializer:
        def initializer(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
            same = share * jnp.eye(count, shape[1], dtype=dtype)
            own = jnp.concatenate([same, -same])
            return lecun_normal()(key, shape, dtype).at[: 2 * count].set(own)

        return initializer

    return first, second
