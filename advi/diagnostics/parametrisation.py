"""Which way a hierarchy is better written: by what its scale and its effects have in common."""

from collections.abc import Mapping

import numpy as np

from advi.core.types import Floats

MIN_EFFECTS = 3
MIN_CORRELATION = 0.6


def parametrisation(
    real: Mapping[str, Floats], scales: Mapping[str, Floats], weights: Floats, off: frozenset[str]
) -> str:
    """Return how to reparameterise a hierarchy, in words, or nothing where none is recognised.

    Where a scale and the spread of real effects go up and down together, the data say little of
    each effect, and its standard score would be free of the scale: the non-centred form. Where
    they go opposite ways, the data determine their product: the centred form.

    Parameters
    ----------
    real, scales
        Draws ``(S, *shape)`` of real latents and of positive ones, by name.
    weights
        (S,) of the draws.
    off
        Entries whose moments are off; a pair of latents counts only with one of these, or with
        all if there is none.

    References
    ----------
    Papaspiliopoulos, Roberts & Sköld (2007), A general framework for the parametrization of
    hierarchical models, Statistical Science 22(1).
    """
    concerned = {entry.split("[")[0] for entry in off}
    best, words = MIN_CORRELATION, ""
    for scale, s in scales.items():
        for name, effects in real.items():
            if s.ndim > 1 or effects.ndim < 2 or effects.shape[1] < MIN_EFFECTS:
                continue
            if concerned and not concerned & {scale, name}:
                continue
            spread = effects.reshape(len(effects), -1).std(1)
            with np.errstate(divide="ignore"):
                r = _correlation(np.log(s), np.log(spread), weights)
            if abs(r) > best:
                best = abs(r)
                words = (
                    f"write {name} non-centred, as mean + {scale} * score with a standard normal "
                    "score for the latent"
                    if r > 0
                    else f"write {name} centred, with the effects that {scale} * {name} gives for "
                    "the latents"
                )
    return words


def _correlation(x: Floats, y: Floats, weights: Floats) -> float:
    x, y = x - weights @ x, y - weights @ y
    norm = np.sqrt((weights @ x**2) * (weights @ y**2))
    return float((weights @ (x * y)) / norm) if norm > 0 and np.isfinite(norm) else 0.0
