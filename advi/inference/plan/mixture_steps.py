"""A mixture of the Gaussians at several optima: weights by ELBO, then EM on importance draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advi.core.special import normal_quantile
from advi.core.status import Estimate
from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage
from advi.variational.draws import antithetic
from advi.variational.gaussian import Gaussian
from advi.variational.mixture import MixtureParams
from advi.variational.mixture_transport import MixtureTransport

DRAWS_PER_DIM, MIN_DRAWS, MAX_DRAWS = 20, 2000, 8000  # of a round, times the components
MAX_ROUNDS = 10
GAIN_NATS, ERRORS = 0.02, 2.0  # of a round that is kept
MIN_SHARE = 0.1  # effective one, at which importance draws tell the weights
MIN_WEIGHT = 1e-3  # of a component that is kept
MIN_DRAWS_PER_DIM = 5.0  # effective ones, for which a covariance is estimated


class Mixed(NamedTuple):
    """The end of the rounds."""

    transport: MixtureTransport
    elbo: Estimate  # on draws that no round has seen


class _Weighed(NamedTuple):
    """Draws of a mixture, log p - log q there, and the probabilities of the components."""

    points: Floats  # (n, D)
    log_ratios: Floats  # (n,) nats, -inf where it is not finite
    responsibilities: Floats  # (n, K)

    @property
    def elbo(self) -> Estimate:
        return Estimate.of(self.log_ratios)

    @property
    def share(self) -> float:
        """Effective share of the draws."""
        weights = np.exp(self.log_ratios - self.log_ratios.max())
        return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def mix(
    gaussians: Sequence[Gaussian], elbos: Sequence[float], rng: np.random.Generator
) -> Stage[Mixed]:
    """Return a mixture of Gaussians (K) with weights in proportion to exp(ELBO), and improve it.

    The first round moves the weights alone to those of importance draws, which may lower the ELBO.
    Those that follow, of expectation-maximisation, move means and covariances too, and each has to
    raise it.
    """
    current = MixtureTransport.of(gaussians, elbos)
    weighed = yield from _weighed(current, rng)
    for k in range(MAX_ROUNDS):
        candidate = _moved(current, weighed, weights_alone=k == 0)
        found = yield from _weighed(candidate, rng)
        gain = found.elbo.value - weighed.elbo.value
        error = ERRORS * np.hypot(found.elbo.mcse, weighed.elbo.mcse)
        even = k == 0 and weighed.share > MIN_SHARE
        if not (even or gain > GAIN_NATS + error):
            break
        current, weighed = candidate, found
    fresh = yield from _weighed(current, rng)
    return Mixed(current, fresh.elbo)


def _weighed(transport: MixtureTransport, rng: np.random.Generator) -> Stage[_Weighed]:
    """Draw from a mixture, from its components in proportion to their weights."""
    components, dim = transport.locs.shape
    num = int(np.clip(DRAWS_PER_DIM * dim * components, MIN_DRAWS, MAX_DRAWS)) // 2 * 2
    E = antithetic(rng, num, dim + 1)
    E[:, 0] = normal_quantile((rng.permutation(num) + rng.random(num)) / num)
    drawn = transport.draw(E)
    values, _ = yield drawn.points
    ratios = values - drawn.log_q
    finite = np.where(np.isfinite(ratios), ratios, -np.inf)
    return _Weighed(drawn.points, finite, transport.responsibilities(drawn))


def _moved(
    transport: MixtureTransport, weighed: _Weighed, *, weights_alone: bool
) -> MixtureTransport:
    """Return the mixture after one round, without components of no weight.

    The importance weights are truncated (Ionides 2008). A component with too few effective draws
    keeps its mean and scale.
    """
    X, log_ratios, responsibilities = weighed
    weights = np.exp(log_ratios - log_ratios.max())
    weights = np.minimum(weights, weights.mean() * np.sqrt(len(weights)))
    joint = (weights / weights.sum())[:, None] * responsibilities
    share = joint.sum(0)
    kept = np.flatnonzero(share > MIN_WEIGHT)
    locs, trils = transport.locs.copy(), transport.trils.copy()
    for k in kept:
        v = joint[:, k] / share[k]
        if weights_alone or 1 / (v**2).sum() < MIN_DRAWS_PER_DIM * X.shape[1]:
            continue
        mean = v @ X
        centred = X - mean
        cov = (v[:, None] * centred).T @ centred
        try:
            trils[k] = np.linalg.cholesky(cov)
        except np.linalg.LinAlgError:
            continue
        locs[k] = mean
    moved = MixtureParams(np.log(share[kept]), locs[kept], trils[kept])  # type: ignore[arg-type]
    return MixtureTransport(moved)
