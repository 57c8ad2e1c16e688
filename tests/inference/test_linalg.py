"""Linear algebra of matrices with the batch last, against numpy."""

import os
import re
import subprocess
import sys

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


@pytest.mark.usefixtures("x64")
@SIZES
def test_factors_and_solutions_have_the_right_gradients(size: int) -> None:
    """Of all outputs of the LQ factors, and of both arguments of both solutions."""
    weights = draw(1, 3, size, 2 * size, 2)

    def objective(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        lower, orthonormal = linalg.lq(inputs[0])
        solved = linalg.solve_lower(lower, inputs[1])
        transposed = linalg.solve_lower_transposed(lower, inputs[1])
        return jnp.sum(weights * jnp.stack([orthonormal, solved, transposed]))

    a = draw(0, size, 2 * size, 2) + 3 * np.eye(size, 2 * size)[:, :, None]
    check_gradient(jax.jit(jax.value_and_grad(objective)), (a, draw(2, size, 2 * size, 1)))


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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK computes on CPUs alone")
def test_lapack_gets_one_matrix_at_a_time() -> None:
    """Values and gradients; calls for batches can wait for each other forever on few threads."""
    size = linalg.MAX_UNROLLED + 1

    def objective(a: jax.Array) -> jax.Array:
        lower, orthonormal = linalg.lq(a)
        solved = linalg.solve_lower(lower, a) + linalg.solve_lower_transposed(lower, a)
        return jnp.sum(solved * orthonormal) + jnp.sum(linalg.triangularise(a) ** 3)

    seeds = jax.vmap(jax.value_and_grad(objective))
    text = jax.jit(seeds).lower(jnp.ones((3, size, 2 * size, 5))).as_text()
    calls = re.findall(r"custom_call @lapack\w+\((.*?)\).* : \((.*?)\) ->", text)
    shapes = [shape for _, given in calls for shape in re.findall(r"tensor<([^>]*)>", given)]
    assert shapes
    assert all(shape.count("x") <= 2 for shape in shapes), shapes


def test_few_threads_do_not_wait_for_each_other() -> None:
    """Independent factorisations and solutions end in a process of two threads."""
    program = """
import os
import re
import subprocess
import sys

import jax
from jax import numpy as jnp
from jdmm.inference import linalg

@jax.jit
def compute(a):
    each = [linalg.lq(a * (i + 1)) for i in range(4)]
    return sum(jnp.sum(linalg.solve_lower(lower, q)) for lower, q in each)

a = jax.random.normal(jax.random.key(0), (32, 96, 64))
for _ in range(20):
    compute(a).block_until_ready()
"""
    environment = {**os.environ, "NPROC": "2"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
