"""The labels of a fit: those that the user gives, and those that tables bring along."""

from collections.abc import Iterable

from advi.core.axes import Label, Labels, labels_of
from advi.core.errors import unknown
from advi.data.source import Source
from advi.data.tables import Names
from advi.model.model import Model
from advi.model.rows import for_rows


def labelled(model: Model, source: Source, coords: Labels) -> Model:
    """Return a model with labels along its axes, those of `coords` first.

    Others are the categories of the column of an axis' name, or the coords of a Dataset. ValueError
    if an axis of `coords` is unknown, or labels are not as many as the entries along their axis.
    """
    names = source.names
    if not (coords or names.categories or names.coords):
        return model
    lengths = _lengths(model, source)
    for axis, labels in coords.items():
        if axis in lengths:
            if len(labels) != lengths[axis]:
                raise ValueError(
                    f"coords: got {len(labels)} labels for {axis!r}; expected {lengths[axis]}, one "
                    "for each entry along that axis."
                )
        elif axis not in names.categories:
            raise ValueError(f"coords: {_unknown(model, source, axis, lengths)}")
    found: dict[str, tuple[Label, ...]] = {a: ls for a, ls in coords.items() if a in lengths}
    for axis in [*names.categories, *names.coords]:
        if axis in lengths and axis not in found:
            found[axis] = _of_data(axis, names, lengths[axis])
    return model.with_labels(found, names.categories)


def differently_labelled(model: Model, other: Model) -> str | None:
    """Return a latent along which both models have labels, but not the same ones, or None."""
    for name in (name for name in model.latents if name in other.latents):
        own, others = (m.axes.labels(name, m.shapes[name]) for m in (model, other))
        if any(a and b and a != b for a, b in zip(own, others, strict=False)):
            return name
    return None


def check_start(model: Model, start: Model) -> None:
    """Raise ValueError if the model of a fit to start from has other labels than a model."""
    name = differently_labelled(model, start)
    if name is not None:
        raise ValueError(
            f"init: got a fit with other labels along {name!r}, or in another order; expected the "
            "same ones. Give those of that fit as coords, or init=fit.mean() to begin at its "
            "values whatever their labels."
        )


def _lengths(model: Model, source: Source) -> dict[str, int]:
    """Return the length of every axis that may have labels: of a stream not that of its rows."""
    if source.streamed:  # where deterministic quantities are not shown, either
        shared = {name: v.shape for name, v in model.latents.items() if name not in model.local}
        return model.axes.lengths(shared)
    at = for_rows(model, source.spec, source.num_rows)
    return at.axes.lengths({**at.shapes, **at.program.shapes})


def _of_data(axis: str, names: Names, length: int) -> tuple[Label, ...]:
    """Return the labels that data give an axis; ValueError if they do not fit it."""
    is_column = axis in names.categories
    given = (names.categories if is_column else names.coords)[axis]
    labels = labels_of(f"data: the coordinate {axis!r} of a Dataset", given)
    if len(labels) != length:
        what = f"categories in the column {axis!r}" if is_column else f"labels along {axis!r}"
        raise ValueError(
            f"data: got {len(labels)} {what}, but the axis of that name has {length} entries in "
            f"the model; expected as many. If the data lack some, name all of them in the order of "
            f"the entries: coords={{{axis!r}: [...]}}."
        )
    return labels


def _unknown(model: Model, source: Source, axis: str, known: Iterable[str]) -> str:
    message = unknown("axis", axis, known)
    if source.streamed and axis in model.row_dims:
        return f"{message} The rows of a stream have no labels."
    if model.axes.dims:
        return message
    return (
        f"{message} The model names no axes. Name them by dims, such as advi.Model(log_joint, "
        'latents, dims={"eta": ["county"]}), or by the plates of a NumPyro model.'
    )
