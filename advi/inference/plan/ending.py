"""How a plan ended: converged, out of evaluations, or led away by a density without a maximum."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from advi.core.errors import format_value
from advi.core.jax_config import compiled
from advi.core.status import Status
from advi.core.types import Bools, Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.refine import TOO_FAR, Refined
from advi.model.density import Density
from advi.variational.gaussian import Structure

NO_SPREAD = 4.0  # roundings of a mean that its sd has to exceed, or draws fall on few floats
# A fit is stretched away from its start by these factors, along its longest direction. Of a proper
# posterior the ELBO falls at once; without a maximum it grows until it overflows, or to the end.
STRETCHES = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 16.0)
RISING = 4  # of these ELBOs, the first ones, have to rise one by one
STRETCH_PAIRS = 8  # of antithetic draws
GROWTH_NATS = 0.5
FAR = 1e4  # on the real scale, from where on a fit that has converged is stretched too
COARSE_NATS = 100.0  # differences of log densities that are lost: no stage has seen its way
POWER_STEPS = 30
LEADING = 0.3  # coordinates of the direction with this share of its largest are named


class Ending(NamedTuple):
    """What the status of a plan is told from.

    Attributes
    ----------
    refined
        The end that is kept.
    start
        (D,) where the search began.
    structure
        Which coordinates have noise.
    fresh_draws
        (n, D) antithetic draws, those without sign first.
    density
        The log density.
    spent
        Returns what was spent, in words.
    """

    refined: Refined
    start: Floats
    structure: Structure
    fresh_draws: Floats
    density: Density
    spent: Callable[[], str]

    def status(self) -> Stage[Status]:
        """Return why the plan ended, with the sentence that says what to do."""
        eps = float(np.finfo(self.density.dtype).eps)
        q, fitted = self.refined.fresh.gaussian, self.refined.fitted
        if (yield from self.without_maximum()):
            return self._without_maximum()
        merged = self.structure.random & ~(q.sds > NO_SPREAD * eps * np.abs(q.loc))
        if merged.any():
            return self._merged(merged)
        spent, elbo = self.spent(), self.refined.fresh.elbo.value
        if np.isfinite(elbo) and eps * abs(elbo) > COARSE_NATS:
            remedy = ", or give x64=True" if eps > 1e-10 else ""
            return Status(
                "diverged",
                f"the log density is {elbo:.2g} where it ended, of which {self.density.dtype.name} "
                f"tells nothing below {eps * abs(elbo):.2g} nats apart: the posterior lies "
                "elsewhere, or is far narrower than any start. Center or scale the "
                f"latents{remedy} "
                f"({spent})",
            )
        if not (np.isfinite(fitted.gradient) and np.isfinite(self.refined.fresh.elbo.value)):
            return Status(
                "diverged",
                "the log density or its gradient overflows at some draws of every fit that was "
                f"tried, however narrow ({spent})",
            )
        if fitted.reason == "converged":
            return Status("converged", f"the ELBO has settled ({spent})")
        if self.refined.settled:
            return Status("converged", f"as far as the precision of {eps:.0e} allows ({spent})")
        if fitted.reason == "stalled":
            remedy = "; x64=True may go further" if eps > 1e-10 else ""
            return Status(
                "max_steps",
                f"stopped before convergence: rounding noise hides the descent at a scaled "
                f"gradient of {fitted.gradient:.2g}{remedy} ({spent})",
            )
        return Status(
            "max_steps",
            f"a stage used all its evaluations at a scaled gradient of {fitted.gradient:.2g} "
            f"({spent})",
        )

    def without_maximum(self) -> Stage[bool]:
        """Return whether the fit has been led away by a density that goes on growing."""
        q = self.refined.fresh.gaussian
        size = np.maximum(np.abs(q.loc - self.start), np.where(self.structure.random, q.sds, 0))
        size = size.max(initial=0)
        if self.refined.settled and size < FAR:
            return False
        if not size < TOO_FAR:
            return True
        # a loop that runs until something has converged may not end where a stretch leads
        if self.density.log_joint.open_ended:
            return False
        return (yield from self._grows(self._longest()))

    def _longest(self) -> Floats:
        """Return the unit vector (D,) along which the fit has gone, or spread, the furthest."""
        q = self.refined.fresh.gaussian
        moved = q.loc - self.start
        size = np.maximum(np.abs(moved), np.where(self.structure.random, q.sds, 0)).max()
        v = moved / size + 0.01 * np.where(self.structure.random, q.sds, 0) / size
        for _ in range(POWER_STEPS):  # on the second moment around the start, in units of its size
            spread = q.scale.mv(q.scale.rmv(v[None]) / size)[0] / size
            v = spread + moved / size * (moved / size @ v)
            length = np.linalg.norm(v)
            if not length > 0:
                return np.ones_like(v) / np.sqrt(len(v))
            v = v / length
        return v

    def _grows(self, direction: Floats) -> Stage[bool]:
        """Return whether the ELBO goes on growing as the fit is stretched along a direction."""
        half = len(self.fresh_draws) // 2
        E = self.fresh_draws[np.r_[:STRETCH_PAIRS, half : half + STRETCH_PAIRS]]
        q = self.refined.fresh.gaussian
        base = q.points(E)
        along = (base - self.start) @ direction
        stretched = [base + (k - 1) * along[:, None] * direction for k in STRETCHES]
        values, _ = yield np.concatenate(stretched)
        # the log-determinant grows by the stretch of one direction
        log_q = self.structure.log_q(E, q)
        spreads = bool(self.structure.random[np.argmax(np.abs(direction))])
        elbos = np.array(
            [
                (part - log_q).mean() + spreads * np.log(k)
                for part, k in zip(np.split(values, len(stretched)), STRETCHES, strict=True)
            ]
        )
        finite = np.isfinite(elbos)
        gained = elbos[: int(np.argmin(finite))] if not finite.all() else elbos
        if len(gained) < 2:
            return False
        # on the way it may level off, where a scale underflows, but never falls back
        rising = (np.diff(gained[:RISING]) > 0).all()
        return bool(
            rising and gained[1:].min() > gained[0] and gained[-1] > gained[0] + GROWTH_NATS
        )

    def _without_maximum(self) -> Status:
        direction = self._longest()
        leading = np.abs(direction) > LEADING * np.abs(direction).max()
        return Status(
            "diverged",
            f"the log density has no maximum: it goes on growing, or does not fall, beyond "
            f"{self._where(leading)}. Is its sign right, does the function return a loss instead "
            "of a log density, has each of these latents a prior that keeps it from there? "
            f"({self.spent()})",
        )

    def _merged(self, merged: Bools) -> Status:
        q, dtype = self.refined.fresh.gaussian, self.density.dtype
        k = int(np.argmax(merged * np.abs(q.loc)))
        apart = float(np.spacing(np.abs(q.loc[k]).astype(dtype)))
        remedy = ", or give x64=True" if dtype == np.float32 else ""
        return Status(
            "diverged",
            f"the posterior of {self._names(merged)[0]} is narrower than {dtype.name} can tell: "
            f"around {q.loc[k]:.6g} its numbers are {apart:.2g} apart, and the sd of the fit is "
            f"{q.sds[k]:.2g}. Center or scale this latent, so that it is near zero{remedy} "
            f"({self.spent()})",
        )

    def _names(self, which: Bools) -> list[str]:
        """Return the latents that some coordinates on the real scale belong to."""
        spans = self.density.model.spans.items()
        return [name for name, (start, stop) in spans if which[start:stop].any()]

    def _where(self, which: Bools) -> str:
        model, loc = self.density.model, self.refined.fresh.gaussian.loc
        with np.errstate(over="ignore"):
            x = loc.astype(self.density.dtype)
        values = jax.device_get(compiled(lambda x: model.unravel(x)[0])(x))
        return ", ".join(f"{name} = {format_value(values[name])}" for name in self._names(which))
