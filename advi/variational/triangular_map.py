"""An additive triangular map of R^d, its inverse and its derivatives, on the host or traced by JAX.

Points u of noise e, one coordinate after another::

    u_j = shift_j + sum_kb loc_weights_jkb psi_b(e_k) + exp(s_j) sinh(t_j)
    t_j = exp(tail_j) asinh(e_j) + skew_j
    s_j = C tanh((log_scale_j + sum_kb scale_weights_jkb phi_b(e_k)) / C)

where k runs over the parents of j: those of the first P coordinates that come before it. The
curves phi are e and three hyperbolas, psi these and e^2 - 1; all have tails that are linear, or
quadratic, so that nothing grows faster. With all parameters zero the map is the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advi.core.types import Bools

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    Draws = Float[ndarray, "M d"]

MAX_LOG_SCALE = 10.0  # C
KNOTS = np.array([-1.0, 0.0, 1.0])  # of the hyperbolas
CURVES, SCALE_CURVES = 5, 4  # psi and phi: all curves, and all but the last


class Layer(NamedTuple):
    """Parameters of one map, arrays of NumPy or JAX."""

    shift: Any  # (d,)
    log_scale: Any  # (d,)
    skew: Any  # (d,)
    tail: Any  # (d,)
    scale_weights: Any  # (d, P, 4)
    loc_weights: Any  # (d, P, 5)

    @property
    def num_parents(self) -> int:
        return self.loc_weights.shape[1]


class Forward(NamedTuple):
    """A map at some draws, with all that its derivatives need; arrays (M, d) unless said."""

    u: Any
    log_det: Any  # (M,) of the Jacobian
    e: Any
    scaled: Any  # exp(s) sinh(t), the part of u that the scale multiplies
    slope: Any  # d u_j / d e_j
    slope_of_skew: Any  # exp(s) cosh(t) = d u / d t
    slope_of_t: Any  # d t / d e
    free: Any  # d s / d (its argument of tanh), 1 far from the clamp
    t: Any  # exp(tail) asinh(e) + skew
    curves: Any  # (M, P, 5) psi of the parents
    curve_slopes: Any  # (M, P, 5)


def identity(dim: int, num_parents: int) -> Layer:
    """Return the parameters of the identity, zeros."""
    return Layer(*map(np.zeros, layer_shapes(dim, num_parents)))


def layer_shapes(dim: int, num_parents: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the leaves of a `Layer`."""
    weights = tuple((dim, num_parents, b) for b in (SCALE_CURVES, CURVES))
    return (*4 * ((dim,),), *weights)


def is_used(dim: int, num_parents: int) -> Bools:
    """Return (d, P, 1): whether a coordinate has a parent, one that comes before it."""
    return (np.arange(dim)[:, None] > np.arange(num_parents))[..., None]


def only_used(layer: Layer) -> Layer:
    """Return the layer with weights of zero where a coordinate has no such parent."""
    used = is_used(len(layer.shift), layer.num_parents)
    return layer._replace(
        scale_weights=layer.scale_weights * used, loc_weights=layer.loc_weights * used
    )


def forward(layer: Layer, e: Any, xp: Any = np) -> Forward:
    """Return the map of draws e (M, d); `xp` is `numpy` or `jax.numpy`."""
    num_parents = layer.num_parents
    curves, slopes = _curves(e[:, :num_parents], xp)
    loc, s, free = _loc_and_scale(layer, curves, xp)
    root = xp.sqrt(1 + e * e)
    stretch = xp.exp(layer.tail)
    t = stretch * xp.arcsinh(e) + layer.skew
    scale, cosh, slope_of_t = xp.exp(s), xp.cosh(t), stretch / root
    scaled, slope_of_skew = scale * xp.sinh(t), scale * cosh
    log_det = (s + layer.tail + xp.log(cosh / root)).sum(1)
    return Forward(
        loc + scaled, log_det, e, scaled, slope_of_skew * slope_of_t, slope_of_skew, slope_of_t,
        free, t, curves, slopes,
    )  # fmt: skip


def inverse(layer: Layer, u: Any, xp: Any = np) -> Any:
    """Return the draws (M, d) of points u (M, d), the parents one after another."""
    dim, num_parents = u.shape[1], layer.num_parents
    found: list[Any] = []
    steps = [slice(k, k + 1) for k in range(num_parents)]
    for j in [*steps, slice(num_parents, dim)]:
        if j.start == j.stop:
            continue
        parents = min(j.start, num_parents)
        part = Layer(*(leaf[j] for leaf in layer))
        part = part._replace(
            scale_weights=part.scale_weights[:, :parents], loc_weights=part.loc_weights[:, :parents]
        )
        before = xp.concatenate(found[:parents], 1) if parents else u[:, :0]
        loc, s, _ = _loc_and_scale(part, _curves(before, xp)[0], xp)
        t = xp.arcsinh((u[:, j] - loc) * xp.exp(-s))
        found.append(xp.sinh((t - part.skew) * xp.exp(-part.tail)))
    return xp.concatenate(found, 1)


def gradient(layer: Layer, at: Forward, cotangent: Draws, *, of_log_det: bool) -> Layer:
    """Return the derivative by the parameters of the mean of u * cotangent (M, d).

    With `of_log_det` that of the mean log-determinant is added.
    """
    num, used = len(cotangent), is_used(cotangent.shape[1], layer.num_parents)
    by_s = (cotangent * at.scaled + of_log_det) * at.free
    by_t = cotangent * at.slope_of_skew + of_log_det * _tanh(at)
    phi = at.curves[..., :SCALE_CURVES]
    by_tail = (by_t * (at.t - layer.skew)).mean(0) + of_log_det
    return Layer(
        cotangent.mean(0),
        by_s.mean(0),
        by_t.mean(0),
        by_tail,
        used * (by_s.T @ phi.reshape(num, -1) / num).reshape(layer.scale_weights.shape),
        used * (cotangent.T @ at.curves.reshape(num, -1) / num).reshape(layer.loc_weights.shape),
    )


def pull_back(layer: Layer, at: Forward, cotangent: Draws, *, of_log_det: bool) -> Draws:
    """Return J' cotangent (M, d) of the Jacobian J of u by e.

    With `of_log_det` the gradient of the log-determinant by e is added.
    """
    out = cotangent * at.slope
    by_s = cotangent * at.scaled
    if of_log_det:
        out += _own_log_det_gradient(at)
        by_s += 1
    out[:, : layer.num_parents] += _to_parents(layer, at, cotangent, by_s * at.free)
    return out


def _own_log_det_gradient(at: Forward) -> Draws:
    """Return the gradient of the log-determinant by e, without that through the parents."""
    return _tanh(at) * at.slope_of_t - at.e / (1 + at.e * at.e)


def _tanh(at: Forward) -> Draws:
    """Return tanh(t)."""
    return at.scaled / at.slope_of_skew


def push_score(layer: Layer, at: Forward, score: Draws) -> Draws:
    """Return the gradient of log q(u) by u (M, d), from that of log q(e) by e.

    It solves with J', backwards through the parents (Vaitl et al. 2024, path gradients).
    """
    w = score - _own_log_det_gradient(at)
    out = w / at.slope
    for k in reversed(range(layer.num_parents)):
        after = slice(k + 1, None)
        below = out[:, after]
        of_loc = below @ layer.loc_weights[after, k]
        by_s = (below * at.scaled[:, after] + 1) * at.free[:, after]
        of_scale = by_s @ layer.scale_weights[after, k]
        slopes = at.curve_slopes[:, k]
        known = (of_loc * slopes).sum(1) + (of_scale * slopes[:, :SCALE_CURVES]).sum(1)
        out[:, k] = (w[:, k] - known) / at.slope[:, k]
    return out


def _curves(e: Any, xp: Any) -> tuple[Any, Any]:
    """Return the curves (M, P, 5) of the parents' draws e (M, P), and their slopes."""
    e = e[..., None]
    knots = KNOTS.astype(e.dtype)  # a copy: JAX remembers the float type of a constant
    offsets = e - knots
    roots = xp.sqrt(1 + offsets * offsets)
    values = xp.concatenate([e, roots - np.sqrt(1 + knots * knots), e * e - 1], -1)
    return values, xp.concatenate([xp.ones_like(e), offsets / roots, 2 * e], -1)


def _loc_and_scale(layer: Layer, curves: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Return the location, the log scale s, and the derivative of s at its argument, (M, d)."""
    num, dim = len(curves), len(layer.shift)
    phi = curves[..., :SCALE_CURVES].reshape(num, -1)
    r = layer.log_scale + phi @ layer.scale_weights.reshape(dim, -1).T
    loc = layer.shift + curves.reshape(num, -1) @ layer.loc_weights.reshape(dim, -1).T
    clamped = xp.tanh(r / MAX_LOG_SCALE)
    return loc, MAX_LOG_SCALE * clamped, 1 - clamped**2


def _to_parents(layer: Layer, at: Forward, by_loc: Draws, by_s: Draws) -> Draws:
    """Return the derivative by the parents' draws (M, P), from those by locations and scales."""
    num, dim = by_loc.shape
    of_loc = (by_loc @ layer.loc_weights.reshape(dim, -1)).reshape(num, layer.num_parents, CURVES)
    of_scale = by_s @ layer.scale_weights.reshape(dim, -1)
    of_scale = of_scale.reshape(num, layer.num_parents, SCALE_CURVES)
    slopes = at.curve_slopes
    return (of_loc * slopes).sum(-1) + (of_scale * slopes[..., :SCALE_CURVES]).sum(-1)
