"""Linear algebra of many small matrices, with the batch last: ``(row, column, n)``.

On the CPU, loops over the rows of small matrices, each a few operations on long vectors, are
several times faster than a call of LAPACK per matrix. Up to `MAX_UNROLLED` rows they are unrolled;
larger matrices go to `jax.lax.linalg`.
"""

import functools
import operator

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Float

from jdmm.series import Array

MAX_UNROLLED = 10
"""Most rows for which loops are unrolled; the compiler's time grows with their number."""

LEAST_NORM = 1e-30
"""Norms below this count as this one, so that a matrix of zeros has finite gradients."""


@jax.custom_vjp
def matmul(
    a: Float[Array, "row inner n"], b: Float[Array, "inner column m"]
) -> Float[Array, "row column _"]:
    """Products of matrices ``(row, inner, n)`` and ``(inner, column, n)``; either n may be 1."""
    if max(a.shape[0], b.shape[0]) > 2 * MAX_UNROLLED:
        size = max(a.shape[2], b.shape[2])
        a, b = (jnp.broadcast_to(m, (*m.shape[:2], size)) for m in (a, b))
        return jnp.einsum("ijn,jkn->ikn", a, b)
    # one product and sum per inner index: XLA computes a sum over a broadcast product slowly
    columns = jax.lax.split(a, (1,) * a.shape[1], 1)
    rows = jax.lax.split(b, (1,) * b.shape[0], 0)
    return functools.reduce(operator.add, map(operator.mul, columns, rows))


def _matmul_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return matmul(a, b), (a, b)


def _matmul_backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, ...]:
    a, b = inputs
    own = matmul(gradient, transpose(b)), matmul(transpose(a), gradient)
    return tuple(
        leaf if leaf.shape == shared.shape else jnp.sum(leaf, 2, keepdims=True)
        for leaf, shared in zip(own, inputs, strict=True)
    )


matmul.defvjp(_matmul_forward, _matmul_backward)


def matvec(a: Float[Array, "row column n"], b: Float[Array, "column m"]) -> Float[Array, "row _"]:
    """The products of matrices ``(row, column, n)`` and vectors ``(column, n)``."""
    return matmul(a, b[:, None])[:, 0]


def transpose(a: Float[Array, "row column n"]) -> Float[Array, "column row n"]:
    """The transposed matrices."""
    return jnp.swapaxes(a, 0, 1)


def diagonal(a: Float[Array, "row row n"]) -> Float[Array, "row n"]:
    """The diagonals ``(row, n)`` of square matrices."""
    return jnp.swapaxes(jnp.diagonal(a), 0, 1)


def diagonal_matrix(values: Float[Array, "row n"]) -> Float[Array, "row row n"]:
    """Diagonal matrices of ``(row, n)``."""
    return jnp.eye(values.shape[0], dtype=values.dtype)[:, :, None] * values[None]


@jax.custom_vjp
def triangularise(a: Float[Array, "row column n"]) -> Float[Array, "row row n"]:
    """The lower triangular L with L L' = A A' and a diagonal of at least 0.

    A A' is never formed, which would square the condition number: in single precision a root keeps
    directions that are 1e6 times smaller than others, a covariance only 1e3 times.
    """
    return lq(a)[0]


def _triangularise_forward(a: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    lower, orthonormal = lq(a)
    return lower, (lower, orthonormal)


def _triangularise_backward(
    factors: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    """L'^-1 (Phi + Phi') Q with Phi = L' G, its upper triangle 0 and its diagonal halved.

    This is the gradient of the Cholesky factor of A A' (Murray 2016, arXiv 1602.07527) in terms of
    A = L Q.
    """
    lower, orthonormal = factors
    size = lower.shape[0]
    half = np.tril(np.ones((size, size), gradient.dtype)) - 0.5 * np.eye(size, dtype=gradient.dtype)
    phi = half[:, :, None] * matmul(transpose(lower), gradient)
    return (matmul(solve_lower_transposed(lower, phi + transpose(phi)), orthonormal),)


triangularise.defvjp(_triangularise_forward, _triangularise_backward)


def solve_lower(
    lower: Float[Array, "row row n"], b: Float[Array, "row column m"]
) -> Float[Array, "row column _"]:
    """L^-1 B for lower triangular L."""
    if not lower.shape[0]:
        return b
    if lower.shape[0] > MAX_UNROLLED:
        return _solve_large(lower, b, transposed=False)
    rows: list[jax.Array] = []
    for i in range(lower.shape[0]):
        rest = b[i]
        for j in range(i):
            rest = rest - lower[i, j][None] * rows[j]
        rows.append(rest / jnp.maximum(lower[i, i], LEAST_NORM)[None])
    return jnp.stack(rows)


def solve_lower_transposed(
    lower: Float[Array, "row row n"], b: Float[Array, "row column m"]
) -> Float[Array, "row column _"]:
    """L'^-1 B for lower triangular L."""
    if lower.shape[0] > MAX_UNROLLED:
        return _solve_large(lower, b, transposed=True)
    size = lower.shape[0]
    rows: dict[int, jax.Array] = {}
    for i in reversed(range(size)):
        rest = b[i]
        for j in range(i + 1, size):
            rest = rest - lower[j, i][None] * rows[j]
        rows[i] = rest / jnp.maximum(lower[i, i], LEAST_NORM)[None]
    return jnp.stack([rows[i] for i in range(size)])


def lq(a: Float[Array, "row column n"]) -> tuple[Array, Array]:
    """A = L Q with L lower triangular, the rows of Q orthonormal."""
    size, _, n = a.shape
    if not size:
        return jnp.zeros((0, 0, n), a.dtype), a
    if size > MAX_UNROLLED:
        q, r = jnp.linalg.qr(jnp.moveaxis(a, (0, 1, 2), (2, 1, 0)))
        sign = jnp.where(jnp.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0).astype(a.dtype)
        lower = jnp.moveaxis(r * sign[:, :, None], (0, 1, 2), (2, 1, 0))
        return lower, jnp.moveaxis(q * sign[:, None, :], (0, 1, 2), (2, 1, 0))
    # modified Gram-Schmidt, whose L is as accurate as that of Householder reflections
    columns, directions = [], []
    for i in range(size):
        norm = jnp.sqrt(jnp.sum(a[0] ** 2, 0))
        direction = a[0] / jnp.maximum(norm, LEAST_NORM)[None]
        projections = jnp.sum(a[1:] * direction[None], 1)
        a = a[1:] - projections[:, None] * direction[None]
        columns.append(jnp.pad(jnp.concatenate([norm[None], projections]), ((i, 0), (0, 0))))
        directions.append(direction)
    return jnp.stack(columns, 1), jnp.stack(directions)


def _solve_large(lower: jax.Array, b: jax.Array, transposed: bool) -> jax.Array:
    size = max(lower.shape[2], b.shape[2])
    zero = diagonal_matrix(jnp.where(diagonal(lower) < LEAST_NORM, LEAST_NORM, 0.0))
    lower = lower + zero.astype(lower.dtype)
    lower, b = (jnp.moveaxis(jnp.broadcast_to(m, (*m.shape[:2], size)), -1, 0) for m in (lower, b))
    solved = jax.lax.linalg.triangular_solve(
        lower, b, left_side=True, lower=True, transpose_a=transposed
    )
    return jnp.moveaxis(solved, 0, -1)
