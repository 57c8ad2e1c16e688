"""Linear algebra of many small matrices, with the batch last: ``(row, column, n)``.

On the CPU, loops over the rows of small matrices, each a few operations on long vectors, are
several times faster than a call of LAPACK per matrix. Up to `MAX_UNROLLED` rows they are unrolled;
larger matrices go to `jax.lax.linalg`.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

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
    """L'^-1 S Q, S being the symmetric matrix with the lower triangle of L' G.

    This is the gradient of the Cholesky factor of A A' (Murray 2016, arXiv 1602.07527) in terms of
    A = L Q.
    """
    lower, orthonormal = factors
    symmetric = _symmetric_of_lower(matmul(transpose(lower), gradient))
    return (matmul(solve_lower_transposed(lower, symmetric), orthonormal),)


triangularise.defvjp(_triangularise_forward, _triangularise_backward)


def _symmetric_of_lower(a: jax.Array) -> jax.Array:
    weights = np.tril(np.ones(a.shape[:2], a.dtype)) - 0.5 * np.eye(a.shape[0], dtype=a.dtype)
    half = a * weights[:, :, None]
    return half + transpose(half)


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
        return _lq_large(a)
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


@jax.custom_vjp
def _lq_large(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    q, r = qr(jnp.moveaxis(a, (0, 1, 2), (2, 1, 0)))
    sign = jnp.where(jnp.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0).astype(a.dtype)
    lower = jnp.moveaxis(r * sign[:, :, None], (0, 1, 2), (2, 1, 0))
    return lower, jnp.moveaxis(q * sign[:, None, :], (0, 1, 2), (2, 1, 0))


def _lq_large_forward(a: jax.Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    factors = _lq_large(a)
    return factors, factors


def _lq_large_backward(
    factors: tuple[jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array]:
    """Of A = L Q (Seeger et al. 2017, arXiv 1710.08717)."""
    (lower, q), (of_lower, of_q) = factors, gradients
    inner = matmul(transpose(lower), of_lower) - matmul(of_q, transpose(q))
    return (solve_lower_transposed(lower, of_q + matmul(_symmetric_of_lower(inner), q)),)


_lq_large.defvjp(_lq_large_forward, _lq_large_backward)


def _solve_large(lower: jax.Array, b: jax.Array, transposed: bool) -> jax.Array:
    size = max(lower.shape[2], b.shape[2])
    zero = diagonal_matrix(jnp.where(diagonal(lower) < LEAST_NORM, LEAST_NORM, 0.0))
    lower = lower + zero.astype(lower.dtype)
    lower, b = (jnp.broadcast_to(m, (*m.shape[:2], size)) for m in (lower, b))
    return _solve(lower, b, transposed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _solve(lower: jax.Array, b: jax.Array, transposed: bool) -> jax.Array:
    solve = functools.partial(
        jax.lax.linalg.triangular_solve, left_side=True, lower=True, transpose_a=transposed
    )
    return jnp.moveaxis(_each(solve, *(jnp.moveaxis(m, -1, 0) for m in (lower, b))), 0, -1)


def _solve_forward(
    lower: jax.Array, b: jax.Array, transposed: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    solved: jax.Array = _solve(lower, b, transposed)
    return solved, (lower, solved)


def _solve_backward(
    transposed: bool, factors: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    lower, solved = factors
    of_b: jax.Array = _solve(lower, gradient, not transposed)
    first, second = (solved, of_b) if transposed else (of_b, solved)
    triangle = np.tril(np.ones(lower.shape[:2], lower.dtype))[:, :, None]
    return -triangle * matmul(first, transpose(second)), of_b


_solve.defvjp(_solve_forward, _solve_backward)


def qr(a: Float[Array, "n row column"]) -> tuple[Array, Array]:
    """A = Q R, with the batch in front; it has no gradient."""
    return _each(_qr, a)


def _qr(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    q, r = jnp.linalg.qr(matrix)
    return q, r


def _each(function: Callable[..., Any], *matrices: jax.Array) -> Any:
    """A function of `jax.lax.linalg` for many matrices ``(n, row, column)``.

    On the CPU they are computed one by one, under `jax.vmap` too. A call for a batch waits there
    for XLA's threads while it occupies one of them, so that two such calls at a time can wait
    forever.
    """
    return jax.lax.platform_dependent(
        *matrices,
        cpu=jax.vmap(jax.custom_batching.sequential_vmap(function)),
        default=function,
    )
