"""The log-joint of a NumPyro model, and the values of its sites."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from advi.data.spec import DataSpec, leaf_name
from advi.model.numpyro.call import (
    Call,
    StaticCall,
    argument_path,
    numbers_among,
    static_data,
    without_static,
)
from advi.model.numpyro.handlers import (
    DependentSupports,
    KnownValues,
    NothingRandom,
    Unobserved,
    WholePlates,
    is_data,
)
from advi.model.numpyro.masks import mask_of, normal_log_prob, unit_log_prob
from advi.model.numpyro.refusals import explained
from advi.model.numpyro.rows import RowsPlate
from advi.model.numpyro.sites import UNCONSTRAINED, Site, Sites, find_sites
from advi.model.numpyro.supports import support_of
from advi.model.numpyro.unknowns import Tree
from advi.model.terms import Terms
from advi.transforms import Transform


@dataclass(frozen=True)
class SiteDensity:
    """The log-joint of a NumPyro model: the sum of its sites' log densities.

    The observed sites inside the rows plate give `Terms.rows`, local latents `Terms.prior`, without
    the factor by which NumPyro scales a subsample of that plate.
    """

    call: Call
    plate: RowsPlate | None
    params: tuple[tuple[str, Tree], ...]  # name and tree of every parameter
    dependent: tuple[str, ...]  # latents whose support depends on others
    predicted: tuple[str, ...] = ()  # sites without density, drawn given the latents
    padded: tuple[tuple[str, Transform | None], ...] = ()  # latents with flat masked entries
    filled: tuple[tuple[str, int], ...] = ()  # plates whose subsample the data are, its length

    def __call__(self, z: dict[str, Any], data: Any) -> Array | Terms:
        return self.without((), z, data)

    def without(self, omitted: tuple[str, ...], z: dict[str, Any], data: Any) -> Array | Terms:
        """Return the log-joint without the densities of some latents."""
        sites, scales, shared = self.run(z, data)
        by_row = {}
        padded = dict(self.padded)
        for name, site in sites.items():
            if site["type"] != "sample" or name in self.predicted or name in omitted:
                continue
            log_prob = site["fn"].log_prob(site["value"])
            if site["scale"] is not None:
                log_prob = site["scale"] * log_prob
            axis = self._rows_axis(name, site)
            if axis is None:
                shared = shared + jnp.sum(log_prob)
            else:
                assert self.plate is not None
                row = _of_rows(log_prob, axis) / scales.get(self.plate.name, 1.0)
                part = "rows" if site["is_observed"] else "prior"
                by_row[part] = by_row[part] + row if part in by_row else row
            if name in padded:
                padding = self._padding(name, site, padded[name], z)
                if axis is None:
                    shared = shared + jnp.sum(padding)
                else:
                    masked_axes = padding.ndim - log_prob.ndim  # of events, entry by entry
                    by_row["prior"] += _of_rows(padding, axis - masked_axes)
        return Terms(shared, **by_row) if by_row else shared

    def run(
        self, z: dict[str, Any], data: Any, key: Array | None = None, observed: bool = True
    ) -> tuple[dict[str, Site], dict[str, float], Array]:
        """Run the model; return its sites, NumPyro's scales of its plates, and a log-Jacobian.

        With a key the predicted sites are drawn, the observed ones too unless `observed`, and
        latents that `z` does not have; without one nothing is random, and predictions are zero.
        """
        trees = {name: tree.unpack(z.get(name, {})) for name, tree in self.params}
        plates = WholePlates(self.lengths(z, data))
        coordinates = {name: z.get(UNCONSTRAINED.format(name)) for name in self.dependent}
        supports = DependentSupports({n: x for n, x in coordinates.items() if x is not None})
        zeros = handlers.substitute(substitute_fn=self._no_prediction)
        drawn = zeros if key is None else handlers.seed(rng_seed=key)
        with (
            handlers.trace() as sites,
            drawn,
            NothingRandom(),
            plates,
            contextlib.nullcontext() if observed else Unobserved(),
            supports,
            KnownValues(),
            handlers.substitute(data={**z, **trees}),
            explained(self.call),
        ):
            self.call(data)
        return sites, plates.scales, jnp.asarray(supports.log_det, float)

    def _no_prediction(self, site: Site) -> Array | None:
        if site["type"] != "sample" or site["name"] not in self.predicted:
            return None
        return jnp.zeros((*site["kwargs"]["sample_shape"], *site["fn"].shape()))

    def _padding(self, name: str, site: Site, transform: Transform | None, z: Any) -> Array:
        """Return the log density of a latent's masked entries, zero elsewhere."""
        counted = self.counted(name, site)
        if transform is None:
            x, to_support = z[UNCONSTRAINED.format(name)], biject_to(support_of(site["fn"]))
            log_det = to_support.log_abs_det_jacobian(x, site["value"])
            log_prob = normal_log_prob(x, counted.ndim) - log_det
        else:
            log_prob = unit_log_prob(transform, mask_of(site["fn"])[1], z[name])
        return jnp.where(counted, 0, log_prob)

    def counted(self, name: str, site: Site) -> Array:
        """Return the entries of a latent that count in its density.

        It has all axes of the value except those of events that are masked whole.
        """
        shape = jnp.shape(site["value"])
        mask, inner = mask_of(site["fn"])
        whole = site["fn"].event_dim - inner
        return jnp.broadcast_to(mask, shape[: len(shape) - whole])

    @property
    def _axes(self) -> tuple[tuple[str, int], ...]:
        return () if self.plate is None else self.plate.axes

    def lengths(self, z: dict[str, Any], data: Any) -> dict[str, int]:
        """Return the lengths of plates; that of the rows plate is that of the batch."""
        plate, filled = self.plate, dict(self.filled)
        if plate is None or plate.leaf is None:
            return filled
        paths = jax.tree_util.tree_flatten_with_path(data)[0]
        lengths = {
            argument_path(self.call, leaf_name(path)): leaf.shape[0]
            for path, leaf in paths
            if np.ndim(leaf)
        }
        candidates = [z[name].shape[axis] for name, axis in plate.axes if name in z]
        candidates += [lengths[name] for name in plate.leaves if name in lengths]
        length = next(iter([*candidates, *lengths.values()]))  # new data may lack what was observed
        if length != plate.size and plate.why_not_local:
            raise ValueError(plate.why_not_local)
        return filled | {plate.name: length}

    def _rows_axis(self, name: str, site: Site) -> int | None:
        """Return the axis of the rows, from the last; None if the site has no rows."""
        if self.plate is None or not (site["is_observed"] or name in dict(self._axes)):
            return None
        return next((f.dim for f in site["cond_indep_stack"] if f.name == self.plate.name), None)


def _of_rows(values: Array, axis: int) -> Array:
    """Return the sums over all axes but one, from the last."""
    return jnp.sum(values, [i for i in range(values.ndim) if i != values.ndim + axis])


@dataclass(frozen=True)
class SiteValues:
    """The values of some sites of a NumPyro model, as a function of latents and data.

    The predicted sites are drawn, with the latents as the seed, and a number for further draws.
    """

    log_joint: SiteDensity
    names: tuple[str, ...]

    def __call__(self, z: dict[str, Any], data: Any, number: Any = 0) -> dict[str, Array]:
        key = jax.random.fold_in(_seeded_by(z), number) if self.log_joint.predicted else None
        sites = self.log_joint.run(z, data, key)[0]
        return {name: jnp.asarray(sites[name]["value"]) for name in self.names}


@dataclass(frozen=True)
class Predictive:
    """The observed and deterministic sites of a NumPyro model, drawn given latents and data.

    From the prior the latents are drawn too, and are among them.
    """

    log_joint: SiteDensity

    def on(self, data: Any, spec: DataSpec, shapes: Mapping[str, Any]) -> "Predictive":
        """Return the same for new data, of which integers and flags are taken as they are.

        `shapes` are those of the latents. TypeError unless the model can be called with the data;
        ValueError if a number that decides about shapes makes those of latents others.
        """
        call, before = self.log_joint.call, dict(static_data(self.log_joint.call))
        call.check(data)
        fitted = {argument_path(call, leaf): value for leaf, value in before.items()}
        numbers = numbers_among(data, spec)
        named = {argument_path(call, leaf): value for leaf, value in numbers}
        moved = StaticCall(without_static(call), numbers)
        changed = [name for name, value in fitted.items() if named.get(name, value) != value]
        if changed and self._has_others(find_sites(moved, spec), shapes):
            name = changed[0]
            raise ValueError(
                f"data: {name!r}: got {named[name]}, but {fitted[name]} in the fit, where it "
                "decides about shapes of latents; expected the same. Fit again for another."
            )
        return Predictive(replace(self.log_joint, call=moved))

    def _has_others(self, sites: Sites, shapes: Mapping[str, Any]) -> bool:
        """Return whether latents that have no rows are of other shapes."""
        local = dict(self.log_joint.plate.axes) if self.log_joint.plate else {}
        return any(
            shapes.get(name, unknown.shape) != unknown.shape
            for name, unknown in sites.unknowns.items()
            if unknown.tree is None and name not in local
        )

    def __call__(
        self, z: dict[str, Any], data: Any, key: Array, prior: bool = False
    ) -> dict[str, Array]:
        if prior:  # parameters have none
            z = {name: z[name] for name, _ in self.log_joint.params if name in z}
        sites = self.log_joint.run(z, data, key, observed=False)[0]

        latents = {*z, *self.log_joint.dependent} if not prior else set(z)

        def is_shown(name: str, site: Site) -> bool:
            return site["type"] == "deterministic" or (
                site["type"] == "sample" and not site["is_observed"] and name not in latents
            )

        shown = {name: site["value"] for name, site in sites.items() if is_shown(name, site)}
        return {name: jnp.asarray(value) for name, value in shown.items()}

    def observed(self, z: dict[str, Any], data: Any, key: Array) -> dict[str, tuple[Array, Array]]:
        """Return the values of the observed sites, and which entries count, both of one shape.

        The shape is that of the draws; ValueError if the values have more entries. The key is for
        sites that are not observed with these data.
        """
        found = {}
        for name, site in self.log_joint.run(z, data, key)[0].items():
            if not is_data(site):
                continue
            value, shape = jnp.asarray(site["value"]), site["fn"].shape()
            if jnp.broadcast_shapes(value.shape, shape) != shape:
                raise ValueError(
                    f"the observed site {name!r} has values of shape {value.shape}, and a "
                    f"distribution of shape {shape}, whose draws have no value for each of them; "
                    f"expected a plate: with numpyro.plate('rows', {len(value)}): ..."
                )
            site = {**site, "value": jnp.broadcast_to(value, shape)}
            counted = self.log_joint.counted(name, site)
            counted = counted.reshape(*counted.shape, *[1] * (len(shape) - counted.ndim))
            found[name] = site["value"], jnp.broadcast_to(counted, shape)
        return found


def _seeded_by(z: dict[str, Any]) -> Array:
    """Return a key that is a function of all bits of some values."""
    key = jax.random.key(0)
    for leaf in jax.tree.leaves(z):
        bits = lax.bitcast_convert_type(jnp.asarray(leaf), jnp.uint32).ravel()
        odd = 2 * lax.iota(jnp.uint32, len(bits)) + 1
        hashed = jnp.sum(bits * odd * jnp.uint32(0x9E3779B1), dtype=jnp.uint32)
        key = jax.random.fold_in(key, hashed)
    return key
