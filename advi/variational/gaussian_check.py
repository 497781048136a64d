"""The check that a family of the user's own is the Gaussian that the automatic plan moves."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.errors import describe
from advi.core.identity import is_of_advi
from advi.variational.family import Family, unit_params
from advi.variational.guide import Guide
from advi.variational.scale import DiagonalScale, Scale, TriangularScale

MAX_DIM, POINTS = 32, 4  # of the check
TOLERANCE = 1e-2  # in float32


def require_gaussians(guide: Guide) -> None:
    """Raise ValueError if a family of the user's own is not a Gaussian with any scale of its kind.

    The automatic plan moves a mean and a scale, and hands them to `from_gaussian` at its end. A
    family that keeps only some of them, or draws otherwise, would get the ELBO of another.
    """
    for block, index in zip(guide.blocks, guide.indices, strict=True):
        family, dim = block.base, min(len(index), MAX_DIM)
        if is_of_advi(family) or not dim or not family.noise_dim(dim):
            continue
        if fault := _fault(family, dim):
            raise ValueError(
                f"family: got {describe(family)}, and {fault}; the automatic plan expected a "
                "Gaussian. Give an optimizer, such as optimizer=optax.adam(1e-2), which moves the "
                "family's own parameters."
            )


@lru_cache(maxsize=64)
def _fault(family: Family, dim: int) -> str | None:
    loc, sds = np.linspace(-1, 1, dim), np.linspace(0.5, 2, dim)
    diagonal = isinstance(family.to_gaussian(unit_params(family, dim))[1], DiagonalScale)
    tril = np.diag(sds) + 0.1 * np.tri(dim, k=-1)
    asked: Scale = DiagonalScale(sds) if diagonal else TriangularScale(tril)
    params = family.from_gaussian(loc, asked)
    mean, scale = family.to_gaussian(params)
    root = scale.tril()
    cov, expected = root @ root.T, asked.tril() @ asked.tril().T
    # a scale of low rank is the nearest one
    kept = np.diag(cov), np.diag(expected)
    if not _close(mean, loc) or not _close(*kept) or (diagonal and not _close(cov, expected)):
        return "to_gaussian does not return the mean and the scale that from_gaussian was given"
    eps = np.random.default_rng(0).standard_normal((POINTS, family.noise_dim(dim)))
    shape = jax.eval_shape(family.draw, params, eps[0]).shape
    if shape != (dim,):
        return f"draw returns shape {shape} in place of {(dim,)}"
    zero = jnp.zeros(eps.shape[1])
    found = jax.jit(
        lambda p, e: (
            family.draw(p, zero),
            jax.jacfwd(family.draw, 1)(p, zero),
            jax.vmap(lambda e: family.draw(p, e))(e),
        )
    )(params, eps)
    center, jacobian, X = jax.device_get(found)
    affine = _close(X, center + eps @ jacobian.T)
    if not affine or not _close(center, mean) or not _close(jacobian @ jacobian.T, cov):
        return "draw does not return the Gaussian of to_gaussian"
    log_q = jax.jit(jax.vmap(family.log_prob, (None, 0)))(params, X)
    standard = np.linalg.solve(root, (X - mean).T)
    log_det = np.log(np.diag(root)).sum() + 0.5 * dim * np.log(2 * np.pi)
    if not _close(log_q, -0.5 * (standard**2).sum(0) - log_det):
        return "log_prob is not that of the Gaussian of to_gaussian"
    return None


def _close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE))
