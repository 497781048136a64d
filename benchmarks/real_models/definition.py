"""What a file of models here gives: functions that return a `RealModel`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpyro.distributions as dist
from jax import Array

import advi

Values = Mapping[str, Any]  # a latent's name to its value
Spread = Callable[[Values], Mapping[str, tuple[Any, Any]]]  # effect's name to its mean and sd
LogJoint = Callable[[Any, Any], Array]


def as_sampled(z: Values) -> Values:
    """Return the latents: most models are sampled as they are fitted."""
    return z


@dataclass(frozen=True)
class RealModel:
    """A model with real data.

    Attributes
    ----------
    name
        What it is called.
    model
        What `advi.fit` takes.
    data
        As the model takes them.
    source
        Where the data are from, one line.
    sampled
        What the reference samples where that is not the model: a NumPyro program with the same
        latents, or a model of the same posterior in other coordinates, which NUTS can explore.
    latents
        From one draw of `sampled` to the model's latents.
    """

    name: str
    model: Any
    data: Any
    source: str
    sampled: Any = None
    latents: Callable[[Values], Values] = as_sampled


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
) -> RealModel:
    """Return a hierarchy, sampled in the coordinates that suit NUTS.

    Parameters
    ----------
    name, data, source
        As in `RealModel`.
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
    return RealModel(
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
