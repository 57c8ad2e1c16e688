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
    """Starts of a layer of rectified units, and of those behind it, that hand an input on.

    The first `count` units start as the first `count` inputs z, as many as -z: their difference is
    z. The other units start without z, at random. The second start is ``share -> start`` of a
    layer of which as many outputs are `share` times z, beside what the other units give.
    """

    def into(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        kernel = lecun_normal()(key, shape, dtype).at[:, : 2 * count].set(0).at[:count].set(0)
        same = jnp.eye(count, dtype=dtype)
        return kernel.at[:count, : 2 * count].set(jnp.concatenate([same, -same], 1))

    def out(share: float) -> Initializer:
        def start(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
            same = share * jnp.eye(count, shape[1], dtype=dtype)
            own = jnp.concatenate([same, -same])
            return lecun_normal()(key, shape, dtype).at[: 2 * count].set(own)

        return start

    return into, out
