"""Errors of a log-joint, found as it is traced."""

import difflib
from collections.abc import Sequence

import numpy as np

from advi.data.spec import DataSpec
from advi.model.model import Model


class MissingKeyError(KeyError):
    """The log-joint asked for a latent or data leaf that does not exist."""

    def __str__(self) -> str:
        # KeyError itself prints the quoted repr of its message
        return str(self.args[0])


class MisplacedError(ValueError):
    """Terms.shared depends on the local latents `names`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"Terms.shared depends on the local latent {', '.join(map(repr, names))}; expected it "
            "in Terms.rows (or Terms.prior), one number per row: shared terms are counted once, "
            "rows for every row. Sum over every axis but the first."
        )
        self.names = tuple(names)


def missing_key(error: KeyError, model: Model, spec: DataSpec) -> KeyError:
    """Return the error for a latent or a data leaf that does not exist."""
    key = error.args[0] if error.args else ""
    near = difflib.get_close_matches(str(key), [*model.latents, *spec.names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = [*model.latents, *(f"data: {name}" for name in spec.names)]
    return MissingKeyError(
        f"unknown key {str(key)!r}{hint} Known: {', '.join(known)}."
        + " The log-joint asked for it; z holds the latents, data what was passed to fit."
    )


def note_on(error: Exception, model: Model, spec: DataSpec) -> str:
    """Return what the log-joint was called with, as a note to its own error."""
    called, argument, bound = "log_joint(z, data)", str, ""
    if model.program.factory is not None:
        call = model.program.factory.call
        called, argument, bound = f"the NumPyro model {call!r}", call.argument, call.bound
    z = ", ".join(f"{name} {shape}" for name, shape in model.shapes.items())
    data = ", ".join(f"{argument(name)} {shape}" for name, shape in spec.shapes.items())
    note = f"advi called {called} with shapes z: {z}; data: {data or 'None'}{bound}."
    if "boolean indices must be concrete" in str(error):
        note += " Booleans do not choose entries while a function is traced; expected integers, "
        note += "such as x.astype(int), or jnp.where."
    if "Indexer must have integer" in str(error):
        leaves = zip(spec.names, spec.leaves, strict=True)
        floats = [name for name, (_, dtype) in leaves if np.issubdtype(dtype, np.floating)]
        note += f" Of these data are of a float type: {', '.join(floats) or 'none'}. An index is "
        note += "of an integer type; pass data as x.astype(int)."
    return note


def endless_loop(entries: int, most: int, spec: DataSpec) -> str:
    """Return the message for a log-joint with a loop of unknown length that has no gradient."""
    why = "it also holds a function that has a rule for reverse mode alone (jax.custom_vjp)"
    if entries > most:
        why = f"the latents have {entries:,} entries, each of which would take an evaluation"
    leaves = zip(spec.names, spec.leaves, strict=True)
    sizes = (n for n, (shape, dtype) in leaves if not shape and np.issubdtype(dtype, np.integer))
    hint = "".join(
        f" {name!r} in data is traced: close over it instead, or of a NumPyro model bind it, "
        f"advi.from_numpyro(model, {name}=...)."
        for name in list(sizes)[:1]
    )
    return (
        "log_joint has a loop whose number of steps is not known when it is traced: "
        "lax.while_loop, or lax.fori_loop with bounds that are not Python numbers. Such a loop has "
        f"no gradient by reverse mode; forward mode is used for up to {most} entries, and {why}. "
        f"Expected Python numbers as bounds, or lax.scan.{hint}"
    )
