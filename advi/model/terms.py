"""A log density in two parts: shared, and one number per data row."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Terms(NamedTuple):
    """A log density in two parts: a shared term, and one number per data row.

    Parameters
    ----------
    shared
        Scalar, nats: priors and everything else that belongs to no single row.
    rows
        (B,), nats: one log-likelihood per data row. Terms of local latents belong here.
    prior
        (B,), nats, optional: the log prior density of the local latents of every row, separate
        from `rows` so that `Elbo(beta=...)` can temper it. Without it `rows` holds both.

    Examples
    --------
    >>> float(Terms(jnp.float32(-1.0), jnp.array([1.0, 2.0])).total(10.0))
    29.0
    """

    shared: Any
    rows: Any
    prior: Any = None

    @property
    def per_row(self) -> Any:
        """(B,) nats: all terms of each row."""
        return self.rows if self.prior is None else self.rows + self.prior

    def total(self, scale: float | Array = 1.0) -> Array:
        """Return ``shared + scale * per_row.sum()``; `scale` is N/B for a batch of B rows of N."""
        return self.shared + scale * self.per_row.sum()

    def weighted(self, weights: Array) -> Array:
        """Return ``shared + weights @ per_row`` for weights (B,) of the rows."""
        return self.shared + jnp.vdot(weights, self.per_row)

    def of_block(self, weights: Array, share: Array) -> Array:
        """Return what a block of rows with weights (B,) adds, and a share of the shared term."""
        return share * self.shared + (weights * self.per_row).sum()


def as_terms(out: Any) -> Terms:
    """Return a log-joint's result as `Terms`, or raise TypeError or ValueError."""
    if isinstance(out, Terms):
        shared, rows = _as_float(out.shared, "Terms.shared"), _as_float(out.rows, "Terms.rows")
        if shared.shape != ():
            raise ValueError(
                f"Terms.shared has shape {shared.shape}; expected a scalar. "
                "Sum it, e.g. log_prob(...).sum()."
            )
        if rows.ndim != 1:
            raise ValueError(
                f"Terms.rows has shape {rows.shape}; expected one axis, (B,), one "
                "log-likelihood per data row. Sum over every other axis."
            )
        if out.prior is None:
            return Terms(shared, rows)
        prior = _as_float(out.prior, "Terms.prior")
        if prior.shape != rows.shape:
            raise ValueError(
                f"Terms.prior has shape {prior.shape}; expected that of Terms.rows, {rows.shape}: "
                "the log prior density of each row's local latents."
            )
        return Terms(shared, rows, prior)
    value = _as_float(out, "log_joint returned")
    if value.shape != ():
        raise ValueError(
            f"log_joint returned an array of shape {value.shape}; expected a scalar or "
            "advi.Terms(shared, rows). Sum the log densities, e.g. log_prob(...).sum(), or "
            "return Terms(prior, rows=...) with one number per data row."
        )
    return Terms(value, jnp.zeros((0,), value.dtype))


def _as_float(out: Any, what: str) -> Array:
    if not isinstance(out, (Array, np.ndarray, np.generic, float, int)):
        raise TypeError(
            f"{what} {type(out).__name__}; expected a scalar or advi.Terms(shared, rows)."
        )
    value = jnp.asarray(out)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{what} dtype {value.dtype}; expected a floating-point log density.")
    return value
