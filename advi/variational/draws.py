"""Standard normal draws: fixed orthogonal antithetic ones, and fresh ones for stochastic steps.

Fixed draws make the ELBO a deterministic function (sample average approximation) and are made on
the host with NumPy. Fresh draws are made inside a compiled step from a JAX key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core.special import normal_quantile

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


MIN_DRAWS = 64
MAX_DRAW_ELEMENTS = 2**24  # memory cap: draws times dimension
STUDENT_DEGREES = 7.0  # of freedom, of proposals of importance sampling
# A covariance is adapted only with twenty draws for every dimension in a round of a thousand:
# estimated from fewer than some ten effective draws for each, it makes all later weights collapse.
MAX_ADAPTED_DIM = 50
QUASI_RANDOM_DIM = 3  # beyond, the fourth moments of random draws are as good or better


def fixed(rng: np.random.Generator, num: int, dim: int) -> Float[ndarray, "num dim"]:
    """Return orthogonal antithetic draws (num, dim), mean zero, unit second moments; `num` even.

    The rows come in pairs `e`, `-e`. With ``num >= 2 * dim`` their second moment is exactly the
    identity, so that the ELBO of a Gaussian target is exact for every Gaussian family. In up to
    `QUASI_RANDOM_DIM` dimensions they are quasi-random: a randomly shifted Kronecker sequence
    with the generalised golden ratio (Roberts 2018), whose fourth moments are about twice as
    accurate as those of random draws.

    Examples
    --------
    >>> E = fixed(np.random.default_rng(0), 8, 3)
    >>> bool(np.allclose(E.T @ E / 8, np.eye(3)))
    True
    """
    half = num // 2
    quasi = dim <= min(half, QUASI_RANDOM_DIM)
    H = _quasi_normal(rng, half, dim) if quasi else rng.standard_normal((half, dim))
    if half >= dim:
        eigenvalues, Q = np.linalg.eigh(H.T @ H / half)
        H = H @ (Q / np.sqrt(eigenvalues)) @ Q.T
    else:
        norms = np.linalg.norm(H, axis=1, keepdims=True)
        H = np.linalg.qr(H.T)[0].T * norms
        H /= np.sqrt(np.mean(H**2, axis=0))
    return np.concatenate([H, -H])


def _quasi_normal(rng: np.random.Generator, num: int, dim: int) -> Float[ndarray, "num dim"]:
    """Return a randomly shifted Kronecker sequence, mapped to normals: (num, dim)."""
    golden = 2.0  # the root of g^(dim + 1) = g + 1, by fixed-point iteration
    for _ in range(64):
        golden = (1 + golden) ** (1 / (dim + 1))
    steps = golden ** -np.arange(1.0, dim + 1)
    uniform = (rng.random(dim) + np.outer(np.arange(num), steps)) % 1
    tiny = np.finfo(float).eps
    return normal_quantile(np.clip(uniform, tiny, 1 - tiny))


def even_draws(num: int, dim: int) -> int:
    """Return an even number of draws near `num`, fewer where they would exceed the memory cap."""
    return 2 * max(2, min(num, MAX_DRAW_ELEMENTS // max(dim, 1)) // 2)


def antithetic(rng: np.random.Generator, num: int, dim: int) -> Float[ndarray, "num dim"]:
    """Return independent antithetic draws (num, dim), each exactly N(0, I); `num` even."""
    half = rng.standard_normal((num // 2, dim))
    return np.concatenate([half, -half])


def student(rng: np.random.Generator, num: int, dim: int) -> Float[ndarray, "num dim"]:
    """Return independent draws (num, dim) of the standard Student-t."""
    Z = rng.standard_normal((num, dim))
    return Z / np.sqrt(rng.chisquare(STUDENT_DEGREES, (num, 1)) / STUDENT_DEGREES)


def stratified(rng: np.random.Generator, num: int, dim: int) -> Float[ndarray, "num dim"]:
    """Return antithetic draws (num, dim) with the quantiles of a standard normal in every column.

    A few hundred then give quantiles as many thousands of independent draws do. The columns,
    each in an order of its own, have mean zero and unit second moments; `num` is even.

    Examples
    --------
    >>> E = stratified(np.random.default_rng(0), 100, 3)
    >>> np.quantile(E, 0.95, axis=0).round(2)
    array([1.61, 1.61, 1.61])
    """
    half = num // 2
    levels = normal_quantile(0.5 + (np.arange(half) + 0.5) / num)
    levels /= np.sqrt(np.mean(levels**2))
    H = rng.permuted(np.broadcast_to(levels, (dim, half)), axis=1).T
    H *= rng.integers(0, 2, H.shape, np.int8) * 2.0 - 1
    return np.concatenate([H, -H])


def fresh(key: Array, num: int, dim: int) -> Float[Array, "num dim"]:
    """Return antithetic draws (num, dim), each N(0, I), orthogonal within groups of `dim`.

    Unlike `fixed`, nothing is rescaled: every row keeps the norm of an independent draw, so the
    Monte Carlo gradient stays unbiased. If `num` is odd, one draw has no antithetic partner.

    Examples
    --------
    >>> e = fresh(jax.random.key(0), 4, 3)
    >>> e.shape, bool(jnp.all(e[:2] == -e[2:]))
    ((4, 3), True)
    """
    half = (num + 1) // 2
    H = jax.random.normal(key, (half, dim))
    group = min(half, dim)
    if group > 1:
        whole = half - half % group
        blocks = H[:whole].reshape(-1, group, dim)
        norms = jnp.linalg.norm(blocks, axis=-1, keepdims=True)
        Q, R = jnp.linalg.qr(blocks.mT)
        # LAPACK fixes signs by the entries; with R's diagonal positive directions are uniform
        directions = Q.mT * jnp.sign(jnp.diagonal(R, axis1=-2, axis2=-1))[..., None]
        H = jnp.concatenate([(directions * norms).reshape(whole, dim), H[whole:]])
    return jnp.concatenate([H, -H])[:num]
