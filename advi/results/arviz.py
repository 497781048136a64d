"""Export of a fit to ArviZ.

The groups are plain xarray datasets: a DataTree for ArviZ from 1.0 on and for arviz-base,
InferenceData for older versions.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from advi.core.axes import Labels
from advi.core.errors import check_count, describe, unknown
from advi.diagnostics.alarms import verdict_on
from advi.model.model import ROW
from advi.posterior.base import density_of
from advi.posterior.predict import row_terms
from advi.posterior.record import FitRecord
from advi.results.storage import MissingLogJoint

SAMPLE_DIMS = ("chain", "draw")
ROWS = "rows"  # the variable of log-likelihoods
NOTHING: Mapping[str, Any] = MappingProxyType({})


def to_dict(record: FitRecord, n: int, key: Any) -> dict[str, NDArray]:
    """Return draws by the latent's name, host arrays (n, *shape)."""
    check_count("n", n)
    posterior = record.posterior
    at = posterior.on(None) if posterior.guide.local else posterior
    return {k: np.asarray(v, posterior.float_dtype) for k, v in at.sample(n, key).items()}


def to_arviz(
    record: FitRecord,
    n: int,
    key: Any,
    dims: Mapping[str, Sequence[str]] | None,
    coords: Mapping[str, Any] | None,
) -> Any:
    """Return the groups of a fit as a DataTree, or as InferenceData for ArviZ before 1.0."""
    for name, given in (("dims", dims), ("coords", coords)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{name}: got {describe(given)}; expected a dict.")
    posterior, num_chains = _by_chain(record, n, key)
    data, rows = _data(record), _log_likelihood(record, posterior)
    shapes = {name: values.shape for name, values in data.items()}
    shapes |= {name: values.shape[2:] for name, values in posterior.items()}
    axes = record.posterior.model.axes
    own = {n: axes.names(n, len(shapes[n])) for n in posterior if n in axes.dims}
    given, dims = dict(dims or {}), own | dict(dims or {})
    _check(shapes, dims, dict(coords or {}))
    # where a latent and a data leaf share a name, dims are the latent's
    of_data = {name: named for name, named in given.items() if name not in posterior}
    leaves, local = _row_leaves(record), record.posterior.model.local
    row_axes = record.posterior.model.row_axes
    rows_of_fit = next((dims[n][row_axes.get(n, 0)] for n in posterior if n in local), ROW)
    row = ROW if rows_of_fit in (ROWS, *data) else rows_of_fit  # a variable beside it
    row = next((of_data[name][0] for name in leaves if name in of_data), row)
    of_data = dict.fromkeys(leaves, (row,)) | of_data
    for name in local & posterior.keys() - given.keys():
        dims[name] = _with_row(dims[name], row_axes.get(name, 0), row)
    labels = {row: axes.coords.get(rows_of_fit, ()), **axes.coords}
    coords = _fitting(labels, dims, shapes) | dict(coords or {})
    if verdict_on(record).level == "poor":
        warnings.warn(_caution(record), UserWarning, stacklevel=3)
    groups = {
        "posterior": _dataset(posterior, SAMPLE_DIMS, dims, coords, _report(record)),
        "trace": _dataset(*_trace(record)),
    }
    if not record.posterior.guide.local:
        densities = _densities(record, n, key)
        stats = {name: v.reshape(num_chains, -1) for name, v in densities.items()}
        groups["sample_stats"] = _dataset(stats, SAMPLE_DIMS)
    if rows is not None:
        by_row = {ROWS: rows.reshape(num_chains, -1, rows.shape[1])}
        groups["log_likelihood"] = _dataset(by_row, (*SAMPLE_DIMS, row), coords=coords)
    if data:
        groups["observed_data"] = _dataset(data, (), of_data, coords)
    if find_spec("arviz_base") is None and find_spec("arviz") is not None:
        # before 1.0: later versions come with arviz_base, without this class
        return import_module("arviz").InferenceData(**groups)
    return _xarray().DataTree.from_dict(groups)


def _by_chain(record: FitRecord, n: int, key: Any) -> tuple[dict[str, NDArray], int]:
    """Return draws by name, (chains, draws, *shape), and the number of chains.

    Draws of chains are all that there are; others are `n` of one chain.
    """
    num = record.outcome.num_chains
    if not num:
        return {name: values[None] for name, values in to_dict(record, n, key).items()}, 1
    check_count("n", n)
    shown = record.global_posterior.shown_draws.values
    return {
        name: np.asarray(v, record.posterior.float_dtype).reshape(num, -1, *v.shape[1:])
        for name, v in shown.items()
    }, num


def _caution(record: FitRecord) -> str:
    """Return the warning for a poor fit, with the next action."""
    next_one = "use fit.corrected().to_arviz()"
    # a fit that was not examined is poor because it was still moving
    weighted, local = record.posterior.weighted is not None, record.posterior.guide.local
    if weighted or local or record.examination is None:
        next_one = verdict_on(record).action.removesuffix(".")
    return (
        "to_arviz: the verdict on these draws is 'poor', and ArviZ will take them for draws from "
        f"the posterior: its intervals, k-hats and comparisons do not see the error of the fit. "
        f"Next: {next_one}; the reasons are in fit.verdict."
    )


def _report(record: FitRecord) -> dict[str, Any]:
    """Return attributes of the fit, text and numbers."""
    outcome, verdict = record.outcome, verdict_on(record)
    return {
        "family": record.posterior.guide.description,
        "status": str(outcome.status),
        "status_message": outcome.status.message,
        "elbo": outcome.elbo.value,
        "elbo_mcse": outcome.elbo.mcse,
        "khat": record.khat,
        "verdict": verdict.level,
        "verdict_reasons": "\n".join(verdict.reasons),
        "verdict_action": verdict.action,
        "corrected": int(record.posterior.weighted is not None),  # netCDF has no booleans
    }


def _trace(record: FitRecord) -> tuple[Any, ...]:
    """Return the arguments of `_dataset` for ELBO and stage at every step."""
    trace = record.outcome.trace
    elbo = np.array([progress.elbo for progress in trace])
    stages = np.array([progress.stage for progress in trace], dtype=str)
    steps = np.array([progress.step for progress in trace], dtype=int)
    return {"elbo": elbo, "stage": stages}, ("step",), NOTHING, {"step": steps}


def _densities(record: FitRecord, n: int, key: Any) -> dict[str, NDArray]:
    """Return the log densities of the draws on R^D, (n,), nats."""
    posterior = record.global_posterior
    X, log_q = posterior.sample_points(n, key)
    if record.outcome.num_chains and posterior.weighted is not None:
        X = posterior.weighted.points
    densities = {} if _lacks_data(record) else {"log_p": posterior.density.value(X)}
    if log_q is not None:  # corrected draws are none of q
        densities["log_q"] = log_q
    return densities


def _log_likelihood(record: FitRecord, posterior: Mapping[str, NDArray]) -> NDArray | None:
    """Return `Terms.rows` at every draw, (n, N), nats; None for a scalar log-joint."""
    density = density_of(record.posterior)
    if _lacks_data(record) or density.log_joint.num_rows is None:
        return None
    draws = {
        name: posterior[name].reshape(-1, *posterior[name].shape[2:])
        for name in density.model.latents
    }
    return row_terms(density, density.model.to_tree(draws))


def _lacks_data(record: FitRecord) -> bool:
    """Return whether the data are absent: not in the file, or read a few rows at a time."""
    density = density_of(record.posterior)
    return density.is_partial or isinstance(density.model.log_joint, MissingLogJoint)


def _data(record: FitRecord) -> dict[str, NDArray]:
    if _lacks_data(record):
        return {}
    density = density_of(record.posterior)
    leaves = jax.tree.leaves(density.data)
    return {
        name: jax.device_get(leaf)
        for name, leaf in zip(density.spec.names, leaves, strict=True)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _row_leaves(record: FitRecord) -> list[str]:
    """Return the names of the data leaves with rows along the leading axis."""
    density = density_of(record.posterior)
    if _lacks_data(record) or density.log_joint.num_rows is None:
        return []
    spec = density.spec.by_row(density.log_joint.num_rows)
    return [name for name, is_row in zip(spec.names, spec.per_row, strict=True) if is_row]


def _with_row(dims: Sequence[str], axis: int, row: str) -> list[str]:
    """Return the names of axes with that of the rows in its place."""
    named = list(dims)
    named[axis] = row
    return named


def _check(shapes: Mapping[str, Any], dims: Mapping[str, Any], coords: Mapping[str, Any]) -> None:
    """Raise ValueError unless dims and coords fit the shapes."""
    sizes: dict[str, int] = {}
    for name, axes in dims.items():
        if name not in shapes:
            raise ValueError(f"dims: {unknown('latent or data leaf', name, shapes)}")
        are_names = isinstance(axes, (list, tuple)) and all(isinstance(x, str) for x in axes)
        if not are_names or len(axes) != len(shapes[name]):
            raise ValueError(
                f"dims: got {axes!r} for {name!r}; expected a list of {len(shapes[name])} names, "
                f"one for each axis of its shape {shapes[name]}."
            )
        if len({*axes, *SAMPLE_DIMS}) != len(axes) + len(SAMPLE_DIMS):
            raise ValueError(
                f"dims: got {axes!r} for {name!r}; expected names that differ from one another, "
                f"and from {', '.join(SAMPLE_DIMS)}."
            )
        sizes |= dict(zip(axes, shapes[name], strict=True))
    for axis, labels in coords.items():
        if axis not in sizes:
            raise ValueError(f"coords: {unknown('dimension', axis, sizes)} Name it in dims.")
        if np.ndim(labels) != 1:
            raise TypeError(f"coords: got {describe(labels)} for {axis!r}; expected a list.")
        if len(labels) != sizes[axis]:
            raise ValueError(
                f"coords: got {len(labels)} labels for {axis!r}; expected {sizes[axis]}."
            )


def _fitting(
    coords: Labels, dims: Mapping[str, Sequence[str]], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the labels of a fit along the axes that have its names still."""
    sizes = {axis: n for name in dims for axis, n in zip(dims[name], shapes[name], strict=True)}
    return {a: list(ls) for a, ls in coords.items() if sizes.get(a) == len(ls)}


def _dataset(
    values: Mapping[str, Any],
    lead: Sequence[str],
    dims: Mapping[str, Sequence[str | None]] = NOTHING,
    coords: Mapping[str, Any] = NOTHING,
    report: Mapping[str, Any] = NOTHING,
) -> Any:
    """Return an xarray dataset; axes without a name are called NAME_dim_0 and so on."""
    variables, sizes = {}, {}
    for name, value in values.items():
        axes = [*lead, *dims.get(name, ())]
        axes += [f"{name}_dim_{k}" for k in range(value.ndim - len(axes))]
        variables[_flat(name)] = ([_flat(axis) for axis in axes], value)
        sizes |= dict(zip(axes, value.shape, strict=True))
    taken = [axis for axis in sizes if _flat(axis) in variables]
    if taken:
        raise ValueError(
            f"dims: {taken[0]!r} is the name of a variable beside it; expected another for an axis."
        )
    labels = {_flat(axis): coords.get(axis, np.arange(size)) for axis, size in sizes.items()}
    return _xarray().Dataset(variables, labels, {"inference_library": "advi", **report})


def _flat(name: str) -> str:
    return name.replace("/", ".")  # a slash would be a group to xarray


def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise ImportError('to_arviz needs xarray: pip install "advi-engine[arviz]"') from error
    return xarray
