"""The plan's last stage for a mixture: further searches for optima, and the mixture of all."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from advi.core.arrays import on_host
from advi.core.keys import Stream, host_rng
from advi.core.status import Progress, Status
from advi.inference.plan.maximise_elbo import ignore
from advi.inference.plan.mixture_steps import mix
from advi.inference.plan.plan import FRESH_DRAWS
from advi.inference.plan.refine import Refinement
from advi.inference.plan.runner import Runner, StopError
from advi.inference.plan.search import is_apart, start_search
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import MAX_NATS, FitRecord, OtherMode
from advi.variational.block import Block
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.mixture import Mixture
from advi.variational.mixture_transport import MixtureTransport

MAX_COMPONENTS = 8
MAX_SEARCHES, EMPTY_SEARCHES = 8, 2  # further ones, until so many find no other optimum
POINTS = 128  # from a box twice as wide as the known optima with some sds around each
REACH_SDS = 2.0


class _Optimum(NamedTuple):
    """A Gaussian at an optimum, and its held-out ELBO in nats."""

    gaussian: Gaussian
    elbo: float


def mixed(
    record: FitRecord,
    max_evals: int | None = None,
    callback: Callable[[Progress], object] | None = None,
    components: int | None = None,
) -> FitRecord:
    """Return the mixture of the Gaussians at the optima of the plan and of further searches.

    `components` bounds their number; optima beyond it stay the record's other modes. A plan that
    was stopped, or has diverged, has a mixture of one.
    """
    posterior, outcome = record.global_posterior, record.outcome
    density, before = posterior.density, posterior.density.num_gradients
    optima = [_Optimum(posterior.gaussian, outcome.elbo.value)]
    for mode in outcome.other_modes:
        if mode.gaussian is not None:
            optima.append(_Optimum(mode.gaussian, outcome.elbo.value + mode.elbo_difference))
    one = MixtureTransport.of([posterior.gaussian])
    if outcome.status not in ("converged", "max_steps") or outcome.status.cause is not None:
        return _with(record, one)
    runner = Runner.after(
        outcome.trace, "mixture", density, posterior.gaussian, max_evals, callback
    )
    rng, most = host_rng(record.key, Stream.MIX), components or MAX_COMPONENTS
    with np.errstate(all="ignore"):
        try:
            empty = 0
            for own in rng.spawn(MAX_SEARCHES):
                found = _further(density, posterior.structure, optima, own, runner)
                optima = _plausible(optima + found)
                empty = 0 if found else empty + 1
                if empty == EMPTY_SEARCHES or len(optima) > most:
                    break
            kept = optima[:most]
            of_kept = [o.gaussian for o in kept], [o.elbo for o in kept]
            [end] = runner.run(mix(*of_kept, rng))
            runner.accepted_transport(end.transport, end.elbo.value)
        except (StopError, KeyboardInterrupt) as stop:
            found_so_far = _with(record, one)
            return found_so_far.with_outcome(status=runner.stopped(stop), trace=runner.trace)
    num, size = density.num_gradients - before, len(end.transport.locs)
    message = f"{outcome.status.message}, then a mixture of {size}, {num} gradients"
    q = optima[0].gaussian
    return _with(record, end.transport).with_outcome(
        status=Status(str(outcome.status), message),
        elbo=end.elbo,
        trace=runner.trace,
        num_gradients=density.num_gradients,
        other_modes=tuple(
            OtherMode(o.elbo - optima[0].elbo, np.abs(o.gaussian.loc - q.loc) / q.sds, o.gaussian)
            for o in optima[most:]
        ),
    )


def _with(record: FitRecord, transport: MixtureTransport) -> FitRecord:
    posterior = record.global_posterior
    density, names = posterior.density, tuple(posterior.model.latents)
    blocks = (Block(names, Mixture(len(transport.locs))),)
    params = (jax.tree.map(lambda leaf: on_host(leaf, density.dtype), transport.params(None)),)
    guide = dataclasses.replace(posterior.guide, blocks=blocks)
    return dataclasses.replace(record, posterior=GlobalPosterior(guide, params, density))


def _further(
    density: Density,
    structure: Structure,
    known: list[_Optimum],
    rng: np.random.Generator,
    runner: Runner,
) -> list[_Optimum]:
    """Return optima that are not known, of another search, around the known ones."""
    gaussians = [optimum.gaussian for optimum in known]
    below = np.min([q.loc - REACH_SDS * q.sds for q in gaussians], axis=0)
    above = np.max([q.loc + REACH_SDS * q.sds for q in gaussians], axis=0)
    center, reach = (below + above) / 2, above - below
    points = center + rng.uniform(-1, 1, (POINTS, len(center))) * reach
    search = start_search(density, structure, center, rng)
    [starts] = runner.run(search.optima(MAX_COMPONENTS, points))
    others = [s.gaussian for s in starts if is_apart(s.gaussian, gaussians)]
    fresh = structure.antithetic_draws(rng, FRESH_DRAWS)
    stages = []
    for q, own in zip(others, rng.spawn(len(others)), strict=True):
        rest = Refinement(structure, own, fresh, search.eps, ignore)
        stages.append(rest.run(q, warm=False, settle=False))
    found: list[_Optimum] = []
    for end in runner.run(*stages):
        q, elbo = end.fresh.gaussian, end.fresh.elbo.value
        apart = is_apart(q, gaussians + [optimum.gaussian for optimum in found])
        if apart and elbo > max(optimum.elbo for optimum in known) - MAX_NATS:
            found.append(_Optimum(q, elbo))
    return found


def _plausible(optima: list[_Optimum]) -> list[_Optimum]:
    """Return the optima of some weight, the best first."""
    optima = sorted(optima, key=lambda optimum: -optimum.elbo)
    return [optimum for optimum in optima if optimum.elbo > optima[0].elbo - MAX_NATS]
