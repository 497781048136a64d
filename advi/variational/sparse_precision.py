"""Gaussian with a sparse precision matrix, for models with thousands of latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from advi.core.sparse_cholesky import NotPositiveError
from advi.core.types import LOG_2PI, Floats
from advi.variational.family import GaussianFamily
from advi.variational.precision_scale import PrecisionScale
from advi.variational.scale import Scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class SparseParams(NamedTuple):
    """Parameters of `SparsePrecision`, host arrays; the numbers are of double precision."""

    loc: Float[NDArray, " d"]
    rows: Int[NDArray, " K"]  # of the entries of the precision on and below its diagonal
    columns: Int[NDArray, " K"]
    entries: Float[NDArray, " K"]
    order: Int[NDArray, " d"]  # of elimination
    log_det: Float[NDArray, ""]  # of the precision


@dataclass(frozen=True)
class SparsePrecision(GaussianFamily):
    """Gaussian with a sparse precision, q(x) = N(x; loc, P^-1).

    P has entries where two coordinates meet in the log-joint: the conditional independence of the
    posterior is that of the Gaussian. It holds hierarchies, crossed effects, random walks and grids
    of thousands of latents with all their correlations; sparse Cholesky factors give draws, log q
    and marginal sds, without a matrix of d x d. The automatic plan fits it by Newton steps; neither
    an optimiser nor minibatches do.

    References
    ----------
    Tan & Nott (2018), Gaussian variational approximation with sparse precision matrices. Opper &
    Archambeau (2009), The variational Gaussian approximation revisited: the fixed point of P.

    Examples
    --------
    >>> precision = scipy.sparse.csc_array(np.array([[2.0, -1.0], [-1.0, 2.0]]))
    >>> scale = PrecisionScale(precision, np.arange(2))
    >>> params = SparsePrecision().from_gaussian(np.zeros(2), scale)
    >>> round(float(SparsePrecision().log_prob(params, jnp.array([1.0, 0.0]))), 3)
    -2.289
    """

    def noise_dim(self, dim: int) -> int:
        return dim

    def from_gaussian(self, loc: NDArray, scale: Scale) -> SparseParams:
        if not isinstance(scale, PrecisionScale):
            diagonal = scipy.sparse.csc_array(scipy.sparse.diags_array(scale.sds**-2.0))
            scale = PrecisionScale(diagonal, np.arange(len(loc)))
        lower = scipy.sparse.coo_array(scipy.sparse.tril(scale.precision))
        rows, columns = lower.coords
        return SparseParams(
            np.asarray(loc, float),
            rows.astype(np.int32),
            columns.astype(np.int32),
            lower.data.astype(float),
            np.asarray(scale.order, np.int32),
            np.array(-2 * scale.log_det(np.ones(len(loc), bool))),
        )

    def to_gaussian(self, params: SparseParams) -> tuple[Floats, PrecisionScale]:
        loc, rows, columns, entries, order, _ = map(np.asarray, params)
        lower = scipy.sparse.csc_array((entries, (rows, columns)), shape=(len(loc), len(loc)))
        whole = scipy.sparse.csc_array(lower + scipy.sparse.tril(lower, -1).T)
        return loc.astype(float), PrecisionScale(whole, order)

    def moved(self, center: Any, step: Any) -> Any:
        raise TypeError("SparsePrecision is fitted by the automatic plan; steps do not move it.")

    def reparameterise(
        self, params: SparseParams, eps: Float[Array, " noise"]
    ) -> Float[Array, " d"]:
        if any(isinstance(leaf, Tracer) for leaf in params):
            raise TypeError("SparsePrecision: expected parameters that JAX does not trace.")
        loc, scale = self.to_gaussian(params)
        scaled: Any = _scaled(scale, eps)
        return jnp.asarray(loc, eps.dtype) + scaled

    def entropy(self, params: SparseParams) -> Float[Array, ""]:
        return jnp.asarray(0.5 * params.loc.size * (1 + LOG_2PI) - 0.5 * params.log_det)

    def log_prob(self, params: SparseParams, x: Float[Array, " d"]) -> Float[Array, ""]:
        loc, rows, columns, entries, _, log_det = params
        y = x - loc
        twice = jnp.where(jnp.asarray(rows) == jnp.asarray(columns), 1.0, 2.0)
        products = twice * entries * y[jnp.asarray(rows)] * y[jnp.asarray(columns)]
        return -0.5 * products.sum() + 0.5 * log_det - 0.5 * x.size * LOG_2PI


def is_sparse(guide: Any) -> bool:
    """Return whether the family of some latents is a Gaussian with a sparse precision."""
    return any(isinstance(block.base, SparsePrecision) for block in guide.blocks)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scaled(scale: PrecisionScale, eps: Array) -> Array:
    """Return L e of noise e (d,), by the sparse solve of SciPy."""
    return _on_host(scale.mv, eps)


def _scaled_forward(scale: PrecisionScale, eps: Array) -> tuple[Array, None]:
    return _on_host(scale.mv, eps), None


def _scaled_backward(scale: PrecisionScale, _: None, cotangent: Array) -> tuple[Array]:
    return (_on_host(scale.rmv, cotangent),)


_scaled.defvjp(_scaled_forward, _scaled_backward)


def _on_host(function: Callable[[Floats], Floats], x: Array) -> Array:
    """Return a function of rows (M, d) at one row or, under `jax.vmap`, at many.

    A callback has a thread of its own, in which JAX may not know float64: numbers go there and back
    in two parts.
    """

    def call(*parts: Any) -> tuple[Any, Any]:
        rows = np.asarray(parts, float).sum(0)
        return _parts(function(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape))

    shape = jax.ShapeDtypeStruct(x.shape, np.float32)
    first, rest = jax.pure_callback(call, (shape, shape), *_parts(x), vmap_method="broadcast_all")
    return first.astype(x.dtype) + rest.astype(x.dtype)


def _parts(x: Any) -> tuple[Any, Any]:
    """Return two arrays of float32 with the sum x."""
    first = x.astype(np.float32)
    return first, (x - first.astype(x.dtype)).astype(np.float32)


def check_params(params: SparseParams, dim: int) -> None:
    """Raise ValueError unless parameters from a file are those of a Gaussian of a dimension."""
    loc, rows, columns, entries, order, log_det = params
    num = len(entries) if entries.ndim == 1 else -1
    shapes = [(dim,), (num,), (num,), (num,), (dim,), ()]
    if [leaf.shape for leaf in params] != shapes:
        raise ValueError("the parameters of SparsePrecision() do not have their shapes")
    for leaf in (loc, entries, log_det):
        if leaf.dtype != np.float64 or not np.isfinite(leaf).all():
            raise ValueError("the parameters of SparsePrecision() are not finite float64 numbers")
    for leaf in (rows, columns, order):
        if leaf.dtype != np.int32 or not ((leaf >= 0) & (leaf < dim)).all():
            raise ValueError("the indices of SparsePrecision() are not those of its coordinates")
    key = rows.astype(np.int64) * dim + columns
    if (rows < columns).any() or len(np.unique(key)) < num or len(np.unique(order)) < dim:
        raise ValueError("the entries of SparsePrecision() are not those of a lower triangle")
    _, scale = SparsePrecision().to_gaussian(params)
    try:
        found = -2 * scale.log_det(np.ones(dim, bool))
    except NotPositiveError:
        raise ValueError("the precision of SparsePrecision() is not positive definite") from None
    if not np.isclose(found, log_det, rtol=1e-6, atol=1e-6):
        raise ValueError("the log determinant of SparsePrecision() is not that of its precision")
