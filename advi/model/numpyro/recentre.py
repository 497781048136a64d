"""Points of a NumPyro model from one centredness of its sites to another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advi.core.types import Floats
from advi.model.model import Model
from advi.model.numpyro.density import SiteDensity
from advi.model.numpyro.programs import evaluated
from advi.model.numpyro.reparam import standing


class SiteDraws(NamedTuple):
    """A site's draws (n, d), and the place of its latent in R^D."""

    span: tuple[int, int]
    loc: Floats
    scale: Floats
    value: Floats


@dataclass(frozen=True)
class Recentring:
    """Points (n, D) of a model whose centredness is part of its data, for any centredness."""

    points: Floats
    sites: Mapping[str, SiteDraws]

    @staticmethod
    def of(model: Model, points: Floats, data: tuple[Any, Mapping[str, Any]]) -> "Recentring":
        """Evaluate the sites at points; `data` is the pair of data and their centredness."""
        log_joint = model.log_joint
        assert isinstance(log_joint, SiteDensity)

        def one(x: Array, data: Any) -> dict[str, tuple[Array, ...]]:
            sites, found = log_joint.run(model.to_tree(model.unravel(x)[0]), data)[0], {}
            for latent, site in sites.items():
                if (of := standing(site)) is not None:
                    value = sites[of.site]["value"]
                    parts = (jnp.broadcast_to(p, value.shape) for p in (of.loc, of.scale, value))
                    found[of.site] = tuple(model.rows_first(latent, p).ravel() for p in parts)
            return found

        x = points.astype(jnp.result_type(float))
        parts = evaluated(jax.vmap(one, (0, None)), x, data)
        sites = {}
        for site, found in parts.items():
            span = model.spans[model.program.coordinates[site]]
            sites[site] = SiteDraws(span, *(np.asarray(part, float) for part in found))
        return Recentring(points, sites)

    def to(self, centred: Mapping[str, float]) -> Floats:
        """Return the points (n, D) for some centredness by site."""
        moved = self.points.copy()
        with np.errstate(all="ignore"):
            for site, (span, loc, scale, value) in self.sites.items():
                # scale ** c times the standard score, in one power, which is exact where c is 1
                c = centred[site]
                moved[:, slice(*span)] = c * loc + scale ** (c - 1) * (value - loc)
        return moved
