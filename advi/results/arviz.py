"""Fits for ArviZ: draws, densities, pointwise log-likelihood, data and what the fit says of itself.

The groups are plain xarray datasets. ArviZ from 1.0 on, and arviz-base, take them as a DataTree;
older ones as InferenceData.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from advi.core.arrays import on_host
from advi.core.errors import describe, unknown
from advi.data.arrays import check_rows
from advi.posterior.predict import row_terms
from advi.results.storage import NotStored

if TYPE_CHECKING:
    from advi.results.fit import Fit

SAMPLE_DIMS = ("chain", "draw")
ROW = "row"  # dimension of the data's rows, unless dims names it
NOTHING: Mapping[str, Any] = MappingProxyType({})


def to_dict(fit: "Fit", n: int, key: Any) -> dict[str, NDArray]:
    """Return draws by the latent's name, host arrays (n, *shape)."""
    named = fit.model.named(fit.sample(n, key))
    in_order = dict.fromkeys(fit.model.latents) | named
    return {name: on_host(values) for name, values in in_order.items()}


def to_arviz(
    fit: "Fit",
    n: int,
    key: Any,
    dims: Mapping[str, Sequence[str]] | None,
    coords: Mapping[str, Any] | None,
) -> Any:
    """Return the groups of a fit as a DataTree, or as InferenceData for ArviZ before 1.0."""
    for name, given in (("dims", dims), ("coords", coords)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{name}: got {describe(given)}; expected a dict.")
    posterior = {name: values[None] for name, values in to_dict(fit, n, key).items()}
    data, rows = _data(fit), _log_likelihood(fit, posterior)
    shapes = {name: values.shape for name, values in data.items()}
    shapes |= {name: values.shape[2:] for name, values in posterior.items()}
    dims, coords = dict(dims or {}), dict(coords or {})
    _check(shapes, dims, coords)
    # where a latent and a data leaf share a name, dims are the latent's
    of_data = {name: axes for name, axes in dims.items() if name not in posterior}
    by_row = _row_leaves(fit)
    row = next((of_data[name][0] for name in by_row if name in of_data), ROW)
    of_data = dict.fromkeys(by_row, (row,)) | of_data
    dims = dict.fromkeys(fit.guide.local, (row,)) | dims
    if fit.verdict.level == "poor":
        warnings.warn(_caution(fit), UserWarning, stacklevel=3)
    groups = {
        "posterior": _dataset(posterior, SAMPLE_DIMS, dims, coords, _report(fit)),
        "trace": _dataset(*_trace(fit)),
    }
    if not fit.guide.local:  # otherwise there is no one vector
        groups["sample_stats"] = _dataset(_densities(fit, n, key), SAMPLE_DIMS)
    if rows is not None:
        groups["log_likelihood"] = _dataset(
            {"rows": rows[None]}, (*SAMPLE_DIMS, row), coords=coords
        )
    if data:
        groups["observed_data"] = _dataset(data, (), of_data, coords)
    if find_spec("arviz_base") is None and find_spec("arviz") is not None:
        # before 1.0: later ones come with arviz_base, and have no such class
        return import_module("arviz").InferenceData(**groups)
    return _xarray().DataTree.from_dict(groups)


def _caution(fit: "Fit") -> str:
    """Return what ArviZ cannot see of a poor fit, and what to give it instead."""
    next_one = "use fit.corrected().to_arviz()"
    # a fit that was not examined is poor because it was still moving
    if fit.corrected_draws is not None or fit.guide.local or fit.checked is None:
        next_one = fit.verdict.action.removesuffix(".")
    return (
        "to_arviz: the verdict on these draws is 'poor', and ArviZ will take them for draws from "
        f"the posterior: its intervals, k-hats and comparisons do not see the error of the fit. "
        f"Next: {next_one}; the reasons are in fit.verdict."
    )


def _report(fit: "Fit") -> dict[str, Any]:
    """Return what the fit says of itself, as attributes: text and numbers."""
    return {
        "family": fit.guide.description,
        "status": str(fit.status),
        "status_message": fit.status.message,
        "elbo": fit.elbo.value,
        "elbo_mcse": fit.elbo.mcse,
        "khat": fit.khat,
        "verdict": fit.verdict.level,
        "verdict_reasons": "\n".join(fit.verdict.reasons),
        "verdict_action": fit.verdict.action,
        "corrected": int(fit.corrected_draws is not None),  # netCDF has no booleans
    }


def _trace(fit: "Fit") -> tuple[Any, ...]:
    """Return ELBO and stage at every step of the fit, as `_dataset` takes them."""
    stages = np.array([progress.stage for progress in fit.trace], dtype=str)
    steps = np.array([progress.step for progress in fit.trace], dtype=int)
    return {"elbo": fit.elbo_trace, "stage": stages}, ("step",), NOTHING, {"step": steps}


def _densities(fit: "Fit", n: int, key: Any) -> dict[str, NDArray]:
    """Return the log densities of the draws on R^D, (1, n), nats."""
    X, E = fit.sample_points(n, key)
    densities = {} if _lacks_data(fit) else {"log_p": fit.density.value(X)[None]}
    if E is not None:  # corrected draws are none of q
        densities["log_q"] = fit.structure.log_q(E, fit.gaussian)[None]
    return densities


def _log_likelihood(fit: "Fit", posterior: Mapping[str, NDArray]) -> NDArray | None:
    """Return `Terms.rows` at every draw, (n, N), nats, unscaled; None of a scalar log-joint."""
    density = fit.density
    if _lacks_data(fit) or density.log_joint.num_rows is None:
        return None
    draws = {name: posterior[name][0] for name in density.model.latents}
    return row_terms(density, fit.model.to_tree(draws))


def _lacks_data(fit: "Fit") -> bool:
    """Whether the data are not there: loaded without them, or read a few rows at a time."""
    return fit.density.scale != 1 or isinstance(fit.model.log_joint, NotStored)


def _data(fit: "Fit") -> dict[str, NDArray]:
    if _lacks_data(fit):
        return {}
    leaves = jax.tree.leaves(fit.density.data)
    return {
        name: jax.device_get(leaf)
        for name, leaf in zip(fit.density.spec.names, leaves, strict=True)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _row_leaves(fit: "Fit") -> list[str]:
    """Return the names of the data leaves whose leading axis runs over rows."""
    if _lacks_data(fit) or fit.density.log_joint.num_rows is None:
        return []
    rows, spec = fit.density.log_joint.num_rows, fit.density.spec
    per_row = check_rows(rows, spec)
    return [name for name, is_row in zip(spec.names, per_row, strict=True) if is_row]


def _check(shapes: Mapping[str, Any], dims: Mapping[str, Any], coords: Mapping[str, Any]) -> None:
    """Raise ValueError unless dims and coords fit the shapes."""
    sizes: dict[str, int] = {}
    for name, axes in dims.items():
        if name not in shapes:
            raise ValueError(f"dims: {unknown('latent or data leaf', name, shapes)}")
        if not _are_names(axes) or len(axes) != len(shapes[name]):
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


def _are_names(axes: Any) -> bool:
    return isinstance(axes, (list, tuple)) and all(isinstance(axis, str) for axis in axes)


def _dataset(
    values: Mapping[str, Any],
    lead: Sequence[str],
    dims: Mapping[str, Sequence[str]] = NOTHING,
    coords: Mapping[str, Any] = NOTHING,
    report: Mapping[str, Any] = NOTHING,
) -> Any:
    """Return an xarray dataset; axes without a name are called NAME_dim_0 and so on."""
    variables, sizes = {}, {}
    for name, value in values.items():
        flat = name.replace("/", ".")  # a slash would be a group to xarray
        own = (*lead, *dims.get(name, ()))
        rest = range(value.ndim - len(own))
        axes = (*own, *(f"{flat}_dim_{k}" for k in rest))
        variables[flat] = (axes, value)
        sizes |= dict(zip(axes, value.shape, strict=True))
    taken = [axis for axis in sizes if axis in variables]
    if taken:
        raise ValueError(
            f"dims: {taken[0]!r} is the name of a variable beside it; expected another for an axis."
        )
    labels = {axis: coords.get(axis, np.arange(size)) for axis, size in sizes.items()}
    return _xarray().Dataset(variables, labels, {"inference_library": "advi", **report})


def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise ImportError('to_arviz needs xarray: pip install "advi[arviz]"') from error
    return xarray
