"""Linear algebra of matrices with the batch last, against numpy."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import check_gradient

from jdmm.inference import linalg

SIZES = pytest.mark.parametrize("size", [1, 3, linalg.MAX_UNROLLED + 1])
"""Unrolled, and by `jax.lax.linalg`."""


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def covariance(root) -> np.ndarray:
    return np.einsum("ikn,jkn->ijn", np.array(root), np.array(root))


@pytest.mark.usefixtures("x64")
@SIZES
def test_triangularise_keeps_the_covariance(size: int) -> None:
    """L L' = A A', with L lower triangular and its diagonal positive."""
    a = draw(0, size, 2 * size + 1, 4)
    lower = np.array(linalg.triangularise(jnp.array(a)))
    np.testing.assert_allclose(covariance(lower), covariance(a), rtol=1e-10, atol=1e-10)
    assert (np.einsum("iin->in", lower) > 0).all()
    assert (lower[np.triu_indices(size, 1)] == 0).all()


@pytest.mark.usefixtures("x64")
@SIZES
def test_triangularise_has_the_right_gradient(size: int) -> None:
    """Of a random linear functional of L, against central differences."""
    weights = draw(1, size, size, 2)

    def objective(a: jax.Array) -> jax.Array:
        return jnp.sum(weights * linalg.triangularise(a))

    check_gradient(jax.jit(jax.value_and_grad(objective)), draw(0, size, 2 * size, 2))


@SIZES
def test_single_precision_keeps_small_directions(size: int) -> None:
    """A covariance with sd from 3 to 1e-4 keeps all of them; its Cholesky factor would not."""
    sd = np.geomspace(3.0, 1e-4, size) if size > 1 else np.array([1e-4])
    axes, _ = np.linalg.qr(draw(2, size, size))
    a = (axes * sd)[:, :, None].astype(np.float32)
    lower = np.array(linalg.triangularise(jnp.array(a)), np.float64)[:, :, 0]
    found = np.linalg.svd(lower, compute_uv=False)
    np.testing.assert_allclose(found, np.sort(sd)[::-1], rtol=2e-3)


@pytest.mark.usefixtures("x64")
@SIZES
@pytest.mark.parametrize("shared", [False, True])
def test_products_and_solutions(size: int, shared: bool) -> None:
    """Against numpy, also where one factor is shared by the batch."""
    a, b = draw(3, size, size, 4), draw(4, size, 2, 1 if shared else 4)
    lower = np.tril(np.moveaxis(a, -1, 0)) + 3 * np.eye(size)
    every = np.moveaxis(np.broadcast_to(b, (size, 2, 4)), -1, 0)
    expected = {
        "product": np.moveaxis(a, -1, 0) @ every,
        "solution": np.linalg.solve(lower, every),
        "transposed": np.linalg.solve(np.swapaxes(lower, 1, 2), every),
    }
    given = jnp.array(np.moveaxis(lower, 0, -1))
    found = {
        "product": linalg.matmul(jnp.array(a), jnp.array(b)),
        "solution": linalg.solve_lower(given, jnp.array(b)),
        "transposed": linalg.solve_lower_transposed(given, jnp.array(b)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(np.moveaxis(found[name], -1, 0), value, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_product_has_the_right_gradient() -> None:
    """Of both factors, one of them shared by the batch."""
    weights = draw(5, 3, 4, 5)

    def objective(factors: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.sum(weights * linalg.matmul(*factors))

    check_gradient(jax.value_and_grad(objective), (draw(6, 3, 2, 5), draw(7, 2, 4, 1)))


@SIZES
def test_zeros_have_finite_gradients(size: int) -> None:
    """A matrix of zeros, and a row of zeros."""
    row = np.float32(draw(8, size, 2 * size, 2))
    row[0] = 0
    for a in (np.zeros_like(row), row):
        gradient = jax.grad(lambda a: jnp.sum(linalg.triangularise(a)))(jnp.array(a))
        assert np.isfinite(gradient).all()
