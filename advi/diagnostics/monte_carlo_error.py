"""Monte Carlo errors of a comparison of very many moments, and the differences beyond them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advi.core.special import normal_quantile
from advi.core.types import Floats

CHANCE = 0.05  # probability that any moment of a long latent is called off that is not
FLAT_TAIL = 1.2  # the error of an sd over that for normal draws


class MonteCarloError(NamedTuple):
    """Standard errors (K,) of differences between the moments of K columns."""

    shift: Floats  # of means, sds
    log_ratio: Floats  # of log sds

    @staticmethod
    def of_draws(ess: float, num: int) -> "MonteCarloError":
        """Return the errors of `num` columns by so many independent draws."""
        error = np.full(num, ess**-0.5)
        return MonteCarloError(error, FLAT_TAIL * np.sqrt(0.5) * error)

    @staticmethod
    def of_batches(batches: Floats, sd: Floats, others: float) -> "MonteCarloError":
        """Return the errors by independent batches (B, n, K) of draws, and by `others` beside them.

        Such as chains, or pairs of antithetic draws.
        """
        mean = batches.mean((0, 1))
        errors = []
        for power in (1, 2):
            of_batch = ((batches - mean) ** power).mean(1) / (power * sd**power)
            errors.append(np.sqrt(of_batch.var(0, ddof=1) / len(batches)))
        beside = MonteCarloError.of_draws(others, len(sd))
        return MonteCarloError(*(np.hypot(a, b) for a, b in zip(errors, beside, strict=True)))


def beyond_chance(values: Floats, errors: Floats, long: Sequence[slice]) -> Floats:
    """Return differences (K,), those in long latents less what chance explains.

    Single entries lose the error that the largest of K exceeds seldom. The typical difference in a
    latent, of which chance is known well, stays in its largest entry.
    """
    found = values.copy()
    level = normal_quantile(1 - CHANCE / (2 * len(values)))
    for part in long:
        v, error = values[part], errors[part]
        alone = np.maximum(np.abs(v) - level * error, 0.0)
        typical = np.sqrt(max(0.0, float((v**2 - error**2).mean())))
        largest = np.abs(v).argmax()
        alone[largest] = max(alone[largest], typical)
        found[part] = np.copysign(alone, v)
    return found
