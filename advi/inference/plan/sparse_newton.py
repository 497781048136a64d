"""Newton steps for a Gaussian with a sparse precision: its optimum is minus the mean Hessian."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy

from advi.core.types import Bools, Floats, SparseMatrix
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.maximise_elbo import Accepted
from advi.inference.plan.refine import FreshElbo, fresh_elbo
from advi.model.sparse_hessian import SparseHessian
from advi.variational import draws
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.hub_response import PROBES, HubProbe
from advi.variational.precision_scale import PrecisionScale, ridged

FEW = 4  # antithetic draws while the ELBO rises fast
MIN_DRAWS, MAX_DRAWS, COORDINATES = 16, 256, 2**14  # after: as many as have these coordinates
MAX_STEPS = 80
LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)  # of a step, that are tried
# Gains of a step, nats and nats for each coordinate, below which the next phase begins.
HELD_GAIN, FEW_GAIN, FEW_NATS, GAIN, NATS = 0.02, 0.003, 0.5, 1e-4, 0.01
MAX_LEFT = 10.0  # smallest gains, that a step by the gradient promises at a state that none betters
MAX_MOVE, MAX_MEASURED = 0.02, 64  # sds of the last step, and means of which it is measured
HUB_ERROR = 0.1  # sds, of the means of hubs
MAX_HUB_DRAWS = 2048
MIN_CHUNK, MAX_CHUNK, CHUNK_COORDINATES = 16, 256, 2**22  # draws of one call
MIN_PROBES = 3  # the more effects there are, the better each tells a trace
HUB_VARIANCE = 0.01  # of hubs at the start
NARROWER = (1e2, 1e4, 1e6)  # times the first precision, where wider draws are not finite
MAX_GAP = 1e-3  # nats for each coordinate, between the ELBO on the steps' draws and on fresh ones
MAX_ROUNDS = 12  # of averages over further draws


class SparseEnd(NamedTuple):
    """The end of the steps."""

    fresh: FreshElbo  # of the Gaussian, on draws that no step has seen
    held_out_gap: float  # nats
    reason: str  # "converged" | "budget" | "not finite"
    gradient: float  # of the means, norm in units of the scale


def sparse_newton(
    start: Gaussian,
    hessian: SparseHessian,
    structure: Structure,
    rng: np.random.Generator,
    fresh_draws: Floats,
    accepted: Accepted,
    *,
    warm: bool,
) -> Stage[SparseEnd]:
    """Maximise the ELBO over means and sparse precisions (Opper & Archambeau 2009).

    At the optimum the mean gradient over q vanishes, and the precision is minus the mean Hessian.
    Steps go there on common antithetic draws, as far as their ELBO rises. At first hubs, such as
    hyperparameters, are held, so that effects are known before their spread is. `warm` says that
    `start` is a fit.
    """
    steps = _Steps(hessian, structure, rng, accepted)
    variances = start.sds**2 if warm else np.ones(hessian.dim)
    held = np.zeros(hessian.dim, bool)
    if not warm and len(hessian.hubs) < hessian.dim:
        held[hessian.hubs] = True
        variances[hessian.hubs] = HUB_VARIANCE
    scale = steps.scale(scipy.sparse.diags_array(1 / variances))
    num, reason = FEW, "budget"
    state = yield from steps.finite(start.loc, scale, steps.draws(FEW))
    for _ in range(MAX_STEPS):
        if not np.isfinite(state.elbo):
            reason = "not finite"
            break
        before, state = state, (yield from steps.moved(state, held))
        gain = state.elbo - before.elbo
        if held.any():
            held &= gain >= HELD_GAIN * hessian.dim
        elif num == FEW and gain < FEW_NATS + FEW_GAIN * hessian.dim:
            num = steps.most
            state = yield from steps.evaluated(state.loc, state.scale, steps.draws(num))
        elif num > FEW and gain < steps.least_gain and steps.settled(before, state):
            if steps.could_gain(state) > MAX_LEFT * steps.least_gain:
                break  # no step was found that would
            enough = yield from steps.num_draws(state)
            if enough <= num:
                reason = "converged"
                break
            num = MAX_HUB_DRAWS  # so that it comes once
            state = yield from steps.evaluated(state.loc, state.scale, steps.draws(enough))
    return (yield from _ended(steps, state, fresh_draws, reason))


class _Noise(NamedTuple):
    """Antithetic draws, made anew for every evaluation: they may be very many."""

    num: int
    dim: int
    seed: int

    def parts(self) -> Iterator[Floats]:
        chunk = int(np.clip(CHUNK_COORDINATES // self.dim, MIN_CHUNK, MAX_CHUNK)) // 2 * 2
        for start in range(0, self.num, chunk):
            rng = np.random.default_rng((self.seed, start))
            yield draws.antithetic(rng, min(chunk, self.num - start), self.dim)


class _State(NamedTuple):
    """A Gaussian, and the log density on draws of it."""

    loc: Floats
    scale: PrecisionScale
    noise: _Noise
    points: Floats  # (k, D) of some of the draws, for the Hessian
    gradient: Floats  # (D,) mean
    elbo: float


class _Steps(NamedTuple):
    hessian: SparseHessian
    structure: Structure
    rng: np.random.Generator
    accepted: Accepted

    @property
    def most(self) -> int:
        """Draws of a step, but for those that means of hubs may take, and of a mean Hessian."""
        return int(np.clip(COORDINATES // self.hessian.dim, MIN_DRAWS, MAX_DRAWS)) // 2 * 2

    @property
    def least_gain(self) -> float:
        """Nats below which a step is no longer worth it."""
        return NATS + GAIN * self.hessian.dim

    def scale(self, precision: SparseMatrix) -> PrecisionScale:
        return PrecisionScale(scipy.sparse.csc_array(precision), self.hessian.elimination.order)

    def draws(self, num: int) -> _Noise:
        return _Noise(num, self.hessian.dim, int(self.rng.integers(2**63)))

    def evaluated(self, loc: Floats, scale: PrecisionScale, noise: _Noise) -> Stage[_State]:
        q, elbo, gradient, points = Gaussian(loc, scale), 0.0, np.zeros(len(loc)), []
        for E in noise.parts():
            X = q.points(E)
            values, gradients = yield X
            share = len(E) / noise.num
            elbo += share * float(self.structure.elbos(values, E, q).mean())
            gradient += share * gradients.mean(0)
            if not len(points):
                few = min(len(E), self.most) // 2
                points = X[np.r_[:few, len(E) // 2 : len(E) // 2 + few]]
        finite = np.isfinite(elbo) and np.isfinite(gradient).all()
        return _State(loc, scale, noise, np.asarray(points), gradient, elbo if finite else -np.inf)

    def finite(self, loc: Floats, scale: PrecisionScale, noise: _Noise) -> Stage[_State]:
        """Return the first state, of a narrower scale if draws of the given one are not finite."""
        state = yield from self.evaluated(loc, scale, noise)
        for times in NARROWER:
            if np.isfinite(state.elbo):
                break
            state = yield from self.evaluated(loc, self.scale(times * scale.precision), noise)
        return state

    def moved(self, state: _State, held: Bools) -> Stage[_State]:
        """Return the state after the longest step that raises the ELBO; the same if none does."""
        before, gradient = state.scale.precision, state.gradient
        target = -self.hessian.mean(state.points)
        if held.any():
            keep = scipy.sparse.diags_array((~held).astype(float))
            own = scipy.sparse.diags_array(np.where(held, before.diagonal(), 0.0))
            target, gradient = keep @ target @ keep + own, np.where(held, 0.0, gradient)
        positive = ridged(target, self.hessian.elimination.order)
        if positive is None:
            return state
        step = positive.covariance_times(gradient[None])[0]
        if not held.any() and len(self.hessian.hubs):
            moved = yield from self._with_response(state, Gaussian(state.loc, positive), step)
            if moved is not None:
                return moved
        # near the optimum no shorter step gains more; far from it the curvature may mislead, and
        # the present scale is tried
        if 0.5 * gradient @ step < self.least_gain:
            tried = [(positive, step, LENGTHS[:1])]
        else:
            by_scale = state.scale.covariance_times(gradient[None])[0]
            tried = [(positive, step, LENGTHS), (state.scale, by_scale, LENGTHS)]
        for towards, way, lengths in tried:
            for length in lengths:
                scale = self.scale((1 - length) * before + length * towards.precision)
                moved = yield from self.evaluated(state.loc + length * way, scale, state.noise)
                if moved.elbo > state.elbo:
                    self.accepted(Gaussian(moved.loc, scale), moved.elbo)
                    return moved
        return state

    def _with_response(self, state: _State, at: Gaussian, step: Floats) -> Stage[_State | None]:
        """Return the state after a step that allows for the response of the precision, if longer.

        Otherwise hubs such as the sd of effects go a small part of their way, as in EM.
        """
        hubs = self.hessian.hubs
        probe = self.probe(at)
        _, gradients = yield probe.points()
        longer = probe.moved(step, probe.response(gradients))
        further = np.abs(longer - step)[hubs] / np.sqrt(np.diag(probe.columns[:, hubs]))
        if not np.isfinite(longer).all() or further.max() < MAX_MOVE:
            return None
        for length in (1.0, 0.25):
            loc = state.loc + length * longer
            there = yield from self.evaluated(loc, probe.scale, state.noise)
            if not np.isfinite(there.elbo):
                continue
            scale = ridged(-self.hessian.mean(there.points), self.hessian.elimination.order)
            if scale is None:
                continue
            moved = yield from self.evaluated(loc, scale, state.noise)
            if moved.elbo > state.elbo:
                self.accepted(Gaussian(loc, scale), moved.elbo)
                return moved
        return None

    def num_draws(self, state: _State) -> Stage[int]:
        """Return how many draws the means of hubs take, of which effects may tell little."""
        if not len(self.hessian.hubs):
            return 0
        probe = self.probe(Gaussian(state.loc, state.scale))
        _, gradients = yield probe.points()
        num = probe.num_draws(probe.response(gradients), HUB_ERROR)
        return int(min(num, MAX_HUB_DRAWS)) // 2 * 2

    def probe(self, q: Gaussian) -> HubProbe:
        num = int(np.clip(COORDINATES // self.hessian.dim, MIN_PROBES, PROBES))
        noise = self.rng.standard_normal((num, self.hessian.dim))
        return HubProbe(q, self.hessian.hubs, noise)

    def could_gain(self, state: _State) -> float:
        """Return the nats that a step of the means would gain, by the present precision."""
        gradient = state.gradient
        return float(0.5 * gradient @ state.scale.covariance_times(gradient[None])[0])

    def settled(self, before: _State, after: _State) -> bool:
        """Return whether a step has moved the means of hubs little; of some, if there are none."""
        hubs, dim = self.hessian.hubs, self.hessian.dim
        index = (hubs if len(hubs) else np.arange(dim))[:MAX_MEASURED]
        units = np.zeros((len(index), dim))
        units[np.arange(len(index)), index] = 1
        sds = np.linalg.norm(after.scale.rmv(units), axis=1)
        return bool((np.abs(after.loc - before.loc)[index] < MAX_MOVE * sds).all())


def _ended(steps: _Steps, state: _State, fresh_draws: Floats, reason: str) -> Stage[SparseEnd]:
    """Return the end, after averages over further draws while these raise the ELBO on fresh ones.

    It is much lower than on the steps' own draws where these are too few for the precision.
    """
    structure, loc, precision = steps.structure, state.loc, state.scale.precision
    fresh = yield from fresh_elbo(Gaussian(loc, state.scale), structure, fresh_draws)
    gap, seen = state.elbo - fresh.elbo.value, 1
    while reason == "converged" and gap > MAX_GAP * steps.hessian.dim and seen <= MAX_ROUNDS:
        seen += 1
        noise = steps.draws(state.noise.num)
        state = yield from steps.evaluated(loc, steps.scale(precision), noise)
        if not np.isfinite(state.elbo):
            break
        precision = precision - (steps.hessian.mean(state.points) + precision) / seen
        scale = ridged(precision, steps.hessian.elimination.order)
        if scale is None:
            break
        loc = loc + scale.covariance_times(state.gradient[None])[0] / seen
        after = yield from fresh_elbo(Gaussian(loc, scale), structure, fresh_draws)
        if not after.elbo.value > fresh.elbo.value:
            break
        gap, fresh, precision = gap - after.elbo.value + fresh.elbo.value, after, scale.precision
        steps.accepted(fresh.gaussian, fresh.elbo.value)
    return SparseEnd(fresh, float(gap), reason, np.sqrt(2 * max(steps.could_gain(state), 0.0)))
