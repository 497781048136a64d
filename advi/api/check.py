"""check(): the examination of a model before any fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from advi.core.axes import check_coords
from advi.core.jax_config import default_float, precision
from advi.core.keys import Stream, host_rng
from advi.core.table import Table
from advi.core.types import Bools, Floats
from advi.data.open_source import open_source
from advi.data.row_subset import RowSubset
from advi.data.spec import DataSpec, find_nan, prepare
from advi.model.axis_labels import labelled
from advi.model.checks.flat import flat_entries, sentence
from advi.model.checks.gradients import mismatches
from advi.model.checks.minibatch_bias import bias
from advi.model.checks.ridges import combination, ridges
from advi.model.checks.tails import growth
from advi.model.density import Density
from advi.model.indices import check_data_indices
from advi.model.model import Model
from advi.model.resolve import ModelFactory, bind, check_model, check_on_host
from advi.model.rows import count_rows, for_rows
from advi.model.trace import LogJoint, trace
from advi.model.transform_checks import transform_faults
from advi.transforms import Identity

START_RADIUS = 2.0  # of the box in which a fit starts
POINTS, BIAS_POINTS = 16, 4
FINITE = 8  # points of which one side of zero has none, and one more for twice the coordinates
LOOKS = 32  # further points, for flat entries and wrong gradients
SLOPE_WORK = 2**30  # elements read: some seconds
ROWS = 256  # of a model with local latents, whose coordinates grow with them


@dataclass(frozen=True)
class Checkup:
    """The result of `check`.

    Attributes
    ----------
    latents
        A table of the latents: number of real coordinates, whether the log-joint uses them, and
        the largest gradient seen.
    problems
        Obstacles to a fit, one sentence each.
    notes
        Facts: dtypes, rows, where the log density was finite.
    """

    model: Model
    latents: Table
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def __repr__(self) -> str:
        lines = [repr(self.model), "", str(self.latents), ""]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join(lines)


def check(
    model: Model | ModelFactory,
    data: Any = None,
    *,
    coords: Mapping[str, Any] | None = None,
    num_rows: int | None = None,
    key: Any = 0,
    x64: bool | None = None,
) -> Checkup:
    """Examine a model: shapes and dtypes, unused latents, finite values and gradients, minibatches.

    It names entries of latents, and combinations of them, on which the log density does not depend;
    latents along which its gradient is not the slope of its values; indices in the data that are
    out of bounds; and transforms with a wrong log-Jacobian or inverse. Where the log-joint has
    rows, batches that add up to all rows must give its value and its gradient on average:
    otherwise a minibatch fit is biased.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    data
        Its data. Of a model with local latents the first 256 rows are examined, of a stream the
        first batch.
    coords, num_rows
        As in `fit`.
    key
        Integer or JAX key, for the random points.
    x64
        As in `fit`.

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
    check_on_host(data)
    rng, user_model, given = host_rng(key, Stream.MODEL_CHECK), model, data
    float_dtype = default_float(x64)
    with precision(float_dtype):
        labels = check_coords(coords)
        source = open_source(data, num_rows, None, float_dtype, labels)
        data, spec = prepare(source.example, float_dtype)
        model = labelled(bind(model, data, spec, source.streamed), source, labels)
        if source.streamed:
            source.check_model(
                bool(model.local), model.program.needs_all_rows, model.program.declared_rows
            )
        whole, all_rows = not source.streamed, for_rows(model, spec, source.num_rows)
        outside = _outside(all_rows, trace(all_rows, spec), spec, data)
        if model.local:
            rows = RowSubset.of(data, spec, count_rows(model, spec, source.num_rows))
            data, spec = rows.head(ROWS)
            model = model.with_rows(min(ROWS, len(rows.index)))
            whole = whole and len(rows.index) <= ROWS  # other rows may depend on further entries
        density = Density(model, data, spec)
        log_joint = trace(model, spec)
        wrong = [*transform_faults(model, float_dtype)]
        X = rng.uniform(-START_RADIUS, START_RADIUS, (POINTS, model.size))
        X[0] = 0
        values, gradients = density.value_and_grad(X)
        finite = np.isfinite(values)
        biased, bias_note = None, None
        if spec.leaves and (log_joint.num_rows or 0) > 1 and finite.any():
            biased, bias_note = bias(model, data, spec, X[finite][:BIAS_POINTS], rng)
        with np.errstate(all="ignore"):
            more = rng.uniform(-START_RADIUS, START_RADIUS, (LOOKS, model.size))
            look = more, *density.value_and_grad(more)
            found = mismatches(density, *look, work=SLOPE_WORK)
            flat = flat_entries(density, *look) if whole else []
            improper = [sentence(model, list(flat))] if len(flat) else []
            if whole and not improper and len(ridges(density, rng, START_RADIUS)):
                improper = _along(user_model, given, rng, model)
            if not improper and finite.any():
                far = growth(density, X[finite][-1])
                improper = [] if far is None else [str(far)]
    unused = [name for name in model.latents if name not in log_joint.used]
    problems = [f"log_joint never uses {name!r}: its posterior is improper" for name in unused]
    problems += [] if unused else improper
    problems += wrong + (outside or list(map(str, found)))
    if biased:
        problems.append(biased)
    if not finite.any():
        problems.append("the log density is finite at none of the points tried")
    points, known = (
        np.concatenate([X[1:], more]),
        np.concatenate([finite[1:], np.isfinite(look[1])]),
    )
    problems += _half_lines(model, points, known)
    for name, span in model.spans.items():
        bad = ~np.isfinite(gradients[finite][:, slice(*span)]).all(1)
        if bad.any():
            where = f"at {bad.sum()} of {finite.sum()} points where the log density is"
            problems.append(f"the gradient of {name!r} is not finite {where}")
    rows = f"{log_joint.num_rows} rows: minibatches are possible"
    if log_joint.num_rows is None:
        rows = "a scalar log-joint: no minibatches"
    notes = [
        f"{float_dtype}; {rows}",
        f"finite at {finite.sum()} of {POINTS} points (zeros, and uniform in "
        f"[-{START_RADIUS:g}, {START_RADIUS:g}] on the real scale)",
    ]
    leaves = zip(spec.names, spec.leaves, strict=True)
    notes += [f"data {name}: {shape} {dtype}" for name, (shape, dtype) in leaves]
    notes += ["of a stream the first batch alone was examined"] * source.streamed
    notes += [] if bias_note is None else [bias_note]
    if nan := find_nan(data, spec):
        notes.append(f"the {nan}; the log density is finite all the same" if finite.any() else nan)
    sizes = [latent.size for latent in model.latents.values()]
    used = [float(name in log_joint.used) for name in model.latents]
    size = np.abs(gradients[finite])
    largest = [np.max(size[:, slice(*span)], initial=0.0) for span in model.spans.values()]
    columns = {"real coordinates": sizes, "used": used, "largest gradient": largest}
    table = Table(tuple(model.latents), {name: np.array(v) for name, v in columns.items()})
    return Checkup(model, table, tuple(problems), tuple(notes))


def _half_lines(model: Model, X: Floats, finite: Bools) -> list[str]:
    """Return a sentence on each real latent on one side of zero of which nothing is finite.

    Of random points `X` (n, D) and whether the log density is `finite` (n,) there.
    """
    if finite.all() or finite.sum() < FINITE + np.log2(2 * model.size):
        return []  # by chance, too, they may all lie on one side
    found = []
    for name, (start, stop) in model.spans.items():
        if not isinstance(model.latents[name].bijection, Identity):
            continue
        above = X[finite, start:stop] > 0
        for side, sign, support in (above, ">", "positive()"), (~above, "<", "less_than(0)"):
            if len(entries := np.flatnonzero(side.all(0))):
                found.append(
                    f"the log density is finite only where {model.coordinates[name][entries[0]]} "
                    f"{sign} 0; if that is its support, declare it as advi.{support}"
                )
    return found


def _outside(model: Model, log_joint: LogJoint, spec: DataSpec, data: Any) -> list[str]:
    """Return the message on the first index in the data that is out of bounds, if any."""
    try:
        check_data_indices(model, log_joint, spec, data)
    except ValueError as error:
        return [str(error)]
    return []


def _along(
    model: Model | ModelFactory, data: Any, rng: np.random.Generator, named: Model
) -> list[str]:
    """Return a sentence on each combination without effect on the log density.

    In double precision: in single precision, a wide prior is a constant. `named` has the labels.
    """
    with precision("float64"):
        data, spec = prepare(data, "float64", named.known_names)
        model = for_rows(bind(model, data, spec), spec)
        model = model.with_labels(named.coords, named.categories)
        found = ridges(Density(model, data, spec), rng, START_RADIUS)
    return [
        f"log_joint does not change along {combination(model, direction)}: the posterior is "
        "improper along this combination. Give one of its terms a prior, or take one away; "
        "effects that sum to zero are advi.zero_sum(k)."
        for direction in found
    ]
