"""Features of different kinds in one modality."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.likelihoods.base import Likelihood, Raw


@dataclass(frozen=True)
class Mixed(Likelihood):
    """One likelihood per feature: ``Mixed((Normal(), Poisson(), Bernoulli()))``.

    There are as many raw outputs as the part with the most needs; a part ignores the others. Once
    rescaled, the scale is a further raw array.

    Attributes:
        parts: the likelihoods of the features, in order.

    Raises:
        InputError: for no parts, or a part that is none, has an extra axis of classes, or is
            `Mixed` itself.
    """

    parts: tuple[Likelihood, ...]
    support = "values that the likelihood of their feature allows"

    def __post_init__(self) -> None:
        """Checks the parts."""
        if not isinstance(self.parts, tuple | list) or not self.parts:
            raise InputError(
                "expected Mixed of a tuple of likelihoods, such as Mixed((Normal(), Poisson())), "
                f"got {self.parts!r}"
            )
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            if not isinstance(part, Likelihood):
                raise InputError(f"expected a likelihood as each part of Mixed, got {part!r}")
            if isinstance(part, Mixed) or part.classes is not None:
                raise InputError(
                    f"expected parts of Mixed with one number per feature, got {part}: make it a "
                    "modality of its own"
                )

    @property
    def outputs(self) -> int:
        """Those of the part with the most."""
        return max(part.outputs for part in self.parts)

    @property
    def spreads(self) -> tuple[int, ...]:
        """The outputs that give the width of every part that has them."""
        return tuple(
            i
            for i in range(self.outputs)
            if all(i in part.spreads for part in self.parts if i < part.outputs)
        )

    @property
    def has_moments(self) -> bool:
        """Whether all parts have."""
        return all(part.has_moments for part in self.parts)

    @property
    def _features(self) -> dict[Likelihood, np.ndarray]:
        """Part -> its features: equal ones are computed at once."""
        return {
            part: np.array([i for i, other in enumerate(self.parts) if other == part])
            for part in self.parts
        }

    def _own(self, part: Likelihood, features: np.ndarray, raw: Raw) -> Raw:
        """The raw arrays of the features of a part."""
        own = tuple(leaf[..., features] for leaf in raw[: part.outputs])
        if len(raw) == self.outputs:
            return own
        return part.rescale(own, raw[self.outputs][..., features])

    def _join(self, each: Callable[[Likelihood, np.ndarray], Any]) -> Any:
        """Puts what `each` gives of every part and its features in the order of the features."""
        found = [each(part, features) for part, features in self._features.items()]
        order = np.argsort(np.concatenate([*self._features.values()]))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1)[..., order], *found)

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each of `values` ``(..., feature)`` is in the support of its part."""
        found = np.zeros(values.shape, bool)
        for part, features in self._features.items():
            found[..., features] = part.in_support(values[..., features])
        return found

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density or mass of each feature, in nats."""
        return self._join(lambda p, own: p.log_prob(self._own(p, own, raw), value[..., own]))

    def mean(self, raw: Raw) -> jax.Array:
        """The mean of each feature."""
        return self._join(lambda p, own: p.mean(self._own(p, own, raw)))

    def inputs(self, value: jax.Array) -> jax.Array:
        """The inputs of each feature."""
        return self._join(lambda p, own: p.inputs(value[..., own]))

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function of each feature."""
        return self._join(lambda p, own: p.cdf(self._own(p, own, raw), value[..., own]))

    def _quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        return self._join(lambda p, own: p.quantile(self._own(p, own, raw), level))

    def statistics(self, value: jax.Array) -> jax.Array:
        """The statistic of each feature."""
        return self._join(lambda p, own: p.statistics(value[..., own]))

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Conditional mean and variance of the statistic of each feature."""
        return self._join(lambda p, own: p.moments(self._own(p, own, raw)))

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample of each feature."""
        return self._join(
            lambda p, own: p.sample(self._own(p, own, raw), jax.random.fold_in(key, int(own[0])))
        )

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The raw outputs and the scale of every feature, as each part rescales."""
        before = jnp.ones_like(raw[0]) if len(raw) == self.outputs else raw[self.outputs]
        return (*raw[: self.outputs], scale * before)
