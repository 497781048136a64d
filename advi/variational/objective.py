"""Objectives: lower bounds on the evidence, pure functions of parameters, draws and data."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from advi.core.errors import describe, unknown
from advi.core.jax_config import mixed_dtypes
from advi.core.jaxprs.frozen import Frozen
from advi.model.terms import Terms
from advi.model.trace import LogJoint
from advi.variational import draws
from advi.variational.guide import Guide
from advi.variational.winding import middle, weighed

Estimator = Literal["auto", "entropy", "stl"]
LogP = Callable[[dict[str, Array]], Terms]  # log density of real values by latent


@runtime_checkable
class Objective(Protocol):
    """A lower bound on the log evidence, which the steps of an optimiser maximise.

    Objectives are frozen dataclasses: hashable settings. A subclass gives `draws`, as a field with
    a default or a property, and `value`; the other members have defaults. Its trace is a part of
    the fit: what it reads from outside is as it was when the fit began.
    """

    @property
    def draws(self) -> int | None:
        """Draws of the latents per gradient; None for the default."""
        ...

    def check(self, guide: Guide, log_joint: LogJoint) -> None:
        """Raise ValueError if the objective is not defined for a guide and a log-joint.

        By default it is for all.
        """

    @property
    def frozen(self) -> "Objective":
        """The objective with a trace of its functions; by default itself."""
        return self

    def noise(self, key: Array, num: int, dim: int) -> Array:
        """Return the standard normal noise (num, dim) of a step; by default independent draws."""
        return jax.random.normal(key, (num, dim))

    @abstractmethod
    def value(
        self, log_p: LogP, guide: Guide, params: Any, eps: Array, scale: float = 1.0, step: Any = 0
    ) -> Array:
        """Return the Monte Carlo bound in nats, a scalar.

        Parameters
        ----------
        log_p
            Real values by latent to the `Terms` of the log density on R^D.
        guide
            The variational distribution. ``guide.draw_and_log_q(params, e)`` returns the draw of
            noise e (noise_dim,), real values by latent, and log q of every block;
            ``guide.block_terms`` adds these up to the `Terms` of log q. ``terms.total(scale)`` is
            a number of nats.
        params
            Its parameters at the rows of the data.
        eps
            (M, noise_dim) standard normal draws.
        scale
            N/B, the factor of the rows.
        step
            () steps taken.
        """


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
        draw with its parameters held constant, whose gradient has no noise where q equals the
        posterior. "auto": "entropy", which is safer away from the optimum, and "stl" where steps
        on minibatches start near it, from the plan on some rows. The automatic plan on all rows
        chooses by its stage and takes no objective.
    beta
        Factor of the Kullback-Leibler divergence of the local latents from their prior, or a
        function of the step that returns it, such as an Optax schedule. The log-joint returns the
        prior separately: ``Terms(shared, rows, prior=...)``. With 1, the default, this is the
        evidence lower bound. `Fit.elbo_trace` has this factor; `Fit.elbo` always a factor of 1.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, eq. 5.
    Roeder, Wu & Duvenaud (2017), Sticking the Landing, section 3.
    Higgins et al. (2017), beta-VAE, eq. 4; Bowman et al. (2016), section 3.1, for a schedule.

    Examples
    --------
    >>> Elbo(draws=4)
    Elbo(draws=4, estimator='auto', beta=1.0)
    """

    draws: int | None = None
    estimator: Estimator = "auto"
    beta: float | Callable[[Array], Any] = 1.0

    def __post_init__(self) -> None:
        if self.draws is not None:
            check_draws("Elbo", self.draws)
        if not callable(self.beta) and not (
            isinstance(self.beta, (int, float, np.number)) and 0 <= self.beta < np.inf
        ):
            raise ValueError(
                f"beta: got {describe(self.beta)}; expected a number >= 0, or a function of the "
                "step such as optax.linear_schedule(0.0, 1.0, 1000)."
            )
        if self.estimator not in get_args(Estimator):
            raise ValueError(unknown("estimator", str(self.estimator), get_args(Estimator)))

    def check(self, guide: Guide, log_joint: LogJoint) -> None:
        if self.beta != 1 and not (guide.local and log_joint.has_prior):
            raise ValueError(
                f"beta: got {describe(self.beta)}, which tempers the divergence of local latents "
                "from their prior; expected a log-joint that tells their prior apart: "
                "advi.Terms(shared, rows=log_likelihood, prior=log_prior), each of them (B,)."
            )

    @property
    def frozen(self) -> "Elbo":
        if not callable(self.beta):
            return self
        step = jax.ShapeDtypeStruct((), np.int32)
        return replace(self, beta=Frozen(self.beta, "beta", step))

    def noise(self, key: Array, num: int, dim: int) -> Array:
        return draws.fresh(key, num, dim)

    def value(
        self, log_p: LogP, guide: Guide, params: Any, eps: Array, scale: float = 1.0, step: Any = 0
    ) -> Array:
        stl = self.estimator == "stl"
        fixed = jax.lax.stop_gradient(params)
        with mixed_dtypes():
            beta = self.beta(step) if callable(self.beta) else self.beta
        centre = middle(guide, fixed)

        def per_draw(e: Array) -> Array:
            real, log_q = guide.draw_and_log_q(params, e)
            p = weighed(guide, log_p(real), real, centre)
            value = p.shared + scale * p.rows.sum()
            if p.prior is not None:
                value += scale * beta * p.prior.sum()
            held = guide.log_prob(fixed, real, log_q) if stl else None
            q = guide.negative_entropy(params, log_q) if held is None else held
            return value - q.total(scale * beta)

        return _over_draws(per_draw, eps).mean()


@dataclass(frozen=True)
class Iwae:
    """Importance-weighted bound, sum_n E[log 1/K sum_k p(x_n, h_nk) / q(h_nk)], nats.

    A tighter bound than the ELBO on the log evidence of models with local latents h_n, and the
    same with one draw. Everything else has to be estimated as a `Point`: the weights of a row would
    otherwise have to share draws with those of all other rows.

    Parameters
    ----------
    draws
        K, independent draws of each row's latents.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.

    Examples
    --------
    >>> Iwae(50)
    Iwae(draws=50)
    """

    draws: int

    def __post_init__(self) -> None:
        check_draws("Iwae", self.draws)

    def check(self, guide: Guide, log_joint: LogJoint) -> None:
        check_weights("Iwae", guide)

    @property
    def frozen(self) -> "Iwae":
        return self

    def noise(self, key: Array, num: int, dim: int) -> Array:
        return jax.random.normal(key, (num, dim))

    def value(
        self, log_p: LogP, guide: Guide, params: Any, eps: Array, scale: float = 1.0, step: Any = 0
    ) -> Array:
        centre = middle(guide, params)

        def per_draw(e: Array) -> tuple[Array, Array]:
            real, log_q = guide.draw_and_log_q(params, e)
            p, q = weighed(guide, log_p(real), real, centre), guide.block_terms(log_q)
            return p.shared, p.per_row - q.rows

        shared, log_weights = _over_draws(per_draw, eps)
        rows = logsumexp(log_weights, axis=0) - math.log(len(eps))
        return shared.mean() + scale * rows.sum()


def _over_draws(function: Callable[[Array], Any], eps: Array) -> Any:
    """Return a function of one draw's noise at all eps (M, noise_dim).

    A single draw is not mapped: networks with an axis of length 1 compile to transposed copies.
    """
    if len(eps) == 1:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], function(eps[0]))
    return jax.vmap(function)(eps)


def near_optimum(objective: Objective) -> Objective:
    """Return an objective for steps near the optimum, where "stl" has the least noise."""
    if isinstance(objective, Elbo) and objective.estimator == "auto":
        return replace(objective, estimator="stl")
    return objective


def check_weights(name: str, guide: Guide) -> None:
    """Raise ValueError unless the draws of every row can have importance weights of their own."""
    if not guide.local:
        raise ValueError(
            f"{name} weighs draws of every row's own latents, but none is local; expected one, "
            "such as advi.real(2, local=True), with a family for each row."
        )
    shared = [n for n in guide.model.latents if n not in guide.local | guide.estimated]
    if shared:
        raise ValueError(
            f"{name}: the latent {', '.join(map(repr, shared))} is shared by all rows and has a "
            "distribution; expected all such latents as advi.Point(), since one row's weights say "
            "nothing about them."
        )


def check_draws(name: str, draws: Any) -> None:
    """Raise ValueError unless a number of draws is a positive integer."""
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < 1:
        raise ValueError(f"{name} draws: got {describe(draws)}; expected an integer >= 1.")
