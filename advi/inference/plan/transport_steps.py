"""Steps that bend a fitted Gaussian: a richer transport, moved on fresh draws without a setting."""

from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate
from advi.core.types import Bools, Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.runner import Runner
from advi.variational import draws
from advi.variational.transport import Drawn, Transport

DRAWS = 256  # of a step, antithetic
STEPS = 200  # of a round
MAX_ROUNDS = 4
GAIN_NATS, ERRORS = 0.02, 2.0  # of a round, for another to follow
FRESH_DRAWS = 1024  # of a held-out ELBO
MIN_FINITE = 0.9  # share of a step's draws
DROP_NATS, DROP_ERRORS = 3.0, 5.0  # below the first step's ELBO, where the steps begin again
BACK_OFF, MAX_TRIES = 3.0, 6
MOMENT, SQUARE = 0.9, 0.99  # decay of Adam's averages


class Bent(NamedTuple):
    """The end of the steps."""

    transport: Transport
    elbo: Estimate  # on draws that no step has seen
    gain: Estimate  # over the start, on common draws
    steps: int


def bend(
    transport: Transport, rate: float, rng: np.random.Generator, runner: Runner, early: int = DRAWS
) -> Stage[Bent]:
    """Maximise the ELBO over a transport's parameters, in rounds while it rises on fresh draws.

    `rate` is Adam's, constant over the first half of a round, which takes `early` draws a step, and
    falling to zero over the second, of which the average is kept. A round that leads far below its
    start, or ends below it, begins again at a third of the rate. The result is never worse than the
    start.
    """
    E = draws.antithetic(rng, FRESH_DRAWS, transport.noise_dim)
    first = best = yield from _elbos(transport, E)
    current, taken = transport, 0
    for _ in range(MAX_ROUNDS):
        candidate, values, gain = current, best, Estimate(0.0, 0.0)
        for _ in range(MAX_TRIES):
            vector = yield from _round(current, rate, rng, runner, early)
            if vector is not None:
                taken += STEPS
                candidate = current.at(vector)
                values = yield from _elbos(candidate, E)
                gain = Estimate.of(values - best)
                if gain.value > -GAIN_NATS:
                    break
            rate /= BACK_OFF
        if not gain.value > 0:
            break
        current, best = candidate, values
        if not gain.value > GAIN_NATS + ERRORS * gain.mcse:
            break
    fresh = yield from _elbos(current, draws.antithetic(rng, FRESH_DRAWS, transport.noise_dim))
    return Bent(current, Estimate.of(fresh), Estimate.of(best - first), taken)


def _elbos(transport: Transport, E: Floats) -> Stage[Floats]:
    """Return log p - log q, nats, of pairs of antithetic draws, -inf where it is not finite."""
    drawn = transport.draw(E)
    values, _ = yield np.where(np.isfinite(drawn.points), drawn.points, 0)
    elbos = np.where(_finite(drawn, values), values - drawn.log_q, -np.inf)
    return elbos.reshape(2, -1).mean(0)


def _round(
    transport: Transport, rate: float, rng: np.random.Generator, runner: Runner, early: int
) -> Stage[Floats | None]:
    """Return the average of the second half of the steps; None if they lead far below the start."""
    vector = transport.vector
    moment, square, total = (np.zeros_like(vector) for _ in range(3))
    first: Estimate | None = None
    for step in range(STEPS):
        num = early if step < STEPS // 2 else DRAWS
        E = draws.antithetic(rng, num, transport.noise_dim)
        moved = transport.at(vector)
        drawn = moved.draw(E)
        values, G = yield np.where(np.isfinite(drawn.points), drawn.points, 0)
        good = _finite(drawn, values) & np.isfinite(G).all(1)
        if not good.mean() >= MIN_FINITE:
            return None
        elbo = Estimate.of((values - drawn.log_q)[good])
        first = first or elbo
        worse = first.value - elbo.value
        if not worse <= DROP_NATS + DROP_ERRORS * max(first.mcse, elbo.mcse):
            return None
        runner.accepted_transport(moved, elbo.value)
        # draws at which the density is not finite tell nothing: others take their place
        if not good.all():
            E = E[np.flatnonzero(good)[np.arange(len(E)) % good.sum()]]
            G = G[np.flatnonzero(good)[np.arange(len(G)) % good.sum()]]
            drawn = moved.draw(E)
        gradient = moved.gradient(drawn, G)
        if not np.isfinite(gradient).all():
            return None
        moment = MOMENT * moment + (1 - MOMENT) * gradient
        square = SQUARE * square + (1 - SQUARE) * gradient**2
        unbiased = moment / (1 - MOMENT ** (step + 1))
        norm = np.sqrt(square / (1 - SQUARE ** (step + 1))) + np.finfo(np.float32).tiny
        vector = vector + rate * min(1.0, 2 - 2 * step / STEPS) * unbiased / norm
        if step >= STEPS // 2:
            total += vector
    return total / (STEPS - STEPS // 2)


def _finite(drawn: Drawn, values: Floats) -> Bools:
    """Return which draws have a finite density under both."""
    points = np.isfinite(drawn.points).all(1)
    return points & np.isfinite(values) & np.isfinite(drawn.log_q)
