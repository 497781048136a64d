"""Hamiltonian Monte Carlo chains that go on until they have converged, in segments."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats, ValueAndGrad
from advi.variational.gaussian import Gaussian
from advi.variational.scale import TriangularScale

# R-hat asks for some hundred effective draws of each chain: with more of them it takes as many
# steps, and each step is dearer.
CHAINS = 16
FIRST_STEPS = 100  # of the first segment; each further one begins with twice as many
# a difference of both halves has twice the Monte Carlo error of the whole
MAX_RHAT, MAX_DRIFT, MAX_DRIFT_RATIO = 1.01, 0.1, 1.1
NEAR_RHAT = 1.1  # up to which more steps are what a segment lacks
TARGET_ACCEPTANCE, LEARNING = 0.85, 0.7
TRAJECTORY, MAX_LEAPFROGS = np.pi, 16  # longest trajectory, where the target is standard normal
MAX_STEP, FIRST_STEP = 1.0, 0.3
MAX_LEARNT_DIM = 1024  # of a covariance; in more the first whitening stays
SHRINK = 5.0  # draws for each dimension, of the prior guess of a covariance


class Convergence(NamedTuple):
    """How far chains are from converged, the worst of all columns."""

    rhats: Floats  # (K,) split R-hat of the columns, or of their squared deviations
    drift: float  # difference of the means of both halves of the steps, sds
    ratio: float  # of the sds of both halves, the larger over the smaller

    @property
    def rhat(self) -> float:
        """The largest R-hat."""
        return float(self.rhats.max())

    @property
    def converged(self) -> bool:
        return bool(
            self.rhat <= MAX_RHAT and self.drift <= MAX_DRIFT and self.ratio <= MAX_DRIFT_RATIO
        )


class Segment(NamedTuple):
    """The last segment of the chains."""

    points: Floats  # (steps, chains, dim)
    columns: Floats  # (steps, chains, K)
    convergence: Convergence


class Sampler:
    """The states of many chains, whitened by a Gaussian that adapts between segments.

    Every step has one trajectory of a random number of leapfrog steps, the same for all chains.
    Neal (2011), MCMC using Hamiltonian dynamics, sections 3.2 and 5.4.
    """

    def __init__(
        self, value_and_grad: ValueAndGrad, start: Floats, whitening: Gaussian,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.value_and_grad, self.rng = value_and_grad, rng
        self.z, self.whitening = start, whitening
        self.value, self.gradient = value_and_grad(start)
        self.step = FIRST_STEP
        self.num_gradients = len(start)

    def run(self, steps: int, *, adapt: bool, stop: Callable[[], bool] = lambda: False) -> Floats:
        """Take steps until `stop`; return the states after each, (steps, chains, dim)."""
        taken: list[Floats] = []
        while len(taken) < steps and not stop():
            taken.append(self._step(adapt))
        return np.array(taken).reshape(len(taken), *self.z.shape)

    def learn(self, points: Floats) -> None:
        """Take the covariance of states (..., dim) for the frame, shrunk towards the last one."""
        dim = points.shape[-1]
        points = points.reshape(-1, dim)
        if len(points) < 2 or dim > MAX_LEARNT_DIM:
            return
        keep = SHRINK * dim / (SHRINK * dim + len(points))
        before = self.whitening.scale.tril()
        cov = (1 - keep) * np.cov(points.T).reshape(dim, dim) + keep * before @ before.T
        try:
            factor = np.linalg.cholesky(cov)
        except np.linalg.LinAlgError:
            return
        self.whitening = Gaussian(points.mean(0), TriangularScale(np.asarray(factor, float)))

    def _step(self, adapt: bool) -> Floats:
        scale, (chains, dim) = self.whitening.scale, self.z.shape
        longest = int(np.clip(np.ceil(TRAJECTORY / self.step), 1, MAX_LEAPFROGS))
        leapfrogs = int(self.rng.integers(1, longest + 1))
        sizes = self.step * self.rng.uniform(0.8, 1.2, (chains, 1))
        momentum = self.rng.standard_normal((chains, dim))
        energy = self.value - 0.5 * (momentum**2).sum(1)
        z, value, gradient = self.z, self.value, self.gradient
        force = scale.rmv(gradient)
        for _ in range(leapfrogs):
            momentum = momentum + 0.5 * sizes * force
            z = z + scale.mv(sizes * momentum)
            value, gradient = self.value_and_grad(z)
            force = scale.rmv(gradient)
            momentum = momentum + 0.5 * sizes * force
        self.num_gradients += leapfrogs * chains
        change = value - 0.5 * (momentum**2).sum(1) - energy
        change = np.where(np.isfinite(change), change, -np.inf)
        acceptance = np.exp(np.minimum(change, 0.0))
        accept = self.rng.random(chains) < acceptance
        self.z = np.where(accept[:, None], z, self.z)
        self.value = np.where(accept, value, self.value)
        self.gradient = np.where(accept[:, None], gradient, self.gradient)
        if adapt:
            factor = np.exp(LEARNING * (acceptance.mean() - TARGET_ACCEPTANCE))
            self.step = min(MAX_STEP, self.step * factor)
        return self.z


def run_until_converged(
    sampler: Sampler,
    columns: Callable[[Floats], Floats],  # of states (n, dim): (n, K)
    stop: Callable[[int], bool],  # of the number of gradients, after every step
    report: Callable[[Segment], object],
) -> Segment | None:
    """Return the first segment that has converged, or the longest one until `stop` or Ctrl-C.

    A segment whose R-hat is near its limit goes on, half as long again each time; after any other
    the frame and the length of a step are learned anew. Everything before a segment is warm-up.
    None if there was no segment.
    """
    longest: Segment | None = None
    steps = FIRST_STEPS

    def ended() -> bool:
        return stop(sampler.num_gradients)

    try:
        sampler.run(FIRST_STEPS // 4, adapt=True, stop=ended)
        sampler.learn(sampler.run(FIRST_STEPS // 4, adapt=True, stop=ended))
        while not ended():
            sampler.run(FIRST_STEPS // 4, adapt=True, stop=ended)
            segment = None
            while True:
                points = sampler.run(steps, adapt=False, stop=ended)
                segment = _segment(points, columns, segment)
                if segment is None:
                    return longest
                converged, num = segment.convergence.converged, len(segment.points)
                if longest is None or converged or num >= len(longest.points):
                    longest = segment
                    report(longest)
                if converged or ended():
                    return longest
                if num == FIRST_STEPS or segment.convergence.rhat > NEAR_RHAT:
                    break
                steps = num // 2
            sampler.learn(segment.points)
            steps = 2 * num
    except KeyboardInterrupt:
        pass  # with the draws so far
    return longest


def _segment(
    points: Floats, columns: Callable[[Floats], Floats], before: Segment | None = None
) -> Segment | None:
    """Return the segment of further states, joined to one before; None if it is too short."""
    if before is None and len(points) < FIRST_STEPS:
        return None
    values = columns(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:2], -1)
    if before is not None:
        points = np.concatenate([before.points, points])
        values = np.concatenate([before.columns, values])
    return Segment(points, values, convergence(values))


def convergence(columns: Floats) -> Convergence:
    """Return how far columns (steps, chains, K) are from converged.

    Split R-hat: Gelman et al. (2013), Bayesian Data Analysis, section 11.4; of squared deviations
    too, which have the sds.
    """
    half = len(columns) // 2
    first, second = columns[:half], columns[half : 2 * half]
    sd = columns.std((0, 1))
    sd = np.where(sd > 0, sd, 1.0)
    standard = (columns[: 2 * half] - columns.mean((0, 1))) / sd
    split = standard.reshape(2, half, *columns.shape[1:]).swapaxes(1, 2)
    split = split.reshape(-1, half, columns.shape[2])  # (2 chains, half, K)
    drift = np.abs(first.mean((0, 1)) - second.mean((0, 1))) / sd
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.abs(np.log(first.std((0, 1)) / second.std((0, 1))))
    log_ratio = np.where(np.isfinite(log_ratio), log_ratio, 0.0)
    rhats = np.maximum(_rhat(split), _rhat(split**2))
    return Convergence(rhats, float(drift.max()), float(np.exp(log_ratio.max())))


def _rhat(chains: Floats) -> Floats:
    """Return R-hat (K,) of chains (chains, steps, K)."""
    within = chains.var(1, ddof=1).mean(0)
    between = chains.mean(1).var(0, ddof=1)
    num = chains.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.sqrt((num - 1) / num + between / within)
    return np.where(within > 0, rhat, 1.0)
