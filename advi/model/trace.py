"""The trace of the user's log-joint, from which every compiled program is built.

The trace is a jaxpr, so a log-joint written in Python runs once per fit and data shapes however
many programs (gradient, density, optimiser step) are compiled from it, and its errors are found
before any of them. Every fit traces again, since values that the log-joint reads from outside may
have changed; where the trace is equal to an earlier one, so are the programs.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.interpreters.partial_eval import dce_jaxpr

from advi.core.jaxprs.forward_mode import by_forward_mode
from advi.core.jaxprs.frozen import ChangedError
from advi.core.jaxprs.traced import Traced, fresh_jaxpr, interned, trace_lock, traced
from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.terms import Terms, as_terms
from advi.model.trace_errors import MisplacedError, endless_loop, missing_key, note_on

# Entries of latents up to which forward mode is used: a gradient costs as many evaluations.
MAX_FORWARD = 64
# in the errors of JAX for loops in reverse mode, and for forward mode of a function that has a
# rule of its own for reverse mode alone
NO_DERIVATIVE = ("Reverse-mode", "forward-mode")


@dataclass(frozen=True, eq=False)
class LogJoint:
    """A traced log-joint; equal traces are one object, by which programs are found again."""

    flat: Traced  # a function of the latents' values, in the model's order, and the data leaves
    used: frozenset[str]  # names of the latents that the result depends on
    num_rows: int | None  # length of `Terms.rows`, or None if the log-joint returned a scalar
    has_prior: bool  # whether it returned `Terms.prior`
    # entries of latents by which it has derivatives by forward mode alone; 0: it has reverse mode
    forward: int = 0

    def __call__(self, values: dict[str, Array], data: Any) -> Terms:
        leaves = jax.tree.leaves(data)
        if self.forward:
            return Terms(*by_forward_mode(self.flat)(list(values.values()), leaves))
        return Terms(*self.flat(*values.values(), *leaves))

    @property
    def cost(self) -> int:
        """Array elements read and written by one evaluation: a measure of its work.

        By forward mode its gradient has that of as many evaluations as entries.
        """
        return self.flat.cost * (1 + self.forward)

    @property
    def open_ended(self) -> bool:
        """Whether it has a loop that runs until some condition holds, as a solver's does."""
        return "while" in self.flat.primitives


_known: "weakref.WeakValueDictionary[Any, LogJoint]" = weakref.WeakValueDictionary()


def trace(model: Model, spec: DataSpec) -> LogJoint:
    """Return the trace of a model's log-joint for data of given shapes, made once for a model.

    KeyError if the log-joint asks for a latent or a data leaf that does not exist; TypeError if it
    returns neither a number nor `Terms`; ValueError if its result has the wrong shape, or values
    that it reads from outside have changed since a trace for other shapes.
    """
    spec = spec._replace(per_row=())  # which no trace depends on
    key = tuple(latent.shape for latent in model.latents.values()), spec
    with trace_lock:
        if key not in model.traces:
            made = _trace(model, spec)
            if model.traces:
                num_rows, at, first = next(iter(model.traces.values()))
                other = model if num_rows is None else model.with_rows(num_rows)
                if not _trace(other, at).flat.is_like(first.flat):
                    raise ChangedError("log_joint")
            model.traces[key] = model.num_rows, spec, made
        return model.traces[key][2]


def trace_anew(model: Model, spec: DataSpec) -> LogJoint:
    """Return the trace of a model's log-joint for data of given shapes, which the model forgets.

    It may differ from those for other shapes. Errors are those of `trace`, and any of the user's.
    """
    with trace_lock:
        return _trace(model, spec._replace(per_row=()))


def trace_deterministic(model: Model, spec: DataSpec) -> tuple[Traced, Any]:
    """Return the trace of a model's deterministic quantities and their tree, made once for a model.

    It is a function of the latents' values, in the model's order, the data leaves and the number
    of a draw.
    """
    spec = spec._replace(per_row=())
    key = "deterministic", spec

    def call(values: list[Array], leaves: list[Array], number: Array) -> dict[str, Array]:
        z = model.to_tree(dict(zip(model.latents, values, strict=True)))
        return model.program.deterministic.function(z, spec.treedef.unflatten(leaves), number)

    with trace_lock:
        if key not in model.traces:
            number = jax.ShapeDtypeStruct((), np.uint32)
            with jax.enable_x64(spec.float_dtype == "float64"):
                flat, out = traced(call, *_arguments(model, spec), number)
            model.traces[key] = flat, jax.tree.structure(out)
        return model.traces[key]


def _arguments(model: Model, spec: DataSpec) -> tuple[list[Any], list[Any]]:
    """Return the shapes and dtypes of the latents' values and of the data leaves."""
    values = [jax.ShapeDtypeStruct(shape, spec.float_dtype) for shape in model.shapes.values()]
    return values, spec.treedef.flatten_up_to(spec.abstract)


def _trace(model: Model, spec: DataSpec) -> LogJoint:
    scalar = []

    def call(values: list[Array], leaves: list[Array]) -> Terms:
        z = model.to_tree(dict(zip(model.latents, values, strict=True)))
        data = spec.treedef.unflatten(leaves)
        try:
            out = model.log_joint(z, data)
        except KeyError as error:
            raise missing_key(error, model, spec) from error
        except Exception as error:
            if not spec.leaves and "NoneType" in str(error):
                raise TypeError(
                    f"log_joint uses data, but there is none ({error}). "
                    "Pass it as the second argument, data."
                ) from error
            error.add_note(note_on(error, model, spec))
            raise
        terms = as_terms(out)
        scalar.append(not isinstance(out, Terms))
        return terms

    with jax.enable_x64(spec.float_dtype == "float64"):
        closed, _ = fresh_jaxpr(call, *_arguments(model, spec))
        _check_no_tracer(closed)
        flat = interned(closed)
    num_rows = None if scalar[-1] else closed.out_avals[1].shape[0]
    if num_rows is not None:
        spec.by_row(num_rows)
    if model.local:
        _check_local(model, closed.jaxpr, num_rows)
    key = flat, tuple(model.latents), num_rows
    found = _known.get(key)
    if found is None:
        entries = _forward_entries(model, spec, flat) if "while" in flat.primitives else 0
        live = _live_inputs(closed.jaxpr)
        used = frozenset(name for name, alive in zip(model.latents, live, strict=False) if alive)
        has_prior = len(closed.out_avals) > 2
        found = _known[key] = LogJoint(flat, used, num_rows, has_prior, entries)
    return found


def _forward_entries(model: Model, spec: DataSpec, flat: Traced) -> int:
    """Return the entries of the latents of a log-joint with forward mode alone; 0 with reverse.

    ValueError if it has neither, or too many entries.
    """
    values, leaves = _arguments(model, spec)

    def total(values: list[Array], leaves: list[Array]) -> Array:
        return Terms(*flat(*values, *leaves)).total()

    def by_forward(values: list[Array], leaves: list[Array]) -> Array:
        return Terms(*by_forward_mode(flat)(values, leaves)).total()

    if _has_gradient(total, values, leaves, spec):
        return 0
    entries = sum(latent.num_entries for latent in model.latents.values())
    if entries <= MAX_FORWARD and _has_gradient(by_forward, values, leaves, spec):
        return entries
    raise ValueError(endless_loop(entries, MAX_FORWARD, spec))


def _has_gradient(function: Any, values: Any, leaves: Any, spec: DataSpec) -> bool:
    """Return whether a function has a gradient, by its trace."""
    try:
        with jax.enable_x64(spec.float_dtype == "float64"):
            jax.eval_shape(jax.grad(function), values, leaves)
    except (ValueError, TypeError) as error:
        if not any(words in str(error) for words in NO_DERIVATIVE):
            raise
        return False
    return True


def _check_no_tracer(closed: Any) -> None:
    """Raise TypeError if a function closes over a value that JAX is tracing."""
    if any(isinstance(constant, Tracer) for constant in closed.consts):
        raise TypeError(
            "log_joint reads a value that JAX is tracing; expected numbers and arrays. advi runs "
            "this on the host: call it outside jit, grad and vmap, and pass what changes as data."
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
    pairs = zip(model.latents, dce_jaxpr(jaxpr, only_shared)[1], strict=False)
    misplaced = [name for name, reached in pairs if reached and name in model.local]
    if misplaced:
        raise MisplacedError(misplaced)


def _live_inputs(jaxpr: Any) -> list[bool]:
    """Return which inputs of a jaxpr its outputs depend on (an upper bound inside calls)."""
    needed = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in eqn.outvars):
            needed.update(id(v) for v in eqn.invars)
    return [id(v) in needed for v in jaxpr.invars]
