"""A control variate for minibatches: what a batch says beyond all rows, at one fixed point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from advi.model.model import Model
from advi.model.terms import Terms

LogDensity = Callable[[dict[str, Array]], Terms]  # of real values by latent


class ControlVariate(NamedTuple):
    """A point near the optimum, and the log density of all rows there."""

    x: Array  # (D,)
    value: Array  # () nats
    gradient: Array  # (D,)


def controlled(
    log_p: LogDensity, model: Model, control: ControlVariate | tuple[()], scale: float
) -> LogDensity:
    """Return the log density of a batch, less by how it differs from all rows near an control.

    What is taken off is linear in the real values, zero on average over the batches, and so the
    gradient stays unbiased. Its noise grows with the distance from that point, where it is zero,
    instead of with the root of N/B: of a posterior of many rows, draws are all near. Of two
    antithetic draws around the point, it even cancels for a mean.

    Parameters
    ----------
    log_p
        Real values by latent to the `Terms` of a batch.
    model
        The model, which splits a point into the latents.
    control
        The point, or nothing, which changes nothing.
    scale
        N/B, the factor of the rows.

    References
    ----------
    Johnson & Zhang (2013), Accelerating Stochastic Gradient Descent using Predictive Variance
    Reduction.
    Baker, Fearnhead, Fox & Nemeth (2019), Control Variates for Stochastic Gradient MCMC, section 2.
    """
    if not control:
        return log_p
    value, gradient = jax.value_and_grad(lambda x: log_p(model.split(x)).total(scale))(control.x)
    center, excess = model.split(control.x), model.split(gradient - control.gradient)

    def difference(real: dict[str, Array]) -> Terms:
        p = log_p(real)
        off = sum(((real[name] - x) * excess[name]).sum() for name, x in center.items())
        return p._replace(shared=p.shared - (value - control.value) - off)

    return difference
