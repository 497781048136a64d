"""The evidence lower bound: a pure function of parameters, draws and data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array

from advi.errors import describe, unknown
from advi.guide import Guide
from advi.model import Terms

Estimator = Literal["auto", "entropy", "stl"]


@dataclass(frozen=True)
class Elbo:
    """Evidence lower bound, E_q[log p(x, z) - log q(z)] <= log p(x), nats, higher is better.

    Parameters
    ----------
    draws
        Draws of the latents per gradient. None: 2 with minibatches, 8 without, and 64 fixed ones
        for an optimiser that searches along lines.
    estimator
        "entropy": the entropy of q in closed form. "stl": sticking the landing, log q at the
        draw with its parameters held, whose gradient has no noise where q equals the posterior.
        "auto": "entropy", which is the safer one away from the optimum. The automatic plan, which
        is used when `fit` gets no optimiser, chooses by its stage and takes no objective.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, eq. 5.
    Roeder, Wu & Duvenaud (2017), Sticking the Landing, section 3.

    Examples
    --------
    >>> Elbo(draws=4)
    Elbo(draws=4, estimator='auto')
    """

    draws: int | None = None
    estimator: Estimator = "auto"

    def __post_init__(self) -> None:
        if self.draws is not None and (
            isinstance(self.draws, bool)
            or not isinstance(self.draws, (int, np.integer))
            or self.draws < 1
        ):
            raise ValueError(f"Elbo draws: got {describe(self.draws)}; expected an integer >= 1.")
        if self.estimator not in get_args(Estimator):
            raise ValueError(unknown("estimator", str(self.estimator), get_args(Estimator)))

    def value(
        self,
        log_p: Callable[[Array], Terms],
        guide: Guide,
        params: Any,
        eps: Array,
        scale: float = 1.0,
    ) -> Array:
        """Return the Monte Carlo ELBO, whose gradient is the reparameterisation gradient.

        Parameters
        ----------
        log_p
            Point (D,) to the `Terms` of the log density on R^D.
        guide
            The variational distribution.
        params
            Its parameters.
        eps
            (M, noise_dim) standard normal draws.
        scale
            N/B, the factor of the rows.

        Returns
        -------
        Array
            Scalar, nats.
        """
        stl = self.estimator == "stl"
        held = jax.lax.stop_gradient(params)

        def per_draw(e: Array) -> Array:
            x = guide.draw(params, e)
            value = log_p(x).total(scale)
            return value - guide.log_prob(held, x) if stl else value

        average = jax.vmap(per_draw)(eps).mean()
        return average if stl else average + guide.entropy(params)
