"""Reading a fit from its file: the contents are validated, and contain no code."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.archive import Archive, Name, read, refused
from advi.core.axes import Categories, check_coords
from advi.core.draw_set import WeightedDraws
from advi.core.errors import describe
from advi.core.jax_config import precision
from advi.core.status import Estimate, Progress, Status
from advi.core.verdict import Level, Verdict
from advi.data.spec import prepare
from advi.diagnostics.figures import figures
from advi.model.density import Density
from advi.model.model import Model, Program
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import Comparison, Examination, FitRecord, OtherMode, Outcome
from advi.results.codec import from_data
from advi.results.storage import KIND, OWN_PLACE, TRACE, VERSION, MissingLogJoint
from advi.results.stored_params import infinite_draws, params_of
from advi.variational.block import Block
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.per_row import PerRow

FLOATS = ("float32", "float64")

Arrays = dict[str, NDArray[Any]]


def read_record(path: Name, known: Iterable[type], source: str = "", like: Any = None) -> FitRecord:
    """Return the record of a fit in a file; see `load`. `source` names it, if not its path."""
    archive, classes = read(path, KIND, VERSION), tuple(known)
    with refused(path, KIND):
        model = _model(source or str(path), archive, classes)
    if like is not None:
        model = model.arranged_like(like)
    with refused(path, KIND):
        record = _record(model, archive, classes)
        figures(record)  # which fails on arrays that do not match the latents
        return record


def _record(model: Model, archive: Archive, known: tuple[type, ...]) -> FitRecord:
    document, arrays = archive.document, dict(archive.arrays)
    float_dtype = document["float"]
    if float_dtype not in FLOATS:
        raise ValueError(f"its float type is {float_dtype!r}; expected one of {FLOATS}")
    _check_values(model, float_dtype, archive.num_bytes)
    _group(arrays, "held.")
    blocks = tuple(_block(data, model, known) for data in document["blocks"])
    if sorted(name for block in blocks for name in block.names) != sorted(model.latents):
        raise ValueError("its families do not cover every latent once")
    guide = Guide(model, blocks, tuple(map(str, document["choices"])))
    params = tuple(
        params_of(guide, i, _group(arrays, f"params.{i}."), float_dtype) for i in range(len(blocks))
    )
    density = Density(model, *prepare(None, float_dtype), guide.estimated)
    density.num_values = int(document["num_values"])
    steps = len(arrays["trace.step"])
    trace = [_take(arrays, f"trace.{k}", dtype, steps).tolist() for k, dtype in TRACE.items()]
    words = [int(word) for word in document["key"]]
    name, message = document["status"]
    weighted = _corrected(arrays, model.size)
    outcome = Outcome(
        Status(str(name), str(message)),
        Estimate(*_take(arrays, "elbo", float, 2).tolist()),
        [Progress(*row) for row in zip(*trace, strict=True)],
        int(document["num_gradients"]),
        float(_take(arrays, "held_out_gap", float)),
        _modes(arrays, model.size),
        **_read_further(archive),
    )
    examination = _examination(document, arrays)
    infinite = infinite_draws(guide, params, weighted, float_dtype)
    if infinite != document.get("infinite", []):
        raise ValueError(f"its draws of {', '.join(infinite) or 'no latent'} are infinite")
    if arrays:
        raise ValueError(f"it holds arrays that no fit has, {', '.join(arrays)}")
    if guide.local:
        posterior = LocalPosterior.of(guide, params, density)
    else:
        posterior = GlobalPosterior(guide, params, density, weighted)
    key = words[0] if len(words) == 1 else np.array(words, np.uint32)
    return FitRecord(posterior, outcome, key, examination)


def _read_further(archive: Archive) -> dict[str, Any]:
    """Return the further fields that this version knows, of the types of their defaults."""
    defaults, found = {f.name: f.default for f in dataclasses.fields(Outcome)}, {}
    for name, data in archive.document.get("further", {}).items():
        if name in OWN_PLACE or name not in defaults:
            raise ValueError(f"it holds {name!r}, which no fit has")
        kind = type(defaults[name])
        value = float(data) if kind is float else from_data(data)
        if type(value) is not kind or (
            isinstance(value, tuple) and not all(type(part) is str for part in value)
        ):
            raise ValueError(f"its {name} is {describe(value)}")
        found[name] = value
    return found


def _model(path: str, archive: Archive, known: tuple[type, ...]) -> Model:
    document = archive.document
    num_rows, labels = document["num_rows"], document.get("labels", {})
    dims, coords, categories = (
        {name: tuple(found) for name, found in labels.get(kind, ())}
        for kind in ("dims", "coords", "categories")
    )
    model = Model(MissingLogJoint(path), from_data(document["latents"], known), dims=dims)
    named = {name: Categories(own) for name, own in check_coords(categories).items()}
    model = model.with_labels(check_coords(coords), named)
    values = _group(dict(archive.arrays), "held.")
    held = dict(zip(document.get("held", []), values, strict=True))
    for name, value in held.items():
        numbers = value.dtype.kind == "f" and np.isfinite(value).all()
        if not numbers or value.shape != model.latents[name].shape:
            raise ValueError(f"the value at which it holds {name!r} is {describe(value)}")
    model = model.holding(held)
    row_axes = document.get("row_axes", {})
    model = model.with_program(Program(row_axes=row_axes))
    if model.local or num_rows is not None:
        if not model.local or type(num_rows) is not int or num_rows < 1:
            raise ValueError(f"it has {num_rows} rows of local latents")
        model = model.with_rows(num_rows)
    for name, axis in row_axes.items():
        if type(axis) is not int or not -len(model.latents[name].shape) < axis < 0:
            raise ValueError(f"it has the rows of {name!r} along the axis {axis!r}")
    return model


def _check_values(model: Model, float_dtype: str, num_bytes: int) -> None:
    """Raise ValueError unless the transforms give values of the latents' shapes."""
    # refuse small files that declare huge arrays before any allocation
    if sum(math.prod(latent.shape) for latent in model.latents.values()) > num_bytes:
        raise ValueError("its latents have more entries than the file has bytes")
    with precision(float_dtype):
        values, _ = jax.eval_shape(model.unravel, jax.ShapeDtypeStruct((model.size,), float_dtype))
    for name, value in values.items():
        if value.shape != model.shapes[name]:
            raise ValueError(f"the transform of {name!r} gives values of shape {value.shape}")


def _block(data: Any, model: Model, known: tuple[type, ...]) -> Block:
    block = from_data(data, known)
    if not isinstance(block, Block) or not isinstance(block.family, (Family, PerRow)):
        raise ValueError(f"expected latents and their family, got {describe(block)}")
    if any((name in model.local) != block.local for name in block.names):
        raise ValueError(f"the family of {block.names} is not one for latents such as these")
    if list(block.names) != [name for name in model.latents if name in block.names]:
        raise ValueError(f"expected latents in their order, got {block.names}")
    return block


def _modes(arrays: Arrays, dim: int) -> tuple[OtherMode, ...]:
    num = len(arrays["rivals.elbo_difference"])
    differences = _take(arrays, "rivals.elbo_difference", float, num)
    distances = _take(arrays, "rivals.distance", float, num, dim)
    if "rivals.loc" not in arrays:  # of a file that was written before they were kept
        return tuple(map(OtherMode, differences.tolist(), distances))
    locs, sds = (_take(arrays, f"rivals.{name}", float, num, dim) for name in ("loc", "sds"))
    gaussians = (
        Gaussian.diagonal(loc, sd) if np.isfinite([loc, sd]).all() and (sd > 0).all() else None
        for loc, sd in zip(locs, sds, strict=True)
    )
    return tuple(map(OtherMode, differences.tolist(), distances, gaussians))


def _corrected(arrays: Arrays, dim: int) -> WeightedDraws | None:
    if "corrected.points" not in arrays:
        return None
    num = len(arrays["corrected.points"])
    points = _take(arrays, "corrected.points", float, num, dim)
    weights = _take(arrays, "corrected.weights", float, num)
    if not (np.isfinite(points).all() and weights.min() >= 0 and np.isclose(weights.sum(), 1)):
        raise ValueError("its corrected draws or their weights are not finite, or not normalised")
    return WeightedDraws(points, weights)


def _examination(document: Mapping[str, Any], arrays: Arrays) -> Examination | None:
    if "verdict" not in document:
        return None
    level, reasons, action = document["verdict"]
    if level not in get_args(Level):
        raise ValueError(f"its verdict is {level!r}; expected one of {get_args(Level)}")
    comparison = None
    if "method" in document:
        num = len(arrays["shift"])
        shift, log_ratio = (_take(arrays, name, float, num) for name in ("shift", "log_ratio"))
        comparison = Comparison(shift, log_ratio, str(document["method"]))
    verdict = Verdict(level, tuple(map(str, reasons)), str(action))
    return Examination(verdict, float(_take(arrays, "khat", float)), comparison)


def _take(arrays: Arrays, name: str, dtype: Any, *shape: int) -> NDArray[Any]:
    """Remove an array from the remaining ones; ValueError for another dtype or shape."""
    array = arrays.pop(name)
    if array.dtype.kind != np.dtype(dtype).kind or array.shape != shape:
        raise ValueError(f"{name} is {describe(array)}; expected shape {shape}")
    return array


def _group(arrays: Arrays, prefix: str) -> list[NDArray[Any]]:
    """Remove the arrays PREFIX0, PREFIX1 and so on from the remaining ones."""
    return [arrays.pop(f"{prefix}{k}") for k in range(sum(n.startswith(prefix) for n in arrays))]
