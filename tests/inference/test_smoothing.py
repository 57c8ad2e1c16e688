"""Smoothers against the exact joint Gaussian."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import (
    CHAINS,
    PRESENT,
    apply_gated,
    check_gradient,
    conditionals,
    draw_evidence,
    gated_parameters,
    joint,
    log_evidence,
    log_normal,
    marginals,
)

from jdmm.inference import gaussian
from jdmm.inference.filtering import backward_filter, particles, sigma_points
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.smoothing import conditional_smoother, marginal_smoother

pytestmark = pytest.mark.usefixtures("x64")

CASES = pytest.mark.parametrize("case", PRESENT)
LATENTS = pytest.mark.parametrize("latent", [1, 3])

smooth_conditionally = jax.jit(conditional_smoother, static_argnums=0)
smooth_marginally = jax.jit(marginal_smoother, static_argnums=0)


def exact_filtered(chain, evidence: Gaussian) -> Moments:
    """f_t from the oracle, ``(1, time, latent)``: no error of the library's filter enters."""
    return batched(marginals(chain, evidence, "present and future"))


def batched(moments: Moments, rows: int = 1) -> Moments:
    return Moments(*(np.stack([leaf] * rows) for leaf in moments))


def close(found: Moments, expected: Moments, tolerance: float = 1e-6) -> None:
    for name in Moments._fields:
        np.testing.assert_allclose(
            getattr(found, name)[0], getattr(expected, name), tolerance, tolerance, err_msg=name
        )


def draw_noise(time: int, latent: int, series: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(time, latent, series))


@CASES
@LATENTS
def test_conditional_posteriors_are_exact_given_the_states_drawn(latent, case):
    """q(z_t | z_{t-1}, x_{t:T}) by conditioning the dense joint on the state drawn before."""
    chain, evidence = CHAINS[latent], draw_evidence(0, PRESENT[case], latent)
    noise = draw_noise(len(PRESENT[case]), latent)
    found = smooth_conditionally(
        chain.transition, chain.prior, exact_filtered(chain, evidence), noise
    )
    states = np.array(found.states)[0]
    close(found.posterior, conditionals(chain, evidence, states))
    expected = found.posterior.mean[0] + np.sqrt(found.posterior.variance[0]) * noise[..., 0]
    np.testing.assert_allclose(states, expected)


@CASES
@LATENTS
def test_the_conditional_prior_is_the_kernel(latent, case):
    """p(z_t | z_{t-1}) at the states drawn, p(z_1) at the first step."""
    chain, evidence = CHAINS[latent], draw_evidence(0, PRESENT[case], latent)
    noise = draw_noise(len(PRESENT[case]), latent)
    found = smooth_conditionally(
        chain.transition, chain.prior, exact_filtered(chain, evidence), noise
    )
    kernel = chain.kernel(np.array(found.states)[0, :-1])
    first = (leaf[None] for leaf in chain.prior)
    close(found.prior, Moments(*(np.concatenate(pair) for pair in zip(first, kernel, strict=True))))


@CASES
@LATENTS
def test_without_noise_the_states_are_the_exact_posterior_means(latent, case):
    """The MAP sequence of a joint Gaussian is its mean."""
    chain, evidence = CHAINS[latent], draw_evidence(1, PRESENT[case], latent)
    noise = np.zeros((len(PRESENT[case]), latent, 1))
    found = smooth_conditionally(
        chain.transition, chain.prior, exact_filtered(chain, evidence), noise
    )
    np.testing.assert_allclose(found.states[0].T, joint(chain, evidence)[0], 1e-6, 1e-6)


@CASES
def test_every_chain_gives_the_log_evidence(case):
    """log p(z) + log p(x | z) - log q(z | x) is log p(x) whatever z, if q is the exact posterior.

    So the fields of one chain fit together, and an ELBO made of them is tight.
    """
    chain, evidence = CHAINS[3], draw_evidence(2, PRESENT[case], 3)
    rows = 4
    found = smooth_conditionally(
        chain.transition,
        chain.prior,
        batched(marginals(chain, evidence, "present and future"), rows),
        draw_noise(len(PRESENT[case]), 3, rows),
    )
    z = np.array(found.states)
    terms = log_normal(z, *found.prior) - log_normal(z, *found.posterior)
    terms += evidence.weighted_mean * z - evidence.precision * z**2 / 2
    np.testing.assert_allclose(terms.sum((1, 2)), log_evidence(chain, evidence), atol=1e-8)


@pytest.mark.parametrize("case", ["nothing missing", "stretch missing", "everything missing"])
def test_chains_are_draws_from_the_exact_posterior(case):
    """Mean, variance and covariances over time of 20000 chains within 5 standard errors."""
    chain, evidence, count = CHAINS[3], draw_evidence(3, PRESENT[case], 3), 20_000
    time = len(PRESENT[case])
    noise = np.asarray(jax.random.normal(jax.random.key(0), (time, 3, count)))
    filtered = batched(marginals(chain, evidence, "present and future"), count)
    states = np.array(smooth_conditionally(chain.transition, chain.prior, filtered, noise).states)
    for d, (mean, covariance) in enumerate(zip(*joint(chain, evidence), strict=True)):
        variance = np.diag(covariance)
        centred = states[..., d] - mean
        assert (np.abs(centred.mean(0)) < 5 * np.sqrt(variance / count)).all()
        error = np.sqrt((np.outer(variance, variance) + covariance**2) / count)
        assert (np.abs(centred.T @ centred / count - covariance) < 5 * error).all()


@CASES
@LATENTS
def test_marginals_are_exact_with_sigma_points(latent, case):
    """q(z_t | x_{1:T}) by dense inversion."""
    chain, evidence = CHAINS[latent], draw_evidence(4, PRESENT[case], latent)
    found = smooth_marginally(
        chain.transition, chain.prior, exact_filtered(chain, evidence), sigma_points(latent)
    )
    close(found, marginals(chain, evidence, "all"))


def test_marginals_with_random_particles():
    """Within 5 standard errors of the exact ones, estimated over 40 series."""
    chain, evidence, rows = CHAINS[3], draw_evidence(5, [1, 0, 1, 1], 3), 40
    filtered = batched(marginals(chain, evidence, "present and future"), rows)
    draw = jax.jit(particles, static_argnums=(1, 3, 4))
    offsets = draw(jax.random.key(1), 2000, np.arange(rows), 4, 3)
    found = smooth_marginally(chain.transition, chain.prior, filtered, offsets)
    expected = marginals(chain, evidence, "all")
    np.testing.assert_allclose(found.mean[:, 0], filtered.mean[:, 0])
    for name in Moments._fields:
        each = np.array(getattr(found, name))[:, 1:]
        error = each.std(0) / np.sqrt(rows)
        assert (error > 0).all() and (error < 0.01).all()
        assert (np.abs(each.mean(0) - getattr(expected, name)[1:]) < 5 * error + 1e-3).all()


STANDARD = Moments(np.zeros(2), np.ones(2))


@jax.jit
@jax.value_and_grad
def scalar(inputs, keep, noise, weights):
    """To which every output of filter and smoothers contributes; no evidence without `keep`."""
    parameters, prior, evidence = inputs

    def transition(z):
        return apply_gated(parameters, z)

    evidence, points = gaussian.mask(evidence, keep), sigma_points(2)
    filtered = backward_filter(transition, prior, evidence, points).filtered
    outputs = (
        conditional_smoother(transition, prior, filtered, noise),
        marginal_smoother(transition, prior, filtered, points),
    )
    terms = zip(weights, jax.tree.leaves(outputs), strict=True)
    return sum(jnp.sum(weight * jnp.sin(leaf)) for weight, leaf in terms)


@CASES
@pytest.mark.parametrize("noisy", [True, False])
def test_gradients(noisy, case):
    """Finite, and equal to finite differences, for parameters, prior and evidence."""
    time = len(PRESENT[case])
    keep = np.array(PRESENT[case], bool)[None, :, None]
    noise = draw_noise(time, 2) * noisy
    weights = np.random.default_rng(6).normal(size=(7, 1, time, 2))
    prior = Moments(np.array([0.5, -0.3]), np.array([1.7, 0.6]))
    evidence = Gaussian(*(leaf[None] for leaf in draw_evidence(5, np.ones(time), 2)))
    inputs = (gated_parameters(1), prior, evidence)
    _, _, evidence = check_gradient(lambda x: scalar(x, keep, noise, weights), inputs)
    used = np.any(np.array(evidence.precision) != 0, -1)
    np.testing.assert_array_equal(used, keep[..., 0])


def test_views_share_the_noise():
    """Further axes in front of the batch: as if each view were smoothed alone."""
    rng, parameters = np.random.default_rng(7), gated_parameters(2)
    prior = Moments(np.array([0.5, -0.3]), np.array([1.7, 0.6]))
    filtered = Moments(rng.normal(size=(3, 2, 4, 2)), rng.uniform(0.2, 1, (3, 2, 4, 2)))
    noise, offsets = draw_noise(4, 2, 2), rng.normal(size=(4, 2, 5, 2))

    @jax.jit
    def both(filtered: Moments):
        def transition(z):
            return apply_gated(parameters, z)

        marginal = marginal_smoother(transition, prior, filtered, offsets)
        return conditional_smoother(transition, prior, filtered, noise), marginal

    together = jax.tree.leaves(both(filtered))
    for v in range(3):
        alone = jax.tree.leaves(both(Moments(*(leaf[v] for leaf in filtered))))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other[v], 1e-9, 1e-9)


def test_an_explosive_transition_stays_finite():
    """A quotient that is steep and sure of itself at once: 5^200 would overflow in float32."""

    @jax.jit
    def run(filtered):
        def transition(z):
            return Moments(5 * z, 1e-4 + 0 * z)

        found = conditional_smoother(transition, STANDARD, filtered, np.zeros((200, 2, 1)))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found)), found

    filtered = Moments(np.full((1, 200, 2), 0.5), np.full((1, 200, 2), 0.8))
    with jax.enable_x64(False):
        leaves = jax.tree.leaves((run(filtered), jax.grad(run, has_aux=True)(filtered)))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
