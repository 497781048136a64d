"""What the models share, which are functions that return a `Problem`: densities, hierarchies."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem, Values, as_sampled

Spread = Callable[[Values], Mapping[str, tuple[Any, Any]]]  # effect's name to its mean and sd
LogJoint = Callable[[Any, Any], Array]


def normal(x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Array:
    """Return the log density of independent normals, summed, nats."""
    return dist.Normal(loc, scale).log_prob(x).sum()


def hierarchy(rest: LogJoint, spread: Spread, latents: Any, centred: bool) -> advi.Model:
    """Return a model whose effects are latents themselves, or as their standard scores.

    Parameters
    ----------
    rest
        The log-joint given the effects, without their normal priors.
    spread
        From the other latents to every effect's mean and sd.
    latents
        The latents, the effects among them as real numbers.
    centred
        Whether the effects are the latents.
    """

    def log_joint(z: Values, d: Any) -> Array:
        if centred:
            of_effects = [normal(z[k], *where) for k, where in spread(z).items()]
            return rest(z, d) + sum(of_effects)
        return rest(_from_scores(z, spread), d) + sum(normal(z[k]) for k in spread(z))

    return advi.Model(log_joint, latents)


def grouped(
    name: str,
    parts: tuple[LogJoint, Spread, Any],
    data: Any,
    source: str,
    *,
    centred: bool,
    sample_centred: bool = False,
) -> Problem:
    """Return a hierarchy, sampled in the coordinates that suit NUTS.

    Parameters
    ----------
    name, data, source
        As in `Problem`.
    parts
        The first three arguments of `hierarchy`.
    centred
        Whether the latents that are fitted are the effects or their scores.
    sample_centred
        Whether NUTS samples the effects: right where data tell much about each.
    """
    spread = parts[1]
    convert = (lambda z: _from_scores(z, spread)) if centred else (lambda z: _scores(z, spread))
    same = centred == sample_centred
    return Problem(
        name,
        hierarchy(*parts, centred=centred),
        data,
        source,
        None if same else hierarchy(*parts, centred=sample_centred),
        as_sampled if same else jax.vmap(convert),
    )


def _from_scores(z: Values, spread: Spread) -> Values:
    return {**z, **{k: loc + scale * z[k] for k, (loc, scale) in spread(z).items()}}


def _scores(z: Values, spread: Spread) -> Values:
    return {**z, **{k: (z[k] - loc) / scale for k, (loc, scale) in spread(z).items()}}
