"""Gaussian filters with full covariance over whole series, and their likelihood.

The state is N(m, L L') at every step. The filter updates it by the conditional moments of what is
observed (or by Gaussian factors of encoders) and predicts through the transition, both by
quadrature. For linear Gaussian models it is the Kalman filter.

Arrays of a recursion are ``(time, latent, n)`` and ``(time, latent, latent, n)``: time first for
the scan, series last for the steps of `square_root`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.inference import affine, residual, square_root
from jdmm.inference.affine import AffineFeatures
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.residual import Autoregression
from jdmm.inference.square_root import Affine, FullMoments, Function, StepPoints
from jdmm.series import Array

TOLERANCE = 1e-3
"""By how much of itself rounding may raise a log-likelihood beyond its limit."""


MAX_GRADIENT = 1e6
"""Largest derivative of a log-likelihood by a predicted mean or root, in nats.

Through a transition that expands, derivatives grow from step to step until they overflow. Those of
a model that is any good stay far below.
"""


LARGEST_STATE = 1e6
"""Bound on predicted means and roots.

Where nothing is observed, also behind the end of a series, a transition that expands takes them
beyond all numbers. Those of a model that is any good stay far below.
"""


@dataclass(frozen=True)
class FullModel:
    """A state space model as pure functions, its variables bound.

    Attributes:
        initial: p(z_1), ``(latent, 1)``, or ``(latent, n)`` with inputs, and a root
            ``(latent, latent, 1)``.
        transition: states ``(latent, n)`` -> moments of p(z' | z), ``(latent, n)``. With inputs it
            takes those of the next step, ``(input, n)``, as a second argument.
        emission: states ``(latent, n)`` -> conditional moments of the features, ``(feature, n)``.
            There may be none.
        residual: of the features, beside the state; None for none.
        inputs: of the n series that the model is used for, ``(time, input, n)``; None without.
            Those of step t drive the transition from step t - 1 to step t.
    """

    initial: FullMoments
    transition: Callable[..., Moments]
    emission: Function
    residual: Autoregression | None = None
    inputs: Float[Array, "time input n"] | None = None

    @property
    def latent(self) -> int:
        """Dimensions of the state."""
        return self.initial.mean.shape[0]

    @property
    def next_inputs(self) -> Float[Array, "time input n"] | None:
        """At each step the inputs of the next one; the last ones are of no use."""
        return None if self.inputs is None else jnp.roll(self.inputs, -1, 0)

    def transition_to(self, inputs: Float[Array, "input n"] | None) -> Function:
        """The transition of states ``(latent, point * n)`` to a step with these inputs."""
        if inputs is None:
            return self.transition

        def driven(states: jax.Array) -> Moments:
            count = states.shape[1] // inputs.shape[1]
            return self.transition(states, jnp.tile(inputs, (1, count)))

        return driven


class Evidence(NamedTuple):
    """What is observed of a step, or of all steps with the time in front.

    value: features, 0 where not observed, ``(feature, n)``.
    observed: mask, ``(feature, n)``.
    factor: Gaussian factors of the state from encoders, (0, 0) where missing, ``(latent, n)``;
        None without encoders.
    """

    value: Float[Array, "*time feature n"]
    observed: Bool[Array, "*time feature n"]
    factor: Gaussian | None = None


class FilterState(NamedTuple):
    """What a filter carries from step to step.

    states: p(z_t | x_{1:t-1}), ``(latent, n)`` and ``(latent, latent, n)``.
    residual: of the features, ``(feature, n)``; None without residuals.
    """

    states: FullMoments
    residual: Moments | None = None


class FilteredStates(NamedTuple):
    """Fields with the time in front.

    filtered: p(z_t | x_{1:t}), ``(time, latent, n)`` and ``(time, latent, latent, n)``.
    log_likelihood: log p(x_t | x_{1:t-1}) in nats, ``(time, n)``.
    kl: KL(p(z_t | x_{1:t}) || p(z_t | x_{1:t-1})) in nats, ``(time, n)``, and that of the
        residuals.
    broken: whether the log-likelihood is not finite, or larger than the noise of the emissions
        allows, ``(time, n)``: a covariance has lost its positive definiteness.
    residual: the same of the residuals as of the states, ``(time, feature, n)``; None without.
    """

    filtered: FullMoments
    log_likelihood: Float[Array, "time n"]
    kl: Float[Array, "time n"]
    broken: Bool[Array, "time n"]
    residual: Moments | None = None


class Linearised(NamedTuple):
    """A model linear in the state at each step, with the time in front.

    transition: from step t to t + 1.
    emission: of step t.
    """

    transition: Affine
    emission: Affine | AffineFeatures


def update_step(
    model: FullModel, predicted: FilterState, evidence: Evidence, points: StepPoints
) -> tuple[FilterState, square_root.Update]:
    """p(z_t | x_{1:t-1}) -> p(z_t | x_{1:t}), for streaming; start from `initial_states`.

    Args:
        model: the model.
        predicted: ``(latent, n)``.
        evidence: of this step.
        points: of the quadrature; see `step_points`.
    """
    emission, own = model.emission, predicted.residual
    if own is not None:
        emission = _with_residual(emission, own)
    change = square_root.update(
        emission, predicted.states, points, evidence.value, evidence.observed
    )
    states, change = _with_factor(predicted.states, change, evidence)
    if own is None:
        return FilterState(states), change
    found = square_root.evaluate(model.emission, states, points)
    told = Moments(found.mean, jnp.sum(found.deviations**2, 1))
    own = residual.update(own, told, found.variance, evidence.value, evidence.observed)
    return FilterState(states, own), change


def predict_step(
    model: FullModel,
    filtered: FilterState,
    points: StepPoints,
    inputs: Float[Array, "input n"] | None = None,
) -> FilterState:
    """p(z_t | x_{1:t}) -> p(z_{t+1} | x_{1:t}), for streaming; inputs are those of step t + 1."""
    states = square_root.predict(model.transition_to(inputs), filtered.states, points)
    return FilterState(_bounded(states), _predict_residual(model.residual, filtered))


def full_filter(model: FullModel, evidence: Evidence, points: Points) -> FilteredStates:
    """The filter from the first step to the last.

    Args:
        model: the model.
        evidence: of all steps, time in front.
        points: of the quadrature.
    """
    start = initial_states(model, evidence)
    shared = points.offsets.shape[0] == 1

    def _step(predicted, given):
        """p(z_t | x_{1:t-1}) -> p(z_{t+1} | x_{1:t})."""
        own, offsets, next_inputs = given
        predicted = _bound_gradient(predicted)
        step = StepPoints(points.offsets[0] if shared else offsets, points.weights)
        filtered, change = update_step(model, predicted, own, step)
        following = predict_step(model, filtered, step, next_inputs)
        return following, _filtered(predicted, filtered, change)

    # rematerialised: saving the points of every step takes many times the memory
    _, found = jax.lax.scan(
        jax.checkpoint(_step),
        start,
        (evidence, None if shared else points.offsets, model.next_inputs),
    )
    return found


def linear_filter(
    start: FilterState, model: Linearised, evidence: Evidence, own: Autoregression | None = None
) -> FilteredStates:
    """The Kalman filter of a model that is linear at each step.

    Args:
        start: p(z_1), ``(latent, n)``, and of the residuals, if any.
        model: with a transition for every step; that of the last step is not used.
        evidence: of all steps, time in front.
        own: the residuals of the features.
    """

    def _step(predicted, inputs):
        """p(z_t | x_{1:t-1}) -> p(z_{t+1} | x_{1:t})."""
        given, here = inputs
        emission, before = here.emission, predicted.residual
        if before is not None:
            emission = affine.with_residual(emission, before)
        change = affine.update(emission, predicted.states, given.value, given.observed)
        filtered, change = _with_factor(predicted.states, change, given)
        after = None
        if before is not None:
            told, noise = affine.told(here.emission, filtered)
            after = residual.update(before, told, noise, given.value, given.observed)
        following = FilterState(
            _bounded(affine.predict(here.transition, filtered)),
            _predict_residual(own, FilterState(filtered, after)),
        )
        return following, _filtered(predicted, FilterState(filtered, after), change)

    return jax.lax.scan(_step, start, (evidence, model))[1]


def initial_states(model: FullModel, evidence: Evidence) -> FilterState:
    """p(z_1) of every series, ``(latent, n)``, and of the residuals, if any."""
    n = evidence.value.shape[-1]
    states = FullMoments(*(jnp.broadcast_to(leaf, (*leaf.shape[:-1], n)) for leaf in model.initial))
    return FilterState(states, None if model.residual is None else model.residual.initial(n))


def _with_residual(emission: Function, own: Moments) -> Function:
    """The emission with the predicted residuals in it, at states ``(latent, point * n)``."""

    def shifted(states: jax.Array) -> Moments:
        told = emission(states)
        count = told.mean.shape[1] // own.mean.shape[1]
        mean, variance = (jnp.tile(leaf, (1, count)) for leaf in own)
        return Moments(told.mean + mean, told.variance + variance)

    return shifted


def _predict_residual(own: Autoregression | None, filtered: FilterState) -> Moments | None:
    if own is None or filtered.residual is None:
        return None
    return own.predict(filtered.residual)


def _bounded(states: FullMoments) -> FullMoments:
    return FullMoments(*(jnp.clip(leaf, -LARGEST_STATE, LARGEST_STATE) for leaf in states))


@jax.custom_vjp
def _bound_gradient(states: FilterState) -> FilterState:
    """The states themselves; their gradient is clipped to `MAX_GRADIENT`."""
    return states


def _bound_gradient_backward(_: None, gradient: FilterState) -> tuple[FilterState]:
    return (jax.tree.map(lambda leaf: jnp.clip(leaf, -MAX_GRADIENT, MAX_GRADIENT), gradient),)


_bound_gradient.defvjp(lambda states: (states, None), _bound_gradient_backward)


def _filtered(
    predicted: FilterState, filtered: FilterState, change: square_root.Update
) -> FilteredStates:
    most = change.limit + TOLERANCE * (1.0 + jnp.abs(change.limit))
    broken = ~(change.log_likelihood <= most)
    kl = change.kl
    if predicted.residual is not None and filtered.residual is not None:
        kl += residual.kl(filtered.residual, predicted.residual)
    return FilteredStates(filtered.states, change.log_likelihood, kl, broken, filtered.residual)


def _with_factor(
    predicted: FullMoments, change: square_root.Update, evidence: Evidence
) -> tuple[FullMoments, square_root.Update]:
    filtered = square_root.updated(predicted, change)
    if evidence.factor is None:
        return filtered, change
    further = square_root.update_factor(filtered, evidence.factor)
    return square_root.updated(filtered, further), square_root.then(change, further)
