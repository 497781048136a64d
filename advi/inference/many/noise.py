"""The random numbers of a fit by the compiled plan."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from advi.inference.plan.polish import DRAWS, STEPS
from advi.variational.draws import MIN_DRAWS, even_draws, student
from advi.variational.gaussian import Structure

POINTS, RADIUS = 16, 2.0  # of the starts, beside the first one
SCREEN_DRAWS = 4
FRESH_DRAWS, WEIGHTED_DRAWS = 256, 1000


class Noise(NamedTuple):
    """The random numbers of a fit."""

    starts: Any  # (S, D) differences from the first point
    screen: Any  # (4, D)
    fixed: Any  # (M, D) orthogonal antithetic draws
    polish: Any  # (steps, 64, D)
    fresh: Any  # (256, D) antithetic draws that no stage has seen
    weighted: Any  # (1000, D) orthogonal antithetic draws, of moments and importance weights
    rounds: Any  # (R, 1000, D) standard Student-t draws, of adaptive importance sampling


def noise(structure: Structure, rng: np.random.Generator, rounds: int) -> Noise:
    """Return the random numbers of a fit, with `rounds` of adaptive importance sampling."""
    dim, size = structure.dim, len(structure.random)
    num = even_draws(max(MIN_DRAWS, 4 * dim), size)
    starts = np.concatenate([np.zeros((1, size)), rng.uniform(-RADIUS, RADIUS, (POINTS - 1, size))])
    fresh = partial(structure.antithetic_draws, rng)
    return Noise(
        starts,
        structure.fixed_draws(rng, SCREEN_DRAWS),
        structure.fixed_draws(rng, num),
        np.stack([fresh(DRAWS) for _ in range(STEPS)]),
        fresh(FRESH_DRAWS),
        structure.fixed_draws(rng, even_draws(WEIGHTED_DRAWS, size)),
        student(rng, rounds * WEIGHTED_DRAWS, size).reshape(rounds, WEIGHTED_DRAWS, size),
    )


def in_float(noise: Noise, dtype: Any) -> Noise:
    """Return the random numbers in a float type, host arrays."""
    return Noise(*(np.asarray(part, dtype) for part in noise))


def stacked(noises: list[Noise]) -> Noise:
    """Return the random numbers of several fits with a leading axis."""
    return Noise(*(np.stack(parts) for parts in zip(*noises, strict=True)))
