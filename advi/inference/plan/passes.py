"""Passes over all rows, from the Gaussian of some rows to the posterior mean of all."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from advi.core.types import Floats
from advi.inference.plan.batched_calls import Stage, run_batched
from advi.inference.plan.lbfgs import Minimum, finite_start, minimise
from advi.model.density import Density
from advi.variational.draws import MIN_DRAWS
from advi.variational.gaussian import Gaussian, full_structure

NEAR = 0.02  # sds: remaining distance of the mean at convergence
STEP_CAP = 1000.0  # sds; some rows may be off by sqrt(N/n)


class AllRows(Protocol):
    """The log density of all rows."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]: ...


class Pass(NamedTuple):
    """All rows at one point."""

    x: Floats  # (D,) in the precision of the rows
    value: Any  # log density, nats
    gradient: Floats  # (D,)
    slope: Floats  # (D,) of the ELBO, where the Gaussian of some rows is standard


class Passes(NamedTuple):
    """What passes over all rows have found."""

    minimum: Minimum  # of minus the ELBO
    points: list[tuple[Floats, Pass]]  # means that were accepted, the last one at the end
    num: int


def passes_over(
    density: AllRows, some: Density, rng: np.random.Generator, q: Gaussian, most: int
) -> Passes | None:
    """Move the mean of a Gaussian of some rows toward the posterior of all rows.

    By L-BFGS in coordinates whitened by the Gaussian, with at most `most` gradients of all rows.
    The objective is the ELBO on some rows plus the difference of all rows from these at the mean
    (Shamir, Srebro & Zhang 2014, section 3): the first step leaves a distance of about sqrt(D/n),
    or more if some rows have little information on a latent, such as that of a rare group. None if
    the log density of all rows is not finite where that of some is.
    """
    structure = full_structure(len(q.loc))
    E = structure.fixed_draws(rng, max(MIN_DRAWS, 2 * structure.dim))
    seen: list[Pass] = []  # the last one
    reached: list[tuple[Floats, Pass]] = []
    num = 0

    def evaluate(X: Floats) -> tuple[Floats, Floats]:
        nonlocal num
        num += 1
        x = X.astype(density.dtype)
        value, gradient = density.value_and_grad(x)
        values, gradients = some.value_and_grad(np.concatenate([x, q._replace(loc=x[0]).points(E)]))
        of_elbo = gradient - gradients[0] + gradients[1:].mean(0)
        seen[:] = [Pass(x[0], value[0], gradient[0], q.scale.rmv(of_elbo)[0])]
        return value - values[0] + values[1:].mean(), of_elbo

    def objective(points: Sequence[Floats]) -> Stage[tuple[Floats, Floats]]:
        values, gradients = yield points[0][None]
        return -values, -q.scale.rmv(gradients)

    def stage() -> Stage[Minimum | None]:
        start = yield from finite_start([q.loc], objective, lambda x: x, most=1)
        [end] = yield from minimise(
            start,
            objective,
            retract=lambda x, step: x + q.scale.mv(step[None])[0],
            metric=lambda x: np.ones(len(x)),
            cap=STEP_CAP,
            max_evals=most,
            done=lambda measure: not measure.gradient > NEAR,
            eps=float(np.finfo(density.dtype).eps),
            accepted=lambda _, x, value: reached.append((x, seen[-1])),
        )
        return end

    [minimum] = run_batched([stage()], evaluate)
    return None if minimum is None else Passes(minimum, reached, num)
