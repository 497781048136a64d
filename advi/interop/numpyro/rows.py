"""Which plate of a NumPyro model runs over the rows of the data."""

from dataclasses import dataclass

from advi.data import DataSpec
from advi.errors import unknown
from advi.interop.numpyro.sites import Sites


@dataclass(frozen=True)
class RowsPlate:
    """The plate that runs over rows of the data."""

    name: str
    size: int
    leaf: int | None  # a data leaf that runs over them; None where there is no data
    local: tuple[str, ...]  # latents inside it


def rows_plate(rows: str | None, sites: Sites, spec: DataSpec) -> RowsPlate | None:
    """Return the plate of the rows: the one asked for, or the one that can be.

    Raises
    ------
    ValueError
        If the plate that is asked for has no observed site, or no data leaf has its leading axis.
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
    local = tuple(
        sites.latent_name(latent)
        for latent, site in sites.unknowns.items()
        if name in {frame.name for frame in site.frames}
    )
    return RowsPlate(name, size, leaf, local)


def _natural_rows(sites: Sites) -> str | None:
    """Return the one plate that is subsampled, or else leads the axes of all that is observed."""
    if len(sites.subsampled) == 1:
        return sites.subsampled[0]
    leading = {
        frame.name
        for frames, axes in sites.observed
        for frame in frames
        if frame.dim == -axes and all(frame in others for others, _ in sites.observed)
    }
    return leading.pop() if len(leading) == 1 else None
