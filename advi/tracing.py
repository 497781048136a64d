"""The one place where the user's log-joint is traced; every compiled program is built from that.

The trace is a jaxpr, so a log-joint written in Python runs once per model and data shapes however
many programs (gradient, density, optimiser step) are compiled from it, and what is wrong with it
is known before any of them.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.extend.core as jex_core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters.partial_eval import dce_jaxpr

from advi.data import DataSpec, check_rows
from advi.model import Model, Terms


class MissingKeyError(KeyError):
    """A latent or data leaf that the log-joint asked for and nothing has."""

    def __str__(self) -> str:
        # KeyError itself prints the quoted repr of its message
        return str(self.args[0])


class MisplacedError(ValueError):
    """Terms.shared depends on local latents.

    Attributes
    ----------
    names
        These latents.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"Terms.shared depends on the local latent {', '.join(map(repr, names))}; expected it "
            "in Terms.rows (or Terms.prior), one number per row: shared terms are counted once, "
            "rows for every row. Sum over every axis but the first."
        )
        self.names = tuple(names)


@dataclass(frozen=True, eq=False)
class LogJoint:
    """A traced log-joint.

    Attributes
    ----------
    flat
        The trace as a function of the latents' values, in the model's order, and the data leaves.
    used
        Names of the latents that the result depends on.
    num_rows
        Length of `Terms.rows`, or None where the log-joint returned a scalar.
    has_prior
        Whether the prior density of the local latents is told apart, in `Terms.prior`.
    cost
        Array elements read and written by one evaluation: a measure of its work.
    open_ended
        Whether a loop in it runs until some condition holds, as a solver does until converged.
    """

    flat: Callable[..., Sequence[Array]]
    used: frozenset[str]
    num_rows: int | None
    has_prior: bool
    cost: int
    open_ended: bool

    def __call__(self, values: dict[str, Array], data: Any) -> Terms:
        """Return the log-joint, without any log-Jacobian, as `Terms`."""
        return Terms(*self.flat(*values.values(), *jax.tree.leaves(data)))


@lru_cache(maxsize=64)
def trace(model: Model, spec: DataSpec) -> LogJoint:
    """Trace a model's log-joint for data of given shapes.

    Parameters
    ----------
    model
        The model.
    spec
        Shapes and dtypes of the data.

    Returns
    -------
    LogJoint

    Raises
    ------
    KeyError
        If the log-joint asks for a latent or a data leaf that does not exist.
    TypeError
        If it returns neither a number nor `Terms`.
    ValueError
        If what it returns has the wrong shape.
    """
    scalar = []

    def call(values: list[Array], leaves: list[Array]) -> Terms:
        z = model.to_tree(dict(zip(model.latents, values, strict=True)))
        data = jax.tree.unflatten(spec.treedef, leaves)
        try:
            out = model.log_joint(z, data)
        except KeyError as error:
            raise _missing_key(error, model, spec) from error
        except Exception as error:
            if not spec.leaves and "NoneType" in str(error):
                raise TypeError(
                    f"log_joint uses data, but there is none ({error}). "
                    "Pass it: advi.fit(model, data)."
                ) from error
            error.add_note(_shapes(model, spec))
            raise
        terms = _as_terms(out)
        scalar.append(not isinstance(out, Terms))
        return terms

    values = [jax.ShapeDtypeStruct(v.shape, spec.float_dtype) for v in model.latents.values()]
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in spec.leaves]
    closed = jax.make_jaxpr(call)(values, leaves)
    num_rows = None if scalar[-1] else closed.out_avals[1].shape[0]
    if num_rows is not None:
        check_rows(num_rows, spec)
    if model.local:
        _check_local(model, closed.jaxpr, num_rows)
    live = _live_inputs(closed.jaxpr)
    used = frozenset(name for name, alive in zip(model.latents, live, strict=False) if alive)
    has_prior = len(closed.out_avals) > 2
    return LogJoint(
        jex_core.jaxpr_as_fun(closed),
        used,
        num_rows,
        has_prior,
        cost(closed.jaxpr),
        _open_ended(closed.jaxpr),
    )


def require_all_used(model: Model, log_joint: LogJoint) -> None:
    """Raise ValueError if the log-joint does not depend on some latent."""
    unused = [name for name in model.latents if name not in log_joint.used]
    if unused:
        raise ValueError(
            f"log_joint never uses {', '.join(map(repr, unused))}: the posterior of an unused "
            "latent is improper. Give it a prior term, or remove it from the latents. "
            f"Latents used: {', '.join(sorted(log_joint.used)) or 'none'}."
        )


def _check_local(model: Model, jaxpr: Any, num_rows: int | None) -> None:
    """Raise ValueError unless all that depends on local latents belongs to rows."""
    names = ", ".join(map(repr, sorted(model.local)))
    if num_rows is None:
        raise ValueError(
            f"log_joint returned a scalar, but latent {names} is local: one value per data row. "
            "Return advi.Terms(shared, rows) with one number per row, the prior density of that "
            "row's latents included."
        )
    if num_rows != model.num_rows:
        raise ValueError(
            f"Terms.rows has length {num_rows}; expected {model.num_rows}, the rows of the data "
            f"and of the local latent {names}."
        )
    only_shared = [True, *(False for _ in jaxpr.outvars[1:])]
    reaches = dce_jaxpr(jaxpr, only_shared)[1]
    misplaced = [
        name
        for name, reached in zip(model.latents, reaches, strict=False)
        if reached and name in model.local
    ]
    if misplaced:
        raise MisplacedError(misplaced)


def _missing_key(error: KeyError, model: Model, spec: DataSpec) -> KeyError:
    key = error.args[0] if error.args else ""
    near = difflib.get_close_matches(str(key), [*model.latents, *spec.names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = [*model.latents, *(f"data: {name}" for name in spec.names)]
    return MissingKeyError(
        f"unknown key {str(key)!r}{hint} Known: {', '.join(known)}."
        + " The log-joint asked for it; z holds the latents, data what was passed to fit."
    )


def _shapes(model: Model, spec: DataSpec) -> str:
    """Return the shapes that the log-joint was called with, to stand below its own error."""
    z = ", ".join(f"{name} {latent.shape}" for name, latent in model.latents.items())
    data = ", ".join(f"{n} {shape}" for n, (shape, _) in zip(spec.names, spec.leaves, strict=True))
    return f"advi called log_joint(z, data) with shapes z: {z}; data: {data or 'None'}."


def _as_terms(out: Any) -> Terms:
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


def _live_inputs(jaxpr: Any) -> list[bool]:
    """Return which inputs of a jaxpr its outputs depend on (an upper bound inside calls)."""
    needed = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in eqn.outvars):
            needed.update(id(v) for v in eqn.invars)
    return [id(v) in needed for v in jaxpr.invars]


def cost(jaxpr: Any) -> int:
    """Return the work of a jaxpr: the largest operand or result of every operation, summed."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = _inner(eqn)
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        if inner:
            total += repeats * sum(cost(sub) for sub in inner)
        else:
            sizes = [np.prod(v.aval.shape, dtype=int) for v in (*eqn.invars, *eqn.outvars)]
            total += int(max(sizes, default=0))
    return total


def _open_ended(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name == "while" or any(map(_open_ended, _inner(eqn))) for eqn in jaxpr.eqns
    )


def _inner(eqn: Any) -> list[Any]:
    """Return the jaxprs inside an operation, such as the body of a loop."""
    return [
        sub
        for param in eqn.params.values()
        for item in (param if isinstance(param, (tuple, list)) else (param,))
        if (sub := getattr(item, "jaxpr", item)) is not None and hasattr(sub, "eqns")
    ]
