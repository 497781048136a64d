"""The coordinates of a NumPyro model's location-scale sites: centred, non-centred, or between."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions import Distribution
from numpyro.distributions.distribution import ExpandedDistribution, MaskedDistribution
from numpyro.infer.reparam import LocScaleReparam

from advi.core.errors import describe, unknown
from advi.model.numpyro.call import Call, Wrapped

LOCATION_SCALE = (
    dist.Normal,
    dist.StudentT,
    dist.Cauchy,
    dist.Laplace,
    dist.SoftLaplace,
    dist.Logistic,
    dist.Gumbel,
    dist.AsymmetricLaplace,
    dist.AsymmetricLaplaceQuantile,
)
WORDS = {"centred": 1.0, "centered": 1.0, "non-centred": 0.0, "non-centered": 0.0}
STANDING = "advi_standing"

Centred = tuple[tuple[str, float], ...]  # site and its centredness: 1 centred, 0 non-centred


class Standing(NamedTuple):
    """What a latent in other coordinates stands for, as its site's `infer` holds it."""

    site: str
    loc: Any
    scale: Any


@dataclass(frozen=True, repr=False)
class Reparametrised(Wrapped):
    """A model with some of its sites in other coordinates: a function of the data alone."""

    centred: Centred

    def __call__(self, data: Any) -> Any:
        return _called(self.call, data, dict(self.centred))


@dataclass(frozen=True, repr=False)
class ReparametrisedByData(Wrapped):
    """A model called with the pair (data, centredness by site): one program for any coordinates."""

    def __call__(self, data: Any) -> Any:
        return _called(self.call, *data)

    def check(self, data: Any) -> None:
        self.call.check(data[0])


class _Coordinates(LocScaleReparam):
    def __call__(self, name: str, fn: Any, obs: Any) -> Any:
        mark = {STANDING: Standing(name, *location_and_scale(fn))}
        with handlers.infer_config(config_fn=lambda site: mark):
            return super().__call__(name, fn, obs)


def _called(call: Call, data: Any, centred: Mapping[str, Any]) -> Any:
    def config(site: Any) -> LocScaleReparam | None:
        name = site["name"]
        return _Coordinates(centred[name], _shape_params(site["fn"])) if name in centred else None

    with handlers.reparam(config=config):
        return call(data)


def standing(site: Mapping[str, Any]) -> Standing | None:
    """Return what a site stands for, if it is a latent in other coordinates."""
    return site.get("infer", {}).get(STANDING)


def _plain(fn: Distribution) -> Distribution:
    """Return the distribution inside expansions and event axes, as `LocScaleReparam` finds it."""
    while isinstance(fn, (ExpandedDistribution, dist.Independent)):
        fn = fn.base_dist
    return fn


def _shape_params(fn: Distribution) -> tuple[str, ...]:
    return tuple(name for name in _plain(fn).arg_constraints if name not in ("loc", "scale"))


def centredness(reparam: Any) -> Centred:
    """Return the centredness by site that a user asks for, sorted by name.

    TypeError or ValueError if it is no dict from names to numbers in [0, 1] or their words.
    """
    what = (
        "expected a dict from names of sites to 'centred', 'non-centred', or a number from 0, "
        "non-centred, to 1, such as reparam={'theta': 'non-centred'}."
    )
    if not isinstance(reparam, Mapping):
        raise TypeError(f"reparam: got {describe(reparam)}; {what}")
    if not reparam:
        raise ValueError(f"reparam: got no site; {what}")
    found = {}
    for name, value in reparam.items():
        if not isinstance(name, str):
            raise TypeError(f"reparam: got {describe(name)} as the name of a site; {what}")
        number: Any = WORDS.get(value, math.nan) if isinstance(value, str) else value
        if not isinstance(number, (int, float, np.number)) or isinstance(number, bool):
            raise TypeError(f"reparam: got {describe(value)} for {name!r}; {what}")
        if not 0 <= number <= 1:
            raise ValueError(f"reparam: got {describe(value)} for {name!r}; {what}")
        found[name] = float(number)
    return tuple(sorted(found.items()))


def check_sites(call: Call, centred: Centred, refusals: Mapping[str, str]) -> None:
    """Raise ValueError if a site does not exist or has no other coordinates.

    `refusals` has the reason why not by site, "" where there is none.
    """
    able = [name for name, why in refusals.items() if not why]
    for name, _ in centred:
        if name not in refusals:
            raise ValueError(f"reparam: {unknown(f'site of {call!r}', name, able or refusals)}")
        if refusals[name]:
            raise ValueError(
                f"reparam: site {name!r} {refusals[name]}; expected latents with a location and a "
                f"scale, in this model {', '.join(map(repr, able)) or 'none'}."
            )


def location_and_scale(fn: Distribution) -> tuple[Any, Any]:
    """Return the location and the scale of a distribution, inside expansions and event axes."""
    plain: Any = _plain(fn)
    return plain.loc, plain.scale


def why_not(site: Mapping[str, Any]) -> str:
    """Return why a site has no other coordinates, as "is observed"; "" if it has."""
    if site["type"] != "sample":
        return "is a parameter" if site["type"] == "param" else "is a deterministic site"
    if site.get("_control_flow_done", False):
        return "is inside scan or cond, where NumPyro does not reparametrise"
    if site["is_observed"] and not site["infer"].get("is_auxiliary"):
        return "is observed"
    plain = _plain(site["fn"])
    if isinstance(plain, MaskedDistribution):
        return "has a mask"
    if type(plain) not in LOCATION_SCALE:
        kinds = ", ".join(kind.__name__ for kind in LOCATION_SCALE)
        return f"is {type(plain).__name__}, which has no location and scale as {kinds} have"
    return ""
