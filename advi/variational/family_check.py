"""Checks of a family of the user's own: a Gaussian is the one it says, and log q is its own."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.identity import is_of_advi
from advi.core.jax_config import precision
from advi.variational.family import Family, GaussianFamily, unit_params
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.scale import DiagonalScale, Scale, TriangularScale
from advi.variational.transport import log_normal

MAX_DIM, POINTS = 32, 4  # of the check
TOLERANCE = 1e-2  # in float32
MAX_JACOBIAN = 100  # coordinates up to which a Jacobian is computed
MAX_ERROR = 1e-3  # nats, in float64
NUDGE = 0.1  # of parameters away from their start


def check_families(guide: Guide, *, any_scale: bool) -> None:
    """Raise ValueError if a family of the user's own is not what its methods say.

    A Gaussian in closed form has to draw from the Gaussian of its `to_gaussian`, and with
    `any_scale`, which the plan needs, to hold any mean and any scale of its kind. Of any other
    family log q has to be the density of its own draw, at parameters near its start.
    """
    for block, index in zip(guide.blocks, guide.indices, strict=True):
        family, dim = block.base, min(len(index), MAX_DIM)
        require_hashable(family)
        if is_of_advi(family) or not dim or not family.noise_dim(dim):
            continue
        if isinstance(family, GaussianFamily):
            if fault := _fault(family, dim, any_scale):
                raise ValueError(
                    f"family: got {family!r}, and {fault}; expected a Gaussian with any "
                    "mean and scale. A family that is none has the methods noise_dim, init and "
                    "draw, which returns (x, log q), and none of a Gaussian's, such as "
                    "to_gaussian; an optimizer also moves a Gaussian of some scales alone."
                )
        elif fault := _fault_of_draw(family, len(index)):
            raise ValueError(f"family: got {family!r}, and {fault}")


def require_hashable(family: Family) -> None:
    """Raise TypeError unless a family has a hash, by which its compiled programs are found."""
    try:
        hash(family)
    except TypeError:
        raise TypeError(
            f"family: got {family!r}, which has no hash; expected a frozen dataclass of hashable "
            f"settings: @dataclass(frozen=True) above class {type(family).__name__}."
        ) from None


def wrong_log_q(guide: Guide, params: tuple[Any, ...]) -> tuple[str, ...]:
    """Return a sentence on every family of the user's own with a wrong log q at its parameters."""
    found = []
    for block, index, p in zip(guide.blocks, guide.indices, params, strict=True):
        family, dim = block.base, len(index)
        if is_of_advi(family) or isinstance(family, GaussianFamily) or not comparable(family, dim):
            continue
        error = log_q_error(family, p, dim)
        if not error <= MAX_ERROR:
            found.append(f"{family!r} is at fault: {_off(error)}.")
    return tuple(found)


def comparable(family: Family, dim: int) -> bool:
    """Return whether log q can be compared with the Jacobian of the draw."""
    return 0 < dim <= MAX_JACOBIAN and family.noise_dim(dim) == dim


def log_q_error(family: Family, params: Any, dim: int) -> float:
    """Return the largest error of log q at some draws, nats, by the Jacobian of the draw."""
    eps = np.random.default_rng(0).standard_normal((POINTS, dim))
    with precision("float64"):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        log_q, jacobians = jax.device_get(_with_jacobian(family)(params, eps))
    log_det = np.linalg.slogdet(jacobians)[1]
    expected = log_normal(eps) - log_det
    return float(np.abs(np.asarray(log_q, float) - expected).max())


@lru_cache(maxsize=64)
def _with_jacobian(family: Family) -> Any:
    def one(params: Any, eps: Any) -> tuple[Any, Any]:
        return family.draw(params, eps)[1], jax.jacfwd(lambda e: family.draw(params, e)[0])(eps)

    return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def _fault_of_draw(family: Family, dim: int) -> str | None:
    params = family.init(Gaussian.diagonal(np.zeros(dim), 1.0), jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    if not leaves or not all(np.issubdtype(np.asarray(leaf).dtype, np.floating) for leaf in leaves):
        return "init does not return a pytree of float arrays."
    drawn = jax.eval_shape(
        family.draw, params, np.zeros(family.noise_dim(dim), jax.numpy.result_type(float))
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(drawn)]
    if shapes != [(dim,), ()]:
        return (
            f"draw returns arrays of shapes {shapes}; expected the pair (x, log q), of shapes "
            f"{[(dim,), ()]}."
        )
    if not comparable(family, dim):
        return None
    rng = np.random.default_rng(0)  # a fault may vanish at the start, where the map is simple
    moved = [np.asarray(leaf) + NUDGE * rng.standard_normal(np.shape(leaf)) for leaf in leaves]
    error = log_q_error(family, structure.unflatten(moved), dim)
    return None if error <= MAX_ERROR else f"{_off(error)}."


def _off(error: float) -> str:
    if math.isnan(error):
        return "its x or its log q is NaN at draws near its start"
    return (
        f"its log q is off by up to {error:.2g} nats at its own draws: expected log N(eps; 0, I) - "
        "log |det dx/deps| of the x that draw returns"
    )


@lru_cache(maxsize=64)
def _fault(family: GaussianFamily, dim: int, any_scale: bool) -> str | None:
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
    same = _close(mean, loc) and _close(*kept) and (not diagonal or _close(cov, expected))
    if any_scale and not same:
        return "to_gaussian does not return the mean and the scale that from_gaussian was given"
    eps = np.random.default_rng(0).standard_normal((POINTS, family.noise_dim(dim)))
    shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(family.draw, params, eps[0]))]
    if shapes != [(dim,), ()]:
        return f"draw returns shapes {shapes} in place of those of (x, log q), {[(dim,), ()]}"
    zero = jnp.zeros(eps.shape[1])
    found = jax.jit(
        lambda p, e: (
            family.draw(p, zero)[0],
            jax.jacfwd(lambda e: family.draw(p, e)[0])(zero),
            *jax.vmap(lambda e: family.draw(p, e))(e),
        )
    )(params, eps)
    center, jacobian, X, drawn = jax.device_get(found)
    affine = _close(X, center + eps @ jacobian.T)
    if not affine or not _close(center, mean) or not _close(jacobian @ jacobian.T, cov):
        return "draw does not return the Gaussian of to_gaussian"
    log_q = jax.jit(jax.vmap(family.log_prob, (None, 0)))(params, X)
    standard = np.linalg.solve(root, (X - mean).T)
    log_det = np.log(np.diag(root)).sum() + 0.5 * dim * np.log(2 * np.pi)
    expected = -0.5 * (standard**2).sum(0) - log_det
    if not _close(log_q, expected):
        return "log_prob is not that of the Gaussian of to_gaussian"
    if not _close(drawn, expected):
        return "the log q of draw is not that of the Gaussian of to_gaussian"
    return None


def _close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE))
