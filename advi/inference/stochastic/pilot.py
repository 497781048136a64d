"""The start of a fit by minibatches: the automatic plan on some rows, then a look at all of them.

Some rows, counted as often as there are more, have a posterior of the right width, which lies
within the root of N/n of its sds of that of all rows. Gradients of all rows at a few points make up
for that distance.
"""

from typing import NamedTuple, Protocol

import numpy as np

from advi.core.status import Status
from advi.data.arrays import Rows, taking
from advi.inference.plan.lbfgs import minimise
from advi.inference.plan.lockstep import Stage, lockstep
from advi.inference.plan.path import MIN_DRAWS
from advi.inference.plan.plan import run_plan
from advi.inference.plan.search import Look
from advi.inference.stochastic.control_variate import Anchor
from advi.model.density import Density
from advi.variational.family import Family
from advi.variational.gaussian import Floats, Gaussian, Structure
from advi.variational.guide import Guide
from advi.variational.point import Point
from advi.variational.scale import scale_tril

MAX_DIM = 256  # beyond, the plan would cost more than the steps that it saves
NUM_ROWS, ROWS_PER_DIM = 2048, 20  # rows to run the plan on
MAX_PASSES = 60  # gradients of all rows
NEAR = 0.02  # sds that a coordinate of the mean may still have to go
FAR = 0.5  # sds from which on the start has failed
STEP_CAP = 1000.0  # sds; all rows may lie as far from some as the root of their ratio


class Start(NamedTuple):
    """Where steps on minibatches start."""

    gaussian: Gaussian
    anchor: Anchor | tuple[()]  # nothing where rows beyond the sample told nothing
    alarms: tuple[str, ...] = ()  # what is wrong with the log density


def can_start(guide: Guide) -> bool:
    """Return whether a guide is one that the plan on some rows is for: few latents, all shared."""
    families = all(isinstance(b.family, Family) and b.family != Point() for b in guide.blocks)
    return families and guide.model.size <= MAX_DIM


class AllRows(Protocol):
    """The log density of all rows, wherever they are."""

    dtype: np.dtype

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        ...


def plan_on_rows(
    some: Density,
    rng: np.random.Generator,
    first: Gaussian,
    warm: bool,
    look: Look | None = None,
) -> tuple[Gaussian, Status]:
    """Return where the plan on some rows, which stand for all, ends, of full rank, and why.

    Parameters
    ----------
    some
        Log density of the rows.
    rng
        Generator of all draws.
    first, warm, look
        As for `run_plan`.

    Raises
    ------
    NotFiniteError
        If the log density is finite nowhere.
    """
    outcome = run_plan(some, _coupled(len(first.loc)), rng, first, warm=warm, look=look)
    return outcome.gaussian, outcome.status


def toward_all(
    density: AllRows,
    some: Density,
    rng: np.random.Generator,
    q: Gaussian,
    max_passes: int = MAX_PASSES,
    look: Look | None = None,
) -> Start | None:
    """Return a Gaussian near the posterior of all rows, and an anchor near its mean.

    The Gaussian of some rows is moved to where all rows have it, by L-BFGS in its own frame. What
    is maximised is the ELBO on some rows, and what all rows have beyond them at the mean (Shamir,
    Srebro & Zhang 2014, section 3): the first step leaves about the root of D/n of the way, or more
    where some rows say little of a latent, as of a rare group.

    Parameters
    ----------
    density
        Log density of all rows.
    some
        That of some rows, which stand for all.
    rng
        Generator of all draws.
    q
        Where the plan on some rows ended.
    max_passes
        Gradients of all rows, at most. If no way leads from the optimum of some rows to that of
        all, there is no anchor.

    Returns
    -------
    Start or None
        None if the log density of all rows is not finite where that of some is.
    """
    structure = _coupled(len(q.loc))
    E = structure.fixed_draws(rng, max(MIN_DRAWS, 2 * structure.dim))
    seen: list[tuple[Anchor, Floats]] = []  # the last evaluation, and its gradient in the frame
    reached: list[tuple[Floats, Anchor, Floats]] = []
    evals = 0

    def evaluate(X: Floats) -> tuple[Floats, Floats]:
        nonlocal evals
        evals += 1
        x = X.astype(density.dtype)
        value, gradient = density.value_and_grad(x)
        values, gradients = some.value_and_grad(np.concatenate([x, q._replace(loc=x[0]).points(E)]))
        anchor = Anchor(x[0], value[0], gradient[0])  # type: ignore[arg-type]
        gradient = gradient - gradients[0] + gradients[1:].mean(0)
        seen[:] = [(anchor, q.in_frame(gradient)[0])]
        return value - values[0] + values[1:].mean(), gradient

    def objective(x: Floats) -> Stage[tuple[float, Floats]]:
        values, gradients = yield x[None]
        return -float(values[0]), -q.in_frame(gradients)[0]

    stage = minimise(
        q.loc,
        objective,
        retract=lambda x, step: x + q.moves(step[None])[0],
        metric=np.ones_like,
        cap=STEP_CAP,
        max_evals=max_passes,
        done=lambda measure: not measure.gradient > NEAR,
        eps=float(np.finfo(density.dtype).eps),
        accepted=lambda x, _: reached.append((x, *seen[-1])),
    )
    [minimum] = lockstep([stage], evaluate)
    if not reached:
        return None
    x, anchor, gradient = reached[-1]
    far = minimum.measure.gradient >= FAR
    if far and max_passes < MAX_PASSES and evals == len(reached):
        # there was no time for more; the step that costs nothing leaves about sqrt(D/n) of the way
        length = min(1.0, STEP_CAP / minimum.measure.gradient)
        x = x + q.moves(length * gradient[None])[0]
    elif far:
        return Start(q._replace(loc=x), ())
    return Start(q._replace(loc=x), anchor)


def _coupled(dim: int) -> Structure:
    """Return the structure of a Gaussian of full rank."""
    return Structure(np.ones(dim, bool), np.zeros(dim, int), np.zeros((dim, 0), bool))


def near(gaussian: Gaussian, structure: Structure) -> Gaussian:
    """Return the best approximation with a structure to a Gaussian of full rank.

    Of coupled coordinates the precision is kept, so that uncoupled ones end with the sds that they
    have given all others (Bishop 2006, eq. 10.13). Families of low rank choose for themselves.
    """
    coupled = structure.same_block()
    if structure.rank or coupled.all():
        return gaussian
    sds = gaussian.sds  # in units of these, the matrices below are as far from singular as can be
    inverse = np.linalg.inv(scale_tril(gaussian.scale) / sds[:, None])
    precision = np.where(coupled, inverse.T @ inverse, 0.0)
    scale = sds[:, None] * np.linalg.cholesky(np.linalg.inv(precision))
    return Gaussian(gaussian.loc, scale)


def num_some(rows: Rows, dim: int) -> int:
    """Return how many rows to run the plan on."""
    return min(rows.num_rows, max(NUM_ROWS, ROWS_PER_DIM * dim))


def some_rows(density: Density, rows: Rows, rng: np.random.Generator) -> Density:
    """Return the log density of a random sample of the rows, which stand for all."""
    num = num_some(rows, density.model.size)
    if rows.num_rows == num:
        return density
    index = np.sort(rng.choice(rows.num_rows, num, replace=False))
    some = Rows(rows.num_rows, num, rows.per_row)
    spec = some.batch_spec(density.spec)
    data = taking(some)(density.data, index.astype(np.int32))
    return Density(density.model, data, spec, density.estimated, some.scale)
