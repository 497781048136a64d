"""The arithmetic of steps of a Gaussian with a triangular scale, by NumPy or by JAX.

Every function takes the array module first, `numpy` or `jax.numpy`: the plan of one fit runs on
the host, without a compilation, and that of many fits is one compiled program.
"""

from typing import Any, Literal, NamedTuple

CURVATURE_RANGE = (1e-2, 1e4)  # squared change of a scale in one step
MEAN_CURVATURE_RANGE = (1e-6, 1e4)  # a mean may move a thousand sds along a ridge
BISECTIONS = 30
Blocks = Literal["whole", "diagonal", "several"]  # what `same_block` is; several: any


class Curvature(NamedTuple):
    """First and second derivatives of the ELBO where q is standard, along eigenvectors."""

    slope: Any  # (D,) of the mean
    h: Any  # (D,) eigenvalues of the expected Hessian of -log p
    axes: Any  # (D, D) and its eigenvectors
    block_h: Any  # (D,) those of its part on the blocks
    block_axes: Any  # (D, D)


class Trial(NamedTuple):
    """A Gaussian after a step, and the gains expected of it, nats."""

    loc: Any  # (D,)
    tril: Any  # (D, D)
    mean_gain: Any
    scale_gain: Any


def curvature(
    xp: Any, W: Any, E: Any, random: Any, same_block: Any, blocks: Blocks = "several"
) -> Curvature:
    """Return the derivatives from gradients W = L'g (M, D) at draws E (M, D).

    By Stein's identity the expected Hessian is -sym(E[W e']). Where it is not positive definite, as
    on a curved ridge, its eigenvalues are replaced by their absolute values (Dauphin et al. 2014).
    """
    H = -(W.T @ E) / len(E)
    H = xp.where(random[:, None] & random[None, :], (H + H.T) / 2, xp.eye(len(random)))
    h, axes = xp.linalg.eigh(H)
    if blocks == "whole":
        block_h, block_axes = h, axes
    elif blocks == "diagonal":
        block_h, block_axes = xp.diag(H), xp.eye(len(H))
    else:
        block_h, block_axes = xp.linalg.eigh(xp.where(same_block, H, 0.0))
    h = xp.clip(xp.abs(h), *MEAN_CURVATURE_RANGE)
    return Curvature(axes.T @ W.mean(0), h, axes, xp.clip(block_h, *CURVATURE_RANGE), block_axes)


def moved(
    xp: Any, at: Curvature, loc: Any, tril: Any, same_block: Any, damping: Any, u: Any
) -> Trial:
    """Return the Gaussian after a step u (D,) of the mean, along the eigenvectors.

    The scale takes the power `damping` of the step to its optimum.
    """
    covariance = (at.block_axes * at.block_h**-damping) @ at.block_axes.T
    factor = xp.where(same_block, xp.linalg.cholesky(covariance), 0.0)
    gains = at.block_h - at.block_h ** (1 - damping) - damping * xp.log(at.block_h)
    mean_gain = at.slope @ u - 0.5 * u @ (at.h * u)
    return Trial(loc + tril @ (at.axes @ u), tril @ factor, mean_gain, 0.5 * xp.sum(gains))


def on_boundary(xp: Any, at: Curvature, radius: Any) -> Any:
    """Return the maximiser of the quadratic model over all steps of the mean of one length > 0.

    Where the unrestricted maximiser is longer (Nocedal & Wright 2006, chapter 4).
    """
    low, high = 0.0 * radius, xp.linalg.norm(at.slope) / radius
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        outside = xp.linalg.norm(at.slope / (at.h + middle)) > radius
        low, high = xp.where(outside, middle, low), xp.where(outside, high, middle)
    return at.slope / (at.h + high)


def polished(xp: Any, tril: Any, W: Any, E: Any, same_block: Any, cut: Any) -> Any:
    """Return the scale after a step along the sticking-the-landing gradient, bounded by `cut`.

    W (M, D) are gradients of log p - log q along draws E (M, D), where q is standard.
    """
    V = xp.where(xp.tril(same_block), cut((W.T @ E) / len(E)), 0.0)
    return tril @ (xp.tril(V, -1) + xp.diag(xp.exp(0.5 * xp.diag(V))))
