"""Coupled blocks: the fixed-draw ELBO of a Gaussian with a triangular scale, in a moving frame."""

from collections.abc import Callable

import numpy as np

from advi.gaussian import Floats, Gaussian, Structure
from advi.scales import scale_tril
from advi.stages.lbfgs import minimise
from advi.stages.lockstep import Stage
from advi.stages.mean_field import STEP_CAP, Fitted, settled

MAX_EVALS = 200
NEWTON_GAIN = 0.1  # nats a Newton step must gain for another to follow
NEWTON_DAMPING = (1.0, 0.5, 0.25)
CURVATURE_RANGE = (1e-2, 1e4)  # that a scale may change by in one step, squared
MEAN_CURVATURE_RANGE = (1e-6, 1e4)  # a mean may have a thousand sds to go along a ridge


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
    frame = _Frame(E, structure)
    gaussian = yield from newton(gaussian, E, structure, accepted)
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
    )
    return Fitted(
        minimum.point, frame.constant - minimum.value, minimum.reason, minimum.measure.gradient
    )


class _Frame:
    """The coordinates (u, V) around the current Gaussian, V on the pattern of the blocks."""

    def __init__(self, E: Floats, structure: Structure) -> None:
        self.E, self.structure = E, structure
        self.same_block = structure.same_block()
        pattern = np.tril(self.same_block) & structure.noisy[:, None] & structure.noisy[None, :]
        self.rows, self.columns = np.nonzero(pattern)
        self.on_diagonal = self.rows == self.columns
        # inverse Fisher metric of a standard Gaussian: 1 for means and shears, 1/2 for log scales
        self.metric = np.concatenate([np.ones(E.shape[1]), np.where(self.on_diagonal, 0.5, 1.0)])
        self.constant = 0.5 * structure.dim * (1 + np.log(2 * np.pi))

    def value(self, q: Gaussian, log_p: Floats) -> float:
        """Return minus the ELBO, up to `constant`."""
        return float(-log_p.mean()) - q.log_det(self.structure.noisy)

    def objective(self, q: Gaussian) -> Stage[tuple[float, Floats]]:
        """Return minus the ELBO and its gradient with respect to (u, V) at zero."""
        log_p, gradients = yield q.points(self.E)
        W = q.in_frame(gradients)
        GV = -(W.T @ self.E)[self.rows, self.columns] / len(self.E) - self.on_diagonal
        return self.value(q, log_p), np.concatenate([-W.mean(0), GV])

    def retract(self, q: Gaussian, step: Floats) -> Gaussian:
        """Move by a step (u, V)."""
        dim = len(q.loc)
        V = np.eye(dim)
        with np.errstate(over="ignore"):
            V[self.rows, self.columns] = np.where(self.on_diagonal, np.exp(step[dim:]), step[dim:])
        return Gaussian(q.loc + q.scale @ step[:dim], q.scale @ V)


def newton(
    gaussian: Gaussian,
    E: Floats,
    structure: Structure,
    accepted: Callable[[Gaussian, float], None],
) -> Stage[Gaussian]:
    """Take Newton steps with the Stein Hessian while they pay.

    In the frame of q the expected Hessian of -log p is H = -sym(E[g' e']) (Stein's identity), the
    mean's step -H^-1 E[g'] and a block's optimal covariance the inverse of its part of H. The
    mean uses all of H, whatever the blocks: an ill-conditioned posterior is no obstacle to it.

    Parameters
    ----------
    gaussian, E, structure, accepted
        As of `full_rank`.

    Returns
    -------
    Gaussian
        With a (D, D) scale on the pattern of the blocks.
    """
    frame, q = _Frame(E, structure), Gaussian(gaussian.loc, scale_tril(gaussian.scale))
    log_p, gradients = yield q.points(frame.E)
    value = frame.value(q, log_p)
    if not np.all(np.isfinite(gradients)):
        return q
    while True:
        gained = False
        step = _newton_step(q, gradients, frame)
        for damping in NEWTON_DAMPING:
            trial = step(damping)
            log_p, trial_gradients = yield trial.points(frame.E)
            trial_value = frame.value(trial, log_p)
            finite = np.isfinite(trial_value) and bool(np.all(np.isfinite(trial_gradients)))
            if finite and trial_value < value:
                gained = value - trial_value >= NEWTON_GAIN
                q, value, gradients = trial, trial_value, trial_gradients
                accepted(q, frame.constant - value)
                break
        if not gained:
            return q


def _newton_step(q: Gaussian, gradients: Floats, frame: _Frame) -> Callable[[float], Gaussian]:
    noisy = frame.structure.noisy
    W = q.in_frame(gradients)
    H = -(W.T @ frame.E) / len(frame.E)
    H = (H + H.T) / 2
    H[~noisy, :] = H[:, ~noisy] = 0
    H[~noisy, ~noisy] = 1
    h, Q = np.linalg.eigh(H)
    u = Q @ ((Q.T @ W.mean(0)) / np.clip(h, *MEAN_CURVATURE_RANGE))
    block_h, block_Q = np.linalg.eigh(np.where(frame.same_block, H, 0.0))
    block_h = np.clip(block_h, *CURVATURE_RANGE)

    def step(damping: float) -> Gaussian:
        covariance = (block_Q * block_h**-damping) @ block_Q.T
        factor = np.where(frame.same_block, np.linalg.cholesky(covariance), 0.0)
        return Gaussian(q.loc + damping * (q.scale @ u), q.scale @ factor)

    return step
