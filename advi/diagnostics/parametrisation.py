"""The better parametrisation of a hierarchy, from the dependence between scale and effects."""

from collections.abc import Mapping

import numpy as np

from advi.core.types import Floats

MIN_EFFECTS = 3
MIN_CORRELATION = 0.6


def parametrisation(
    real: Mapping[str, Floats], scales: Mapping[str, Floats], weights: Floats, off: frozenset[str]
) -> str:
    """Return a phrase on how to reparameterise a hierarchy, or "" where none is recognised.

    Where a scale and the sd of real effects are positively correlated, the data say little of each
    effect, and its standard score is free of the scale: the non-centred form. Where the correlation
    is negative, the data determine their product: the centred form. A pair of latents counts only
    if an entry of it is in `off`, or if `off` is empty. Draws are ``(S, *shape)``, by name.

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
            sd = effects.reshape(len(effects), -1).std(1)
            if not (s > 0).all() or not (sd > 0).all():
                continue
            r = _correlation(np.log(s), np.log(sd), weights)
            if abs(r) > best:
                best = abs(r)
                words = f"write {name} centred, with the effects that {scale} * {name} gives for "
                words += "the latents"
                if r > 0:
                    words = f"write {name} non-centred, as mean + {scale} * score with a standard "
                    words += "normal score for the latent"
    return words


def _correlation(x: Floats, y: Floats, weights: Floats) -> float:
    x, y = x - weights @ x, y - weights @ y
    norm = np.sqrt((weights @ x**2) * (weights @ y**2))
    return float((weights @ (x * y)) / norm) if norm > 0 and np.isfinite(norm) else 0.0
