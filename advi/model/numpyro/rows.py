"""The plate of a NumPyro model that runs over the rows of the data, and its local latents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from advi.core.errors import unknown
from advi.data.spec import DataSpec
from advi.model.numpyro.call import Call, argument_path
from advi.model.numpyro.sites import Sites


@dataclass(frozen=True)
class RowsPlate:
    """The plate that runs over rows of the data."""

    name: str
    size: int
    leaf: int | None  # a data leaf with these rows; None without data
    leaves: tuple[str, ...]  # paths of the data leaves with as many rows, from their arguments
    axes: tuple[tuple[str, int], ...]  # local latents, and the axis of rows of each, from the last
    inside: tuple[str, ...]  # latents inside it
    why_not_local: str  # the reason why those are not local; empty if they are

    def without_local(self, reason: str) -> "RowsPlate":
        why = (
            f"the latents {', '.join(map(repr, self.inside))} have a value for each of the "
            f"{self.size} rows of the plate {self.name!r}, but cannot be local: {reason}. Expected "
            "all rows at once: leave out batch_size, streams and families of rows (advi.PerRow, "
            "advi.Amortised)."
        )
        return replace(self, axes=(), why_not_local=why)


def rows_plate(rows: str | None, sites: Sites, spec: DataSpec, call: Call) -> RowsPlate | None:
    """Return the plate of the rows: the one asked for, or the one that qualifies.

    ValueError if the plate asked for has no observed site, or no data leaf has its leading axis.
    """
    around = {frame.name: frame.size for frames, _ in sites.observed for frame in frames}
    name = _natural_rows(sites) if rows is None else rows
    if name not in around:
        if rows is None:
            return None
        raise ValueError(f"rows: {unknown('plate around observed sites', rows, around)}")
    size = around[name]
    leaf = next((i for i, (s, _) in enumerate(spec.leaves) if s and s[0] == size), None)
    if leaf is None and spec.leaves:
        if rows is None:
            return None
        axes = ", ".join(f"{n} {s}" for n, (s, _) in zip(spec.names, spec.leaves, strict=True))
        raise ValueError(
            f"rows: the plate {rows!r} has {size} rows, but no data leaf has that leading axis "
            f"({axes}). Put the axis of the rows first, or leave `rows` out."
        )
    axes = {n: a for n, site in sites.unknowns.items() if (a := site.axis(name)) is not None}
    inside = tuple(map(sites.latent_name, axes))
    shapes = spec.shapes.items()
    leaves = tuple(argument_path(call, n) for n, shape in shapes if shape and shape[0] == size)
    plate = RowsPlate(name, size, leaf, leaves, tuple(axes.items()), inside, "")
    reason = next(_why_not_local(axes.items(), sites, spec), None)
    return plate if reason is None else plate.without_local(reason)


def _why_not_local(axes: Iterable[tuple[str, int]], sites: Sites, spec: DataSpec) -> Iterator[str]:
    """Yield the reasons why latents inside the plate cannot be local."""
    for latent, axis in axes:
        unknown = sites.unknowns[latent]
        if not spec.leaves:
            yield "the model has all of its data already"
        if latent in sites.params:
            yield f"{latent!r} is a parameter"
        if latent in sites.dependent:
            yield f"the support of {latent!r} depends on another latent"
        if unknown.support_varies(axis):
            yield f"the support of {latent!r} differs from row to row"


def _natural_rows(sites: Sites) -> str | None:
    """Return the one plate that is subsampled, or else the leading axis of all observed sites."""
    if len(sites.subsampled) == 1:
        return sites.subsampled[0]
    leading = {
        frame.name
        for frames, axes in sites.observed
        for frame in frames
        if frame.dim == -axes and all(frame in others for others, _ in sites.observed)
    }
    return leading.pop() if len(leading) == 1 else None
