"""The plan's last stage for families that are no Gaussian: steps from the Gaussian it has found."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from advi.core.arrays import on_host
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate, Progress, Status
from advi.inference.plan.runner import Runner, StopError
from advi.inference.plan.transport_steps import DRAWS, bend
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord
from advi.variational.block import family_name
from advi.variational.family import GaussianFamily
from advi.variational.family_check import wrong_log_q
from advi.variational.guide import Guide
from advi.variational.transport import Transport
from advi.variational.triangular import Triangular

# Adam's rates: in the frame of the fitted Gaussian, the few parameters of a triangular map bear
# a larger one than those of a network.
TRIANGULAR_RATE, RATE = 0.03, 0.01
TRIANGULAR_EARLY = 128  # draws of a step, far from the end
UNKNOWN = Estimate(math.nan, math.nan)


class Bending(NamedTuple):
    """A fit after the steps of families that are no Gaussian."""

    record: FitRecord
    gain: Estimate  # of the ELBO over the Gaussian's, nats; NaN if they were cut short


def bent(
    record: FitRecord,
    max_evals: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Bending:
    """Return the fit after steps of the families that are no Gaussian, from the plan's Gaussian.

    A plan that was stopped, or has diverged, takes none. `max_evals` bounds the evaluations of both
    together.
    """
    posterior, outcome = record.global_posterior, record.outcome
    density, guide = posterior.density, posterior.guide
    if outcome.status not in ("converged", "max_steps") or outcome.status.cause is not None:
        return Bending(record, UNKNOWN)
    runner = Runner.after(
        outcome.trace, _name(guide), density, posterior.gaussian, max_evals, callback
    )
    before = density.num_gradients
    rng = host_rng(record.key, Stream.BEND)
    with np.errstate(all="ignore"):
        try:
            rate, early = RATE, DRAWS
            if _is_mapped(guide):
                rate, early = TRIANGULAR_RATE, TRIANGULAR_EARLY
            [end] = runner.run(bend(posterior.transport, rate, rng, runner, early))
        except (StopError, KeyboardInterrupt) as stop:
            return Bending(_stopped(record, runner, runner.stopped(stop)), UNKNOWN)
    num = density.num_gradients - before
    message = f"{outcome.status.message}, then {runner.stage} by {end.steps} steps, {num} gradients"
    status = Status(str(outcome.status), message)
    return Bending(_with(record, end.transport, status, end.elbo, runner), end.gain)


def _with(
    record: FitRecord, transport: Transport, status: Status, elbo: Estimate, runner: Runner
) -> FitRecord:
    posterior, density = record.global_posterior, runner.density
    guide = posterior.guide
    families = tuple(block.base for block in guide.blocks)
    params = jax.tree.map(lambda leaf: on_host(leaf, density.dtype), transport.params(families))
    return dataclasses.replace(
        record,
        posterior=GlobalPosterior(guide, params, density),
        outcome=dataclasses.replace(
            record.outcome,
            status=status,
            elbo=elbo,
            trace=runner.trace,
            num_gradients=density.num_gradients,
            family_alarms=wrong_log_q(guide, params),
        ),
    )


def _stopped(record: FitRecord, runner: Runner, status: Status) -> FitRecord:
    """Return the fit after steps that were cut short, with the ELBO of the last one."""
    transport = runner.transport or record.global_posterior.transport
    last = Estimate(runner.trace[-1].elbo if runner.trace else math.nan, math.nan)
    return _with(record, transport, status, last, runner)


def _is_mapped(guide: Guide) -> bool:
    """Return whether all families that are no Gaussian are triangular maps."""
    bent_families = [b.base for b in guide.blocks if not isinstance(b.base, GaussianFamily)]
    return all(isinstance(family, Triangular) for family in bent_families)


def _name(guide: Guide) -> str:
    names = (family_name(b.base) for b in guide.blocks if not isinstance(b.base, GaussianFamily))
    return ", ".join(dict.fromkeys(names))
