"""The status of a plan: converged, out of evaluations, or diverged without a maximum."""

from typing import NamedTuple

import jax
import numpy as np

from advi.core.errors import format_value
from advi.core.jax_config import compiled
from advi.core.status import Status
from advi.core.types import Bools, Floats
from advi.inference.plan.batched_calls import Stage
from advi.inference.plan.refine import TOO_FAR, Refined
from advi.inference.plan.runner import Runner
from advi.model.density import Density
from advi.variational.gaussian import Structure

MIN_SD_ROUNDINGS = 4.0  # roundings of a mean that its sd must exceed, or draws are few floats
# A fit is stretched away from its start by these factors, along its longest direction. For a
# proper posterior the ELBO falls at once; without a maximum it grows to overflow or to the end.
STRETCHES = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 16.0)
RISING = 4  # first ones of these ELBOs, which have to rise one by one
STRETCH_PAIRS = 8  # of antithetic draws
GROWTH_NATS = 0.5
FAR = 1e4  # on the real scale, beyond which a converged fit is stretched too
COARSE_NATS = 100.0  # rounding of the log density in which all stages are lost
POWER_STEPS = 30
LEADING = 0.3  # a latent is named if its entry of the direction has this share of the largest


class Ending(NamedTuple):
    """The inputs of a plan's status."""

    refined: Refined
    start: Floats  # (D,) of the search
    structure: Structure
    fresh_draws: Floats  # (n, D) antithetic, those without sign first
    runner: Runner

    @property
    def density(self) -> Density:
        return self.runner.density

    def status(self) -> Stage[Status]:
        """Return why the plan ended, with the sentence that says what to do."""
        eps = float(np.finfo(self.density.dtype).eps)
        q, fitted = self.refined.fresh.gaussian, self.refined.fitted
        if (yield from self.without_maximum()):
            return Status("diverged", self._no_maximum())
        merged = self.structure.random & ~(q.sds > MIN_SD_ROUNDINGS * eps * np.abs(q.loc))
        if merged.any():
            return Status("diverged", self._too_narrow(merged))
        spent, elbo = self.runner.spent, self.refined.fresh.elbo.value
        if np.isfinite(elbo) and eps * abs(elbo) > COARSE_NATS:
            remedy = ", or give x64=True" if eps > 1e-10 else ""
            return Status(
                "diverged",
                f"the log density is {elbo:.2g} where it ended, of which {self.density.dtype.name} "
                f"tells nothing below {eps * abs(elbo):.2g} nats apart: the posterior lies "
                "elsewhere, or is far narrower than any start. Center or scale the "
                f"latents{remedy} ({spent})",
            )
        if not (np.isfinite(fitted.gradient) and np.isfinite(elbo)):
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
        """Return whether the fit followed a density that grows without bound."""
        q = self.refined.fresh.gaussian
        sds = np.where(self.structure.random, q.sds, 0)
        size = np.maximum(np.abs(q.loc - self.start), sds).max(initial=0)
        if self.refined.settled and size < FAR:
            return False
        if not size < TOO_FAR:
            return True
        # a loop until convergence may not end at the stretched points
        if self.density.log_joint.open_ended:
            return False
        return (yield from self._grows(self._longest()))

    def _longest(self) -> Floats:
        """Return the unit vector (D,) along which the fit has moved, or widened, the furthest."""
        q = self.refined.fresh.gaussian
        moved, sds = q.loc - self.start, np.where(self.structure.random, q.sds, 0)
        size = np.maximum(np.abs(moved), sds).max()
        v = moved / size + 0.01 * sds / size
        for _ in range(POWER_STEPS):  # on the second moment around the start, in units of its size
            v_covariance = q.scale.mv(q.scale.rmv(v[None]) / size)[0] / size
            v = v_covariance + moved / size * (moved / size @ v)
            length = np.linalg.norm(v)
            if not length > 0:
                return np.ones_like(v) / np.sqrt(len(v))
            v = v / length
        return v

    def _grows(self, direction: Floats) -> Stage[bool]:
        """Return whether the ELBO keeps growing as the fit is stretched along a direction."""
        half = len(self.fresh_draws) // 2
        E = self.fresh_draws[np.r_[:STRETCH_PAIRS, half : half + STRETCH_PAIRS]]
        q = self.refined.fresh.gaussian
        base = q.points(E)
        along = (base - self.start) @ direction
        stretched = [base + (k - 1) * along[:, None] * direction for k in STRETCHES]
        values, _ = yield np.concatenate(stretched)
        log_q = self.structure.log_q(E, q)
        is_random = bool(self.structure.random[np.argmax(np.abs(direction))])
        # the log-determinant grows by the stretch of one direction
        parts = zip(np.split(values, len(stretched)), STRETCHES, strict=True)
        elbos = np.array([(part - log_q).mean() + is_random * np.log(k) for part, k in parts])
        finite = np.isfinite(elbos)
        gained = elbos[: int(np.argmin(finite))] if not finite.all() else elbos
        if len(gained) < 2:
            return False
        # in between it may be flat, where a scale underflows, but not fall below the first
        rising = (np.diff(gained[:RISING]) > 0).all() and gained[1:].min() > gained[0]
        return bool(rising and gained[-1] > gained[0] + GROWTH_NATS)

    def _no_maximum(self) -> str:
        direction = self._longest()
        leading = np.abs(direction) > LEADING * np.abs(direction).max()
        return (
            f"the log density has no maximum: it goes on growing, or does not fall, beyond "
            f"{self._where(leading)}. Is its sign right, does the function return a loss instead "
            "of a log density, has each of these latents a prior that keeps it from there? "
            f"({self.runner.spent})"
        )

    def _too_narrow(self, merged: Bools) -> str:
        q, dtype = self.refined.fresh.gaussian, self.density.dtype
        k = int(np.argmax(merged * np.abs(q.loc)))
        apart = float(np.spacing(np.abs(q.loc[k]).astype(dtype)))
        remedy = ", or give x64=True" if dtype == np.float32 else ""
        return (
            f"the posterior of {self._names(merged)[0]} is narrower than {dtype.name} can tell: "
            f"around {q.loc[k]:.6g} its numbers are {apart:.2g} apart, and the sd of the fit is "
            f"{q.sds[k]:.2g}. Center or scale this latent, so that it is near zero{remedy} "
            f"({self.runner.spent})"
        )

    def _names(self, which: Bools) -> list[str]:
        spans = self.density.model.spans.items()
        return [name for name, (start, stop) in spans if which[start:stop].any()]

    def _where(self, which: Bools) -> str:
        model = self.density.model
        with np.errstate(over="ignore"):
            x = self.refined.fresh.gaussian.loc.astype(self.density.dtype)
        values = jax.device_get(compiled(lambda x: model.unravel(x)[0])(x))
        return ", ".join(f"{name} = {format_value(values[name])}" for name in self._names(which))
