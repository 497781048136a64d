"""The sites of a NumPyro model, found by tracing it on the shapes of its data.

Every latent is a placeholder of its shape, and nothing is computed. Supports that depend on a
placeholder depend on other latents; such latents are fitted by their coordinates on the real line,
named by `UNCONSTRAINED`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions import Delta, constraints
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import biject_to

from advi.core.jax_config import compiled
from advi.core.jaxprs.traced import Traced, interned, trace_lock
from advi.data.spec import DataSpec
from advi.model.latents import Latent
from advi.model.numpyro.axes import plate_axes
from advi.model.numpyro.handlers import KnownValues, WholePlates
from advi.model.numpyro.masks import UNOBSERVED, is_imputed, is_masked
from advi.model.numpyro.refusals import explained
from advi.model.numpyro.reparam import location_and_scale, standing, why_not
from advi.model.numpyro.supports import plain, support_of
from advi.model.numpyro.unknowns import Frame, Part, Tree, Unknown

Site = dict[str, Any]
UNCONSTRAINED = "{}_unconstrained"
SITES = ("sample", "param", "deterministic")


@dataclass(frozen=True, eq=False)
class Sites:
    """The sites of a model."""

    unknowns: dict[str, Unknown]  # latent and parameter sites, in the model's order
    dependent: tuple[str, ...]  # latents whose support depends on other latents
    # plates around every observed site, and the number of batch axes of its value; factors only if
    # nothing else is observed
    observed: tuple[tuple[tuple[Frame, ...], int], ...]
    derived: tuple[str, ...]  # deterministic sites
    subsampled: tuple[str, ...]  # plates that declare a subsample
    filled: dict[str, tuple[int, int]]  # plates whose subsample the data are: size and length
    masked: tuple[str, ...]  # latents with entries that a mask may take out of their own density
    imputed: tuple[str, ...]  # those that NumPyro makes for the missing values of an `obs_mask`
    # data to the bounds and initial values that the model computes; None if there are none
    program: Callable[..., list[Array]] | None
    refusals: dict[str, str]  # why a site has no other coordinates, by name; "" if it has
    hierarchical: tuple[str, ...]  # of these, latents whose location or scale depends on others
    coordinates: dict[str, str]  # sites in other coordinates, and the latent of each
    shapes: dict[str, tuple[int, ...]]  # of the values of latent, parameter and deterministic sites
    dims: dict[str, tuple[str | None, ...]]  # the plates that are the axes of such a value

    def latents(self, data: Any, axes: Mapping[str, int]) -> dict[str, Any]:
        """Return the tree of latents for some data.

        `axes` has the axis of rows, from the last, of every local latent.
        """
        outputs = [] if self.program is None else self.program(*jax.tree.leaves(data))
        on_host = [np.asarray(value) for value in jax.device_get(outputs)]
        found = {}
        for name, unknown in self.unknowns.items():
            if name in self.dependent:
                found[self.latent_name(name)] = Latent(constraints.real, unknown.real_shape)
            elif name in axes:
                found[name] = unknown.local_latent(on_host, axes[name])
            elif name not in self.params or name in self.fitted_params:
                found[name] = unknown.latents(on_host)
        return found

    def row_axes(self, axes: Mapping[str, int]) -> dict[str, int]:
        """Return those of the axes of rows that are not the first of a site's value."""
        return {n: axis for n, axis in axes.items() if axis != -len(self.unknowns[n].shape)}

    @property
    def params(self) -> dict[str, Tree]:
        """Tree of every parameter; one with priors on all its leaves has an empty tree."""
        return {name: u.tree for name, u in self.unknowns.items() if u.tree is not None}

    @property
    def fitted_params(self) -> list[str]:
        return [name for name in self.params if self.unknowns[name].inits]

    def without(self, names: Collection[str]) -> "Sites":
        return replace(self, unknowns={n: u for n, u in self.unknowns.items() if n not in names})

    def latent_name(self, name: str) -> str:
        return UNCONSTRAINED.format(name) if name in self.dependent else name


def find_sites(call: Callable[[Any], Any], spec: DataSpec, filled: bool = False) -> Sites:
    """Trace a model, called with data of given shapes.

    `filled`: every plate that declares a subsample has no more rows than that. TypeError if a
    latent is discrete, or inside a scan has a support that depends on other latents; ValueError if
    an observed site has values of another shape than its distribution.
    """
    traced: list[Any] = []  # non-constant values of the trace
    moved: list[tuple[str, Any]] = []  # further ones, locations and scales by site
    found: list[Sites] = []

    def part(value: Any) -> Part:
        if not isinstance(value, Tracer):
            return Part(np.shape(value), value)
        traced.append(value)
        return Part(value.shape, index=len(traced) - 1)

    def run(marker: Array, leaves: list[Array]) -> list[Any]:
        plates = WholePlates({}, None if filled else rows)
        abstract = handlers.substitute(substitute_fn=lambda site: _placeholder(site, marker))
        seeded = handlers.seed(rng_seed=jax.random.key(0))  # for parameters' initial values
        with handlers.trace() as trace, plates, seeded, abstract, KnownValues(), explained(call):
            call(jax.tree.unflatten(spec.treedef, leaves))
        sites = list(trace.values())
        unknowns = {s["name"]: _unknown(s, part) for s in sites if _is_unknown(s)}
        observed = [s for s in sites if s["type"] == "sample" and s["is_observed"]]
        for site in observed:
            _check_shape(site, plates)
        data_sites = [s for s in observed if not s["infer"].get("is_auxiliary")]
        # a given value, or a number, outside of all plates has no rows
        with_rows = [s for s in data_sites if s["cond_indep_stack"] or _may_have_rows(s["value"])]
        found.append(
            Sites(
                unknowns,
                (),
                tuple(map(_frames_and_axes, with_rows or data_sites or observed)),
                tuple(s["name"] for s in sites if _is_derived(s)),
                tuple(name for name, (size, sub) in plates.declared.items() if sub < size),
                {name: (plates.declared[name][0], num) for name, num in plates.filled.items()},
                tuple(s["name"] for s in sites if _is_masked(s)),
                tuple(s["name"] for s in sites if _is_masked(s) and is_imputed(s["name"], trace)),
                None,
                {s["name"]: why_not(s) for s in sites if s["type"] in SITES},
                (),
                {of.site: s["name"] for s in sites if (of := standing(s)) is not None},
                {s["name"]: np.shape(s["value"]) for s in sites if _has_axes(s)},
                plate_axes([s for s in sites if _has_axes(s)]),
            )
        )
        for site in sites:
            if found[-1].refusals.get(site["name"]) == "":
                parts = location_and_scale(site["fn"])
                moved.extend((site["name"], v) for v in parts if isinstance(v, Tracer))
        return [*traced, *(value for _, value in moved)]

    rows = {shape[0] for shape, _ in spec.leaves if shape}
    marker = jax.ShapeDtypeStruct((), spec.float_dtype)
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in spec.leaves]
    with trace_lock:
        closed = jax.make_jaxpr(run)(marker, leaves)
    depends = _depends_on_first_input(closed.jaxpr)
    on_latents = {n for (n, _), d in zip(moved, depends[len(traced) :], strict=True) if d}
    hierarchical = tuple(name for name in found[-1].unknowns if name in on_latents)
    sites = replace(found[-1], hierarchical=hierarchical)
    if not traced:
        return sites
    dependent = tuple(
        name
        for name, unknown in sites.unknowns.items()
        if any(p.index is not None and depends[p.index] for p in unknown.bounds)
    )
    for name in dependent:
        if sites.unknowns[name].in_control_flow or sites.unknowns[name].tree is not None:
            raise TypeError(
                f"site {name!r}: its support depends on another latent; expected a fixed one for a "
                "parameter, and inside scan or cond. Sample on a fixed scale, and shift and scale: "
                f"base = numpyro.sample('{name}_base', dist.Uniform(0, 1)); "
                f"{name} = numpyro.deterministic('{name}', low + (high - low) * base)."
            )
    program = _compiled(interned(closed), spec.float_dtype, len(traced))
    return replace(sites, dependent=dependent, program=program)


@lru_cache(maxsize=64)
def _compiled(flat: Traced, float_dtype: str, num: int) -> Callable[..., list[Array]]:
    zero = np.zeros((), float_dtype)
    return compiled(lambda *leaves: flat(zero, *leaves)[:num])


def _placeholder(site: Site, marker: Array) -> Array | None:
    """Return a latent's placeholder; None for every other site."""
    if site["type"] != "sample" or site["value"] is not None:
        return None
    name, fn = site["name"], site["fn"]
    if isinstance(plain(fn), Delta):
        raise TypeError(
            f"latent site {name!r} inside a scan has a single possible value (Delta); expected "
            f"numpyro.deterministic({name!r}, value) in its place."
        )
    if fn.support.is_discrete and name.endswith(UNOBSERVED) and is_masked(fn):
        of = name.removesuffix(UNOBSERVED)
        raise TypeError(
            f"latent site {name!r}, which obs_mask makes for the missing values of {of!r}, is "
            f"discrete ({type(plain(fn)).__name__}); expected continuous latents. If nothing "
            "depends on the missing values leave them out: with handlers.mask(mask=obs_mask): "
            f"numpyro.sample({of!r}, ..., obs=obs). Else sum them out in the model, with logsumexp "
            "and numpyro.factor."
        )
    if fn.support.is_discrete:
        raise TypeError(
            f"latent site {name!r} is discrete ({type(plain(fn)).__name__}); expected continuous "
            "latents. Sum it out in the model: dist.MixtureSameFamily or dist.MixtureGeneral for a "
            "mixture, logsumexp and numpyro.factor for anything else (the forward algorithm for a "
            "chain). Enumeration (infer={'enumerate': ...}) is not supported. If it is observed, "
            "pass its value in data."
        )
    return jnp.broadcast_to(marker, (*site["kwargs"]["sample_shape"], *fn.shape()))


def _is_unknown(site: Site) -> bool:
    if site["type"] == "mutable":
        raise TypeError(
            f"site {site['name']!r} holds mutable state, such as batch statistics; expected a "
            "log-joint that depends on latents and data alone. Use a network without it."
        )
    return site["type"] == "param" or (site["type"] == "sample" and not site["is_observed"])


def _is_derived(site: Site) -> bool:
    """Return whether a site is a function of the latents, or has a single possible value."""
    known = site["type"] == "sample" and isinstance(plain(site["fn"]), Delta)
    return site["type"] == "deterministic" or (known and "is_auxiliary" in site["infer"])


def _is_masked(site: Site) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and is_masked(site["fn"])


def _unknown(site: Site, part: Callable[[Any], Part]) -> Unknown:
    is_sample = site["type"] == "sample"
    inits = [] if is_sample else jax.tree.leaves(site["value"])
    support: Constraint = (
        support_of(site["fn"]) if is_sample else site["kwargs"].get("constraint", constraints.real)
    )
    bounds, support_tree = jax.tree.flatten(support)
    shape = np.shape(site["value"]) if is_sample else ()
    moves = any(isinstance(bound, Tracer) for bound in bounds)
    event_dim = site["fn"].event_dim if is_sample else site["kwargs"].get("event_dim")
    return Unknown(
        tuple(part(bound) for bound in bounds),
        support_tree,
        shape,
        biject_to(support).inverse_shape(shape) if is_sample and moves else shape,
        site.get("_control_flow_done", False),
        tuple(part(init) for init in inits),
        None if is_sample else Tree.of(site["value"]),
        _frames(site) if event_dim is not None else (),
        event_dim or 0,
    )


def _check_shape(site: Site, plates: WholePlates) -> None:
    """Raise ValueError unless the value of an observed site has the shape of its distribution."""
    value, shape = np.shape(site["value"]), site["fn"].shape()
    try:
        np.broadcast_shapes(value, shape)
    except ValueError:
        around = [f.name for f in site["cond_indep_stack"]]
        sizes = [f"{name!r} has {plates.declared[name][0]} rows" for name in around]
        said = f" Of its plates {', '.join(sizes)}." if sizes else ""
        raise ValueError(
            f"the observed site {site['name']!r} has values of shape {value}, and a distribution "
            f"of shape {shape}; expected shapes that broadcast.{said}"
        ) from None


def _has_axes(site: Site) -> bool:
    return site["type"] in SITES and isinstance(site["value"], (Array, np.ndarray))


def _may_have_rows(value: Any) -> bool:
    return isinstance(value, Tracer) and np.ndim(value) > 0


def _frames(site: Site) -> tuple[Frame, ...]:
    return tuple(Frame(f.name, f.dim, f.size) for f in site["cond_indep_stack"])


def _frames_and_axes(site: Site) -> tuple[tuple[Frame, ...], int]:
    return _frames(site), np.ndim(site["value"]) - site["fn"].event_dim


def _depends_on_first_input(jaxpr: Any) -> list[bool]:
    """Return which outputs depend on a jaxpr's first input (an upper bound for calls)."""
    reached = {id(jaxpr.invars[0])}
    for eqn in jaxpr.eqns:
        if any(id(v) in reached for v in eqn.invars):
            reached.update(id(v) for v in eqn.outvars)
    return [id(v) in reached for v in jaxpr.outvars]
