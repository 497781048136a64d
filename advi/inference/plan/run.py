"""The automatic plan as a fit, and the optimiser of fits by steps where none is given."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import optax

from advi.core.keys import Stream, host_rng
from advi.core.progress_bar import Bar
from advi.core.status import Status
from advi.inference.plan.plan import NotFiniteError, run_plan
from advi.inference.stochastic.whitening import framed
from advi.model.checks.first_points import FirstLook
from advi.model.density import Density
from advi.model.prior_starts import prior_starts
from advi.posterior.nonfinite import blame, not_finite_at_start
from advi.results.fit import Fit
from advi.variational.family import Family
from advi.variational.gaussian import Gaussian, structure_of
from advi.variational.guide import Guide

LEARNING_RATE, RATE_STEPS = 0.02, 1000


def fit_plan(
    density: Density,
    guide: Guide,
    first: Gaussian,
    warm: bool,
    restarts: int,
    key: Any,
    max_steps: int | None,
    bar: Bar,
) -> Fit:
    """Fit by the automatic plan; `first` is where it starts, and with `warm` a fit to go on from.

    Raises
    ------
    ValueError
        If no starting point has a finite log density.
    """
    structure, look = structure_of(guide), FirstLook(density)
    try:
        outcome = run_plan(
            density,
            structure,
            host_rng(key, Stream.PLAN),
            first,
            warm=warm,
            restarts=restarts,
            max_evals=max_steps,
            callback=bar.update,
            look=look,
            candidates=lambda: prior_starts(density, first),
        )
    except NotFiniteError as error:
        raise not_finite_at_start(density, first.loc, error.tried) from None
    status = outcome.status
    if status == "diverged" and not math.isfinite(outcome.elbo.value):
        found = blame(density, guide, outcome.gaussian, host_rng(key, Stream.BLAME))
        status = Status("diverged", f"{status.message}; {found}") if found else status
    return Fit(
        guide=guide,
        params=guide.params_of(outcome.gaussian, density.dtype),
        status=status,
        elbo=outcome.elbo,
        trace=outcome.trace,
        num_gradients=density.num_gradients,
        density=density,
        key=key,
        held_out_gap=outcome.held_out_gap,
        rivals=outcome.rivals,
        alarms=look.alarms,
    )


def default_optimizer(guide: Guide, near: bool) -> optax.GradientTransformation:
    """Return Adam with a rate that falls as one over the root of the steps: averages converge.

    Where all latents are shared its steps are in the frame of the scale that they have. If they
    start `near` the optimum, in its scale, neither their units nor their correlations matter.
    Steps of hundredths of an sd would not get there from anywhere else: of many rows, sds are tiny.
    """
    families = tuple(b.family for b in guide.blocks if isinstance(b.family, Family))
    return framed(_adam(), families, near) if len(families) == len(guide.blocks) else _adam()


@functools.lru_cache(maxsize=1)
def _adam() -> optax.GradientTransformation:
    return optax.adam(lambda step: LEARNING_RATE / jnp.sqrt(1 + step / RATE_STEPS))
