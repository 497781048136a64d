"""The log-joint of a NumPyro model: the sum of its sites' log densities."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers

from advi.interop.numpyro.call import BoundCall
from advi.interop.numpyro.handlers import MovingSupports, WholePlates
from advi.interop.numpyro.rows import RowsPlate
from advi.interop.numpyro.sites import UNCONSTRAINED, Site
from advi.interop.numpyro.unknowns import Tree
from advi.model import Terms


@dataclass(frozen=True)
class SiteDensity:
    """The log-joint of a NumPyro model, as a function of latents and data.

    It is the sum of the sites' log densities. The observed sites inside the rows plate give
    `Terms.rows`, local latents `Terms.prior`, without the factor by which NumPyro scales a
    subsample of that plate.
    """

    call: BoundCall
    plate: RowsPlate | None
    params: tuple[tuple[str, Tree], ...]  # name and tree of every parameter
    moving: tuple[str, ...]  # latents whose support depends on others

    def __call__(self, z: dict[str, Any], data: Any) -> Array | Terms:
        """Return the log-joint, with the log-Jacobian of moving supports."""
        sites, scales, log_det = self.run(z, data)
        shared, by_row = log_det, {}
        for name, site in sites.items():
            if site["type"] != "sample":
                continue
            log_prob = site["fn"].log_prob(site["value"])
            if site["scale"] is not None:
                log_prob = site["scale"] * log_prob
            axis = self._rows_axis(name, site)
            if axis is None:
                shared = shared + jnp.sum(log_prob)
            else:
                assert self.plate is not None
                others = [i for i in range(log_prob.ndim) if i != log_prob.ndim + axis]
                row = jnp.sum(log_prob, others) / scales.get(self.plate.name, 1.0)
                part = "rows" if site["is_observed"] else "prior"
                by_row[part] = by_row[part] + row if part in by_row else row
        return Terms(shared, **by_row) if by_row else shared

    def run(self, z: dict[str, Any], data: Any) -> tuple[dict[str, Site], dict[str, float], Array]:
        """Run the model; return its sites, NumPyro's scales of its plates, and a log-Jacobian."""
        trees = {name: tree.unpack(z.get(name, {})) for name, tree in self.params}
        plates = WholePlates(self._lengths(z, data))
        moving = MovingSupports({name: z[UNCONSTRAINED.format(name)] for name in self.moving})
        # without a seed: nothing is random, since every latent has its value
        local = {name: jnp.moveaxis(z[name], 0, axis) for name, axis in self._axes}
        values = {**z, **local, **trees}
        with handlers.trace() as sites, plates, moving, handlers.substitute(data=values):
            self.call(data)
        return sites, plates.scales, jnp.asarray(moving.log_det, float)

    @property
    def _axes(self) -> tuple[tuple[str, int], ...]:
        """Local latents, and the axis of their value that runs over rows, from the last."""
        return () if self.plate is None else self.plate.axes

    def _lengths(self, z: dict[str, Any], data: Any) -> dict[str, int]:
        """Return the length of the rows plate, which is that of the batch."""
        plate = self.plate
        if plate is None or plate.leaf is None:
            return {}
        if plate.axes:
            length = z[plate.axes[0][0]].shape[0]
        else:
            length = jax.tree.leaves(data)[plate.leaf].shape[0]
        if length != plate.size and plate.obstacle:
            raise ValueError(plate.obstacle)
        return {plate.name: length}

    def _rows_axis(self, name: str, site: Site) -> int | None:
        """Return the axis of the rows, counted from the last; None if the site has no rows."""
        if self.plate is None or not (site["is_observed"] or name in dict(self._axes)):
            return None
        return next((f.dim for f in site["cond_indep_stack"] if f.name == self.plate.name), None)


@dataclass(frozen=True)
class SiteValues:
    """The values of some sites of a NumPyro model, as a function of latents and data."""

    log_joint: SiteDensity
    names: tuple[str, ...]

    def __call__(self, z: dict[str, Any], data: Any) -> dict[str, Array]:
        """Return the sites' values by name."""
        sites = self.log_joint.run(z, data)[0]
        return {name: jnp.asarray(sites[name]["value"]) for name in self.names}
