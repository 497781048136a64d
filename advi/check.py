"""check(): a model's doctor, before any fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from advi.data import count_rows, find_nan, prepare
from advi.deferred import Deferred, bound, check_model
from advi.density import Density, default_float, precision
from advi.errors import describe
from advi.keys import host_rng
from advi.model import Model
from advi.row_data import RowData
from advi.stages.search import START_RADIUS
from advi.table import Table
from advi.tracing import trace
from advi.unbiased import bias

POINTS, BIAS_POINTS = 16, 4
ROWS = 256  # of a model with local latents, whose coordinates grow with them


@dataclass(frozen=True)
class Checkup:
    """What `check` found.

    Attributes
    ----------
    latents
        A table of the latents: number of real coordinates, whether the log-joint uses them, and
        the largest gradient seen.
    problems
        What stands in the way of a fit, one sentence each; empty if nothing does.
    notes
        Facts worth knowing: dtypes, rows, where the log density was finite.
    """

    model: Model
    latents: Table
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of a fit."""
        return not self.problems

    def __repr__(self) -> str:
        lines = [repr(self.model), "", str(self.latents), ""]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join(lines)


def check(
    model: Model | Deferred,
    data: Any = None,
    *,
    num_rows: int | None = None,
    key: Any = 0,
    x64: bool | None = None,
) -> Checkup:
    """Examine a model: shapes and dtypes, unused latents, finite values and gradients, minibatches.

    Where the log-joint has rows, batches of them that add up to all must give its value and its
    gradient on average: a minibatch fit of a log-joint for which they do not ends elsewhere.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    data
        Its data. Of a model with local latents the first 256 rows are looked at.
    num_rows
        As in `fit`.
    key
        Integer or JAX key, for the random points.
    x64
        As in `fit`.

    Returns
    -------
    Checkup

    Raises
    ------
    TypeError, ValueError, KeyError
        If the log-joint cannot be evaluated at all; the message is that of `fit`.

    Examples
    --------
    >>> import advi
    >>> model = advi.Model(lambda z, data: -z["a"] ** 2, {"a": advi.real(), "b": advi.real()})
    >>> print(advi.check(model).problems[0])
    log_joint never uses 'b': its posterior is improper
    """
    check_model(model)
    rng = host_rng(key)
    if x64 not in (None, True, False):
        raise TypeError(f"x64: got {describe(x64)}; expected True, False or None.")
    float_dtype = default_float(x64)
    with precision(float_dtype):
        data, spec = prepare(data, float_dtype)
        model = bound(model, data, spec)
        if model.local:
            rows = RowData.of(data, spec, count_rows(model, spec, num_rows))
            data, spec = rows.head(ROWS)
            model = model.with_rows(min(ROWS, len(rows.index)))
        density = Density(model, data, spec)
        log_joint = trace(model, spec)
        X = rng.uniform(-START_RADIUS, START_RADIUS, (POINTS, model.size))
        X[0] = 0
        values, gradients = density.value_and_grad(X)
        finite = np.isfinite(values)
        biased, bias_notes = None, []
        if spec.leaves and (log_joint.num_rows or 0) > 1 and finite.any():
            biased, note = bias(model, data, spec, X[finite][:BIAS_POINTS], rng)
            bias_notes.append(note)
    unused = [name for name in model.latents if name not in log_joint.used]
    problems = [f"log_joint never uses {name!r}: its posterior is improper" for name in unused]
    if biased:
        problems.append(biased)
    finite_gradient = np.isfinite(gradients)
    if not finite.any():
        problems.append("the log density is finite at none of the points tried")
    for name, span in model.spans.items():
        bad = ~finite_gradient[finite][:, slice(*span)].all(1)
        if bad.any():
            problems.append(
                f"the gradient of {name!r} is not finite at {bad.sum()} of {finite.sum()} points "
                "where the log density is"
            )
    nan = find_nan(data, spec)
    if nan:
        notes_nan = [f"the {nan}; the log density is finite all the same" if finite.any() else nan]
    else:
        notes_nan = []
    rows = (
        "a scalar log-joint: no minibatches"
        if log_joint.num_rows is None
        else f"{log_joint.num_rows} rows: minibatches are possible"
    )
    notes = (
        f"{float_dtype}; {rows}",
        f"finite at {finite.sum()} of {POINTS} points (zeros, and uniform in "
        f"[-{START_RADIUS:g}, {START_RADIUS:g}] on the real scale)",
        *(
            f"data {n}: {shape} {dtype}"
            for n, (shape, dtype) in zip(spec.names, spec.leaves, strict=True)
        ),
        *bias_notes,
        *notes_nan,
    )
    sizes = np.array([latent.size for latent in model.latents.values()])
    used = np.array([float(name in log_joint.used) for name in model.latents])
    largest = np.array(
        [
            np.max(np.abs(gradients[finite][:, slice(*span)]), initial=0.0)
            for span in model.spans.values()
        ]
    )
    columns = {"real coordinates": sizes, "used": used, "largest gradient": largest}
    return Checkup(model, Table(tuple(model.latents), columns), tuple(problems), notes)
