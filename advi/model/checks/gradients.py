"""Whether the gradient of a log density is that of its values.

It is not where an index lies outside of an array, which JAX reads at the edge but has no gradient
for, where `stop_gradient` hides a latent, or where a custom rule is wrong. An optimiser that
follows the gradient then ends elsewhere.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.model.density import Density

POINTS = 4
STEPS = 4.0 ** np.arange(-6, 4)  # on the real scale: from where rounding rules to where curves do
STEADY = 0.02  # relative change from a step to its neighbours, where a difference is a slope
AGREES, DIFFERS = 0.05, 0.1  # relative to the larger of the two slopes
ROUNDING = 16.0  # float spacings by which a log density may be off
WORK = 2**26  # elements that a check may read: a tenth of a second
MOST = 2**24  # numbers in all points of a check
ADVICE = (
    "Is an index outside of its array, is there a stop_gradient, or a custom rule of "
    "differentiation that is wrong?"
)


class Mismatch(NamedTuple):
    """Latents along which the gradient is not the slope of the values."""

    names: tuple[str, ...]
    gradient: float  # nats for a unit of the real scale, along a random direction
    slope: float  # the same by differences of the values

    def __str__(self) -> str:
        return (
            f"along {', '.join(self.names)} the gradient of the log density says "
            f"{self.gradient:.3g} nats for a unit, and its values change by {self.slope:.3g}: they "
            f"are not of one function. {ADVICE}"
        )


def mismatches(
    density: Density, X: Floats, values: Floats, gradients: Floats, work: int = WORK
) -> list[Mismatch]:
    """Compare the gradient with differences of the values, latent by latent.

    Differences are taken with steps of many sizes, along one direction of each latent, or of
    several together where the density is costly. They differ from the gradient where some step
    sizes agree with one another on a slope, and neither these nor smaller ones with the gradient;
    a kink, a jump, or rounding, shows as steps that do not agree. Densities with a loop that runs
    until something has converged are left out: steps lead to where it may not end. So are those
    that cost more than `work` array elements.
    """
    finite = np.flatnonzero(np.isfinite(values) & np.isfinite(gradients).all(1))
    best = finite[np.argsort(-values[finite], kind="stable")[:POINTS]]
    if not len(best) or density.log_joint.open_ended:
        return []
    each = 2 * len(STEPS) * len(best) * max(density.log_joint.cost, 1)
    names = [n for n, (start, stop) in density.model.spans.items() if stop > start]
    num = min(len(names), work // each, MOST // (2 * len(STEPS) * POINTS * X.shape[1]))
    if not num:
        return []
    groups = [tuple(map(str, group)) for group in np.array_split(names, num)]
    signs = np.random.default_rng(1).choice([-1.0, 1.0], X.shape[1])
    directions = np.zeros((num, X.shape[1]))
    for group, direction in zip(groups, directions, strict=True):
        for name in group:
            span = slice(*density.model.spans[name])
            direction[span] = signs[span]
    along = gradients[best] @ directions.T  # (P, G)
    with np.errstate(all="ignore"):
        slopes = _slopes(density, X[best], along, directions)
    found = []
    for k, group in enumerate(groups):
        wrong = [(along[p, k], slope) for p, slope in enumerate(slopes[:, k]) if np.isfinite(slope)]
        agree = np.isposinf(slopes[:, k]).any()
        if len(wrong) > 1 and not agree:  # one may be where the density jumps
            found.append(Mismatch(group, float(wrong[0][0]), float(wrong[0][1])))
    return found


def _slopes(density: Density, X: Floats, along: Floats, directions: Floats) -> Floats:
    """Return the slopes (P, G) of values along directions (G, D) where they are not `along`.

    Infinity where they are, NaN where no steps agree on a slope, or the two are close.
    """
    steps = np.concatenate([STEPS, -STEPS])
    moved = X[:, None, None] + steps[:, None] * directions[:, None]  # (P, G, 2 S, D)
    values = density.value(moved.reshape(-1, X.shape[1]))
    up, down = np.moveaxis(values.reshape(*along.shape, 2, -1), 2, 0)  # (P, G, S) each
    slopes, gradient = (up - down) / (2 * STEPS), along[..., None]
    noise = ROUNDING * np.finfo(density.dtype).eps * (np.abs(up) + np.abs(down)) / STEPS
    size = np.maximum(np.abs(slopes), np.abs(gradient))
    apart = np.abs(np.diff(slopes))
    steady = np.maximum(apart[..., :-1], apart[..., 1:]) + noise[..., 1:-1] <= (
        STEADY * size[..., 1:-1]
    )
    first = np.take_along_axis(slopes, 1 + steady.argmax(-1)[..., None], -1)[..., 0]
    differ = np.abs(first - along) > DIFFERS * np.maximum(np.abs(first), np.abs(along))
    # beyond the steps that agree on a slope, others pass the gradient by chance
    early = np.arange(len(STEPS)) <= 2 + steady.argmax(-1)[..., None]
    agree = np.any(early & (np.abs(slopes - gradient) <= AGREES * size), -1) & steady.any(-1)
    return np.where(agree, np.inf, np.where(steady.any(-1) & differ, first, np.nan))


def sentences(found: Sequence[Mismatch]) -> tuple[str, ...]:
    """Return the faults, a sentence for each latent."""
    return tuple(f"{str(m)[0].upper()}{str(m)[1:]}" for m in found)
