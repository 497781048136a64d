"""Why chains have not converged, in the model's words."""

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.long_hmc import MAX_RHAT
from advi.diagnostics.reference import ReferenceMoments
from advi.posterior.global_posterior import GlobalPosterior
from advi.transforms.base import base_of
from advi.transforms.scalars import HalfLine

FLAT_SD = 1.5  # of a positive latent's log, beyond which its small values reach far down
APART = 4.0  # R-hat squared less one: chains that hardly meet


def obstacle(posterior: GlobalPosterior, best: ReferenceMoments, names: tuple[str, ...]) -> str:
    """Return a sentence on what keeps long chains from converging, or ""."""
    if best.chains is None or best.confident:
        return ""
    convergence = best.chains.convergence
    k = int(np.argmax(convergence.rhats))
    if convergence.rhat <= MAX_RHAT:
        return (
            f"The halves of the steps differ by up to {convergence.drift:.2g} sd in a mean and by "
            f"up to a factor {convergence.ratio:.2f} in an sd."
        )
    worst = f"The chains move slowest along {names[k]} (R-hat {convergence.rhat:.2f})"
    if convergence.rhat**2 - 1 > APART and _stay_apart(best.chains.columns[:, :, k]):
        return (
            f"{worst}: they stay in separate places, so there is more than one mode, and their "
            "shares are not known."
        )
    low = _reach_down(posterior, best.draws.points)
    if low:
        return (
            f"{worst}. The data and the prior leave {' and '.join(low)} near 0 as likely as "
            "elsewhere: on the log scale there is no lower end. A prior that keeps away from zero "
            "would give it one."
        )
    return f"{worst}."


def _stay_apart(column: Floats) -> bool:
    """Return whether the chains (steps, chains) of a column stay in two groups."""
    means = np.sort(column.mean(0))
    gaps = np.diff(means)
    inside = column.std(0).mean()
    return bool(len(gaps) and gaps.max() > 2 * inside)


def _reach_down(posterior: GlobalPosterior, X: Floats) -> list[str]:
    """Return positive latents whose log has a long lower tail."""
    found = []
    for name, latent in posterior.model.latents.items():
        base = base_of(latent.bijection)
        if name in posterior.guide.estimated or not isinstance(base, HalfLine) or latent.size > 1:
            continue
        values = np.asarray(posterior.constrain(X)[name], float).ravel()
        logs = np.log(np.maximum(np.abs(values - base.bound), 1e-300))
        low, middle, high = np.quantile(logs, [0.05, 0.5, 0.95])
        if middle - low > 2 * (high - middle) or logs.std() > FLAT_SD:
            found.append(name)
    return found
