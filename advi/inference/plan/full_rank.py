"""Coupled blocks: the fixed-draw ELBO of a Gaussian with a triangular scale, in a moving frame."""

from collections.abc import Callable

from advi.inference.plan.lbfgs import minimise
from advi.inference.plan.lockstep import Stage
from advi.inference.plan.mean_field import RETREAT, STEP_CAP, Fitted, settled
from advi.inference.plan.newton import newton
from advi.inference.plan.triangular import Frame
from advi.variational.gaussian import Floats, Gaussian, Structure

MAX_EVALS = 200


def full_rank(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    eps: float,
    accepted: Callable[[Gaussian, float], None],
    max_evals: int = MAX_EVALS,
) -> Stage[Fitted]:
    """Maximise the ELBO over the mean and the block-triangular scale L on fixed draws.

    First affine-invariant Newton steps, while they pay; then L-BFGS over the frame (u, V) in which
    the current Gaussian is standard: the mean moves to m + L u and the scale to
    L (strict_tril(V) + diag(exp V_jj)).

    Parameters
    ----------
    gaussian
        Where to start, usually the mean-field optimum.
    E
        (M, D) fixed orthogonal antithetic draws, zero at coordinates without noise.
    structure
        Which coordinates have noise and which are coupled.
    eps
        Machine epsilon of the log density.
    accepted
        Called with every accepted Gaussian and its ELBO.
    max_evals
        Evaluations of the L-BFGS, of M draws each.

    Returns
    -------
    Fitted
    """
    frame = Frame(E, structure)
    gaussian, _ = yield from newton(gaussian, E, structure, accepted)
    minimum = yield from minimise(
        gaussian,
        frame.objective,
        retract=frame.retract,
        metric=lambda _: frame.metric,
        cap=STEP_CAP,
        max_evals=max_evals,
        done=settled,
        eps=eps,
        accepted=lambda q, value: accepted(q, frame.constant - value),
        retreat=lambda q: Gaussian(q.loc, RETREAT * q.scale),
    )
    return Fitted(
        minimum.point, frame.constant - minimum.value, minimum.reason, minimum.measure.gradient
    )
