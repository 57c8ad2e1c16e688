"""Models that compile in no time, for tests of training itself."""

from dataclasses import dataclass

import jax
import numpy as np
from jax import numpy as jnp

from jdmm import Modality, TrainSettings, series_from_arrays
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import unconstrain_sd
from jdmm.models.base import GradientModel
from jdmm.models.objectives import Loss

NUM_STEPS = 6


def waves(count: int, seed: int = 0):
    """Noisy sines of random phase, with gaps."""
    random = np.random.default_rng(seed)
    angle = np.arange(NUM_STEPS) + random.uniform(0, 6, (count, 1))
    x = np.sin(angle) + 0.1 * random.normal(size=(count, NUM_STEPS))
    x[0, 2] = np.nan
    return series_from_arrays({"x": x, "y": np.cos(angle)})


def settings(**changes) -> TrainSettings:
    """Three epochs of batches of four series, each validated."""
    fields = {"epochs": 3, "batch_size": 4, "warmup": 1 / 3, "validate_every": 1, **changes}
    return TrainSettings(**fields)


@dataclass(frozen=True)
class Toy(GradientModel):
    """Parts of a model without latent states, one number per modality as its variables."""

    modalities: tuple[Modality, ...] = (Modality("x"), Modality("y"))

    def init(self, key, series):
        del series
        keys = jax.random.split(key, len(self.modalities))
        return {
            m.name: jax.random.normal(own) for m, own in zip(self.modalities, keys, strict=True)
        }

    def posterior_mean(self, variables, series, key):
        del variables, key
        states = jnp.zeros((series.batch, series.num_steps, 1))
        return PosteriorPath(Moments(states, states), Moments(states, states), states)

    def posterior_samples(self, variables, series, key, count, scale=1.0):
        path = self.posterior_mean(variables, series, key)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), path)

    def emissions(self, variables, states):
        one = unconstrain_sd(jnp.ones_like(states))
        return {name: (jnp.full_like(states, value), one) for name, value in variables.items()}


@dataclass(frozen=True)
class Constant(Toy):
    """All values of a modality are the same number, plus unit noise.

    The loss is the squared error, with a little noise so that it depends on the key; with beta, the
    squares where values are shown, so that it depends on the deletions.
    """

    noise: float = 0.1

    def loss(self, variables, series, targets, key, progress=0.0):
        self.check(series)
        error, square = jnp.zeros(()), jnp.zeros(())
        for name, value in variables.items():
            noise = self.noise * jax.random.normal(key)
            residual = targets.values[name] - value - noise
            error += 0.5 * jnp.sum(jnp.where(targets.observed[name], residual**2, 0.0))
            square += jnp.sum(series.observed[name]) * value**2
        return Loss({"error_nll": error, "square": square}, jnp.sum(targets.valid))


@dataclass(frozen=True)
class Scripted(Toy):
    """Its one number grows, and its loss is NaN once the number exceeds a limit."""

    limit: float = 0.45

    def init(self, key, series):
        del key, series
        return {"x": jnp.zeros(())}

    def loss(self, variables, series, targets, key, progress=0.0):
        del series, key, progress
        number = variables["x"]
        value = jnp.where(number > self.limit, jnp.nan, -number)
        count = jnp.sum(targets.valid)
        return Loss({"fit_nll": value * count}, count)


@dataclass(frozen=True)
class Counts(Toy):
    """Its loss is the share of the steps of "y" that it is not shown."""

    def loss(self, variables, series, targets, key, progress=0.0):
        del key, progress
        hidden = jnp.sum(targets.observed["y"] & ~series.observed["y"])
        return Loss({"hidden_nll": hidden + 0 * variables["y"]}, jnp.sum(targets.valid))
