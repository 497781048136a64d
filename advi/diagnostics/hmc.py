"""Many short Hamiltonian Monte Carlo chains, preconditioned by a Gaussian."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.special import normal_quantile
from advi.core.types import Floats
from advi.variational.gaussian import Gaussian

STEPS, LEAPFROGS, CHAINS = 20, 4, 384  # chains in whole calls of any density
TARGET_ACCEPTANCE = 0.8
MAX_STEP = 0.45
MAX_DRIFT, MAX_DRIFT_RATIO, MAX_AUTOCORRELATION = 0.1, 1.1, 0.2
CHANCE = 0.05  # probability that the means of converged chains differ by more than is allowed


class Chains(NamedTuple):
    """The chains after every step."""

    points: Floats  # (STEPS, chains, D); beside `watched` some of the second half
    watched: Floats | None  # (STEPS, chains, K)
    acceptance: float  # mean over the second half


def short_hmc(
    value_and_grad: Callable[[Floats], tuple[Floats, Floats]],
    start: Floats,
    gaussian: Gaussian,
    rng: np.random.Generator,
    steps: int = STEPS,
    watch: Callable[[Floats], Floats] | None = None,
) -> Chains:
    """Run parallel chains from `start` (chains, D), whitened by the scale of a Gaussian.

    With `watch`, a function of points (n, D), its columns (n, K) are kept of every step, and the
    points of every other one of the second half.
    Each of the proposals has `LEAPFROGS` leapfrog steps. Neal (2011), MCMC using Hamiltonian
    dynamics, section 5.3.2.
    """
    chains, dim = start.shape
    z, (value, gradient) = start, value_and_grad(start)
    gradient = gaussian.scale.rmv(gradient)
    step = min(MAX_STEP, 1.2 * dim**-0.25)
    points, watched, accepted_share = [], [], []
    for k in range(steps):
        sizes = step * rng.uniform(0.6, 1.2, (chains, 1))
        momentum = rng.standard_normal((chains, dim))
        energy = value - 0.5 * (momentum**2).sum(1)
        proposal, proposed_value, force = z, value, gradient
        for _ in range(LEAPFROGS):
            momentum = momentum + 0.5 * sizes * force
            proposal = proposal + gaussian.scale.mv(sizes * momentum)
            proposed_value, force = value_and_grad(proposal)
            force = gaussian.scale.rmv(force)
            momentum = momentum + 0.5 * sizes * force
        change = proposed_value - 0.5 * (momentum**2).sum(1) - energy
        change = np.where(np.isfinite(change), change, -np.inf)
        acceptance = np.exp(np.minimum(change, 0.0))
        accept = rng.random(chains) < acceptance
        z = np.where(accept[:, None], proposal, z)
        value = np.where(accept, proposed_value, value)
        gradient = np.where(accept[:, None], force, gradient)
        step = min(MAX_STEP, step * np.exp(0.7 * (acceptance.mean() - TARGET_ACCEPTANCE)))
        if watch is not None:
            watched.append(watch(z))
        if watch is None or (k >= steps // 2 and (steps - k) % 2):
            points.append(z)
        accepted_share.append(acceptance.mean())
    half = len(accepted_share) // 2
    of_steps = None if watch is None else np.stack(watched)
    return Chains(np.stack(points), of_steps, float(np.mean(accepted_share[half:])))


def converged(columns: Floats) -> bool:
    """Return whether the moments of `columns` (STEPS, chains, K) have converged.

    Compares means and sds of steps 6-10 with those of 11-20, and asks that draws ten steps apart
    are nearly uncorrelated. The chains are independent: the variance of their differences gives the
    largest difference of K means that is due to chance.
    """
    quarter, half = len(columns) // 4, len(columns) // 2
    early, late = columns[quarter:half], columns[half:]
    sd = late.std((0, 1))
    sd = np.where(sd > 0, sd, 1.0)
    moved = (early.mean(0) - late.mean(0)) / sd  # (chains, K)
    noise = normal_quantile(1 - CHANCE / (2 * len(sd))) * moved.std(0) / np.sqrt(len(moved))
    drift = np.abs(moved.mean(0)) / np.maximum(MAX_DRIFT, noise)
    with np.errstate(divide="ignore"):
        ratio = np.exp(np.max(np.abs(np.log(np.maximum(early.std((0, 1)), 1e-300) / sd))))
    centred = columns - columns.mean(1, keepdims=True)
    first, last = centred[:-half], centred[half:]
    norm = np.sqrt((first**2).mean((0, 1)) * (last**2).mean((0, 1)))
    correlation = np.abs((first * last).mean((0, 1))) / np.where(norm > 0, norm, 1.0)
    return bool(
        np.max(drift) <= 1
        and ratio <= MAX_DRIFT_RATIO
        and np.max(correlation) <= MAX_AUTOCORRELATION
    )
