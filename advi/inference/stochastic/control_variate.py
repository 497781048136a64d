"""A control variate for minibatches: the log density of all rows around one fixed point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from advi.core.types import Floats
from advi.model.density import Density, Quantity
from advi.model.model import Model
from advi.model.terms import Terms

LogDensity = Callable[[dict[str, Array]], Terms]  # of real values by latent


class ControlVariate(NamedTuple):
    """A point near the optimum, and the log density of all rows there."""

    x: Array  # (D,)
    value: Array  # () nats
    gradient: Array  # (D,)


Control = ControlVariate | tuple[()]  # () for none


def controlled(log_p: LogDensity, model: Model, control: Control, scale: float) -> LogDensity:
    """Return the log density of a batch less a control variate, the identity without `control`.

    The control variate is the batch's difference from all rows, to first order around the point. It
    is linear in the real values and zero on average over the batches, so that the gradient stays
    unbiased. Its noise grows with the distance from that point, instead of with the root of N/B
    (`scale`): with many rows, all draws are near. For a mean it even cancels between two antithetic
    draws around the point.

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


class ControlledDensity(Density):
    """Log density of some rows, which stand for all, less a control variate of all rows."""

    def __init__(self, rows: Density, control: ControlVariate) -> None:
        super().__init__(rows.model, rows.data, rows.spec, rows.estimated, rows.scale)
        self._center, self._value, self._gradient = map(np.asarray, control)

    def _evaluate(
        self, quantity: Quantity, *arrays: Floats, size: int | None = None
    ) -> list[Floats]:
        """Values come from the program of the gradients, which the control variate needs anyway."""
        if quantity != "value":
            return super()._evaluate(quantity, *arrays, size=size)
        [X] = arrays
        points = np.concatenate([self._center[None], X])
        values, gradients = super()._evaluate("value_and_grad", points)
        off = (X - self._center) @ (gradients[0] - self._gradient)
        return [values[1:] - (values[0] - self._value) - off]
