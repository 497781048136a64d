"""Reference moments by chains of HMC: many short ones, or those that go on until they converge."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.types import Floats
from advi.diagnostics import hmc
from advi.diagnostics.cost import seconds_per_gradient
from advi.diagnostics.importance_sampling import Adapted
from advi.diagnostics.long_hmc import CHAINS, MAX_LEAPFROGS, Sampler, Segment, run_until_converged
from advi.diagnostics.monte_carlo_error import MonteCarloError
from advi.diagnostics.reference import ReferenceMoments
from advi.diagnostics.target import Moments, Target
from advi.variational.transport import GaussianTransport

COSTLY = 2**20  # elements read by one density, above which fewer chains are run
FEW_CHAINS = 96
MAX_ELEMENTS = 2**25  # of the points of all chains
MAX_KEPT = 10_000  # draws of long chains
CHUNK = 512  # states whose very many columns are held at once
MIN_STEPS = 250  # that chains of hundreds of coordinates take to converge
MAX_CHAIN_DIM = 8192  # of chains whose every state is held
MAX_DIM = MAX_ELEMENTS // (hmc.STEPS * FEW_CHAINS)
SECONDS = 10.0  # predicted, of the long chains of a correction by default


class Budget(NamedTuple):
    """How long chains may run."""

    predicted: float = SECONDS  # seconds by the counts of gradients and their work
    seconds: float | None = None  # by the clock, in place of these
    report: Callable[[str], object] = lambda words: None  # of a sentence on the progress


def by_hmc(target: Target, adapted: Adapted, rng: np.random.Generator) -> ReferenceMoments:
    """Return the moments of short chains.

    They begin at importance draws, or at the first proposal's if the weights have collapsed.
    """
    fitting = MAX_ELEMENTS // (hmc.STEPS * len(adapted.proposal.loc))
    if target.many is not None:
        fitting //= 2
    costly = target.density.log_joint.cost > COSTLY
    num = FEW_CHAINS if costly else int(np.clip(fitting, FEW_CHAINS, hmc.CHAINS))
    start = adapted.first_draws(num, rng) if adapted.collapsed else adapted.draws.resample(num, rng)
    many = target.many

    def watch(Z: Floats) -> Floats:
        assert many is not None
        return many.reduced(target.columns(target.points(Z)))

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        chains = hmc.short_hmc(
            target.value_and_grad, start, adapted.proposal, rng, watch=watch if many else None
        )
        steps, num, dim = chains.points.shape
        points = target.points(chains.points.reshape(-1, dim))
        columns, error = target.columns(points), None
        if many is None or chains.watched is None:
            converged, half = hmc.converged(columns.reshape(steps, num, -1)), steps // 2 * num
            columns, points = columns[half:], points[half:]
        else:
            converged = hmc.converged(chains.watched)
            by_chain, sd = columns.reshape(steps, num, -1).swapaxes(0, 1), columns.std(0)
            others = len(target.own_columns())
            error = MonteCarloError.of_batches(by_chain, np.where(sd > 0, sd, 1.0), others)
        draws = WeightedDraws(points, np.full(len(points), 1 / len(points)))
        found = Moments(columns.mean(0), columns.std(0))
        return ReferenceMoments(
            "HMC", draws, found, lambda: target.moments, -np.inf, converged, not converged,
            chains.points[-1], error=error,
        )  # fmt: skip


def by_long_hmc(
    target: Target,
    adapted: Adapted,
    start: Floats,  # states (n, dim), drawn from what is known of the posterior
    rng: np.random.Generator,
    budget: Budget,
) -> ReferenceMoments | None:
    """Return the moments of chains that go on until they have converged, or the budget ends.

    They are those of the last segment if they are interrupted. None if the budget ends before the
    first, or if so many coordinates cannot be held, or by no budget that would suffice.
    """
    begin = time.monotonic()
    transport = target.transport or GaussianTransport(target.first, target.structure.random)
    per_gradient = seconds_per_gradient(target.density, transport)
    if target.hessian is not None:
        steps = budget.predicted / (per_gradient * CHAINS * MAX_LEAPFROGS)
        hopeless = budget.seconds is None and steps < MIN_STEPS
        if hopeless or len(target.gaussian.loc) > MAX_CHAIN_DIM:
            return None

    def stop(num_gradients: int) -> bool:
        if budget.seconds is not None:
            return time.monotonic() - begin > budget.seconds
        return num_gradients * per_gradient > budget.predicted

    def report(segment: Segment) -> None:
        steps, chains, _ = segment.points.shape
        rhat = segment.convergence.rhat
        budget.report(f"HMC: {chains} chains of {steps:,} steps, R-hat {rhat:.3f}")

    states = start[rng.choice(len(start), CHAINS, replace=len(start) < CHAINS)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        of_chains = functools.partial(target.value_and_grad, repeated=True)
        sampler = Sampler(of_chains, states, adapted.proposal, rng)

        def columns(Z: Floats) -> Floats:
            if target.many is None:
                return target.columns(target.points(Z))
            parts = range(0, len(Z), CHUNK)
            return np.concatenate(
                [target.many.reduced(target.columns(Z[k : k + CHUNK])) for k in parts]
            )

        end = run_until_converged(sampler, columns, stop, report)
        if end is None:
            return None
        steps, chains, dim = end.points.shape
        most = MAX_KEPT if target.many is None else min(MAX_KEPT, MAX_ELEMENTS // dim)
        kept = end.points[:: max(1, steps * chains // most)]
        points = target.points(kept.reshape(-1, dim))
        flat, error = end.columns.reshape(steps * chains, -1), None
        if target.many is not None:
            flat = target.columns(points)
            by_chain = flat.reshape(*kept.shape[:2], -1).swapaxes(0, 1)
            sd = np.where(flat.std(0) > 0, flat.std(0), 1.0)
            error = MonteCarloError.of_batches(by_chain, sd, len(target.own_columns()))
    converged = end.convergence.converged
    return ReferenceMoments(
        "HMC",
        WeightedDraws(points, np.full(len(points), 1 / len(points))),
        Moments(flat.mean(0), flat.std(0)),
        lambda: target.moments,
        -np.inf,
        converged,
        not converged,
        end.points[-1],
        end,
        error,
    )
