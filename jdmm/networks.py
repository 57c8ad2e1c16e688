"""Flax networks: encoders, decoders and the gated transition of Tan et al. 2020.

Encoders and decoders take batched arrays ``(..., feature)`` and ``(..., latent)``. A transition
takes states with the latent axis first, ``(latent, *states)``, as the recursions hold them.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.linen.initializers import lecun_normal
from flax.typing import Initializer
from jax import numpy as jnp

from jdmm.gaussian import Moments
from jdmm.likelihoods import Likelihood, Raw, positive


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


def handing_on(count: int) -> tuple[Initializer, Callable[[float], Initializer]]:
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


class GatedTransition(nn.Module):
    """z -> N(mean, sd^2): a gate mixes a linear and a nonlinear guess.

    As a quotient of densities it is p(z' | z) / p(z'), an expert to be multiplied by the prior.

    Attributes:
        latent: D.
        hidden: H.
        identity: whether the mean starts near the state itself: the linear guess as the identity
            (Krishnan et al. 2017), the gate almost closed.
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
        sd = positive(StateDense(self.latent, name="sd")(nonlinear))
        return Moments(linear + nn.sigmoid(gate) * (nonlinear - linear), sd**2)


class GRU(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) over states ``(units, n)``.

    What the inputs give to its gates can be worked out for all steps at once; `nn.GRUCell` does
    both in every step, with features last.
    """

    units: int

    def setup(self) -> None:
        """Makes the layers of the reset gate, the update gate and the candidate."""
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


class MLPEncoder(nn.Module):
    """One modality's evidence p(z | x) / p(z) from a hidden layer; missing features are told apart.

    With more than one feature the mask is a further input, since a 0 may be a value or a gap.
    """

    latent: int
    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array | None = None) -> Moments:
        """Moments ``(..., latent)`` from values and mask ``(..., feature)``."""
        if observed is not None and values.shape[-1] > 1:
            values = jnp.concatenate([values, observed.astype(values.dtype)], -1)
        inner = nn.relu(nn.Dense(self.hidden, name="hidden_layer")(values))
        mean = nn.Dense(self.latent, name="mean")(inner)
        return Moments(mean, positive(nn.Dense(self.latent, name="sd")(inner)) ** 2)


class LabelEncoder(nn.Module):
    """Evidence from one category: relu(embedding), then the MLP."""

    classes: int
    latent: int
    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array) -> Moments:
        """Moments ``(..., latent)`` from labels ``(..., 1)``."""
        del observed  # a label is one feature: where it is missing the evidence is masked
        label = values[..., 0].astype(jnp.int32)
        embedded = nn.relu(nn.Embed(self.classes, self.hidden, name="embedding")(label))
        mlp = MLPEncoder(self.latent, self.hidden, name="mlp")
        return mlp(embedded)


class MLPDecoder(nn.Module):
    """z -> the raw outputs of a likelihood, from one hidden layer shared by them."""

    features: int
    likelihood: Likelihood
    hidden: int

    @nn.compact
    def __call__(self, z: jax.Array) -> Raw:
        """Raw arrays ``(..., feature)`` or ``(..., feature, classes)`` from ``(..., latent)``."""
        classes = self.likelihood.classes
        shape = (self.features,) if classes is None else (self.features, classes)
        inner = nn.relu(nn.Dense(self.hidden, name="hidden_layer")(z))
        return tuple(
            nn.DenseGeneral(shape, name=f"output_{i}")(inner)
            for i in range(self.likelihood.outputs)
        )
