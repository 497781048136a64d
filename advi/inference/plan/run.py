"""The automatic plan as an algorithm of `fit`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from advi.core.keys import Stream, host_rng, key_words
from advi.core.progress_bar import ProgressBar
from advi.core.status import Progress, Status
from advi.data.source import Source
from advi.inference.plan.bend import bent
from advi.inference.plan.mixed import mixed
from advi.inference.plan.plan import NotFiniteError, PlanResult, independent, run_plan
from advi.inference.plan.row_plan import run_row_plan, takes_row_plan
from advi.inference.plan.sparse_plan import run_sparse_plan
from advi.model.checks.first_points import FirstPoints
from advi.model.density import Density
from advi.model.model import Model
from advi.model.prior_starts import prior_starts
from advi.model.resolve import traced_model
from advi.model.sparse_hessian import SparseHessian, require_sparse, sparse_hessian
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.initial import initial, known_optima
from advi.posterior.nonfinite import nonfinite_draw, not_finite_at_start
from advi.posterior.record import FitRecord, Outcome
from advi.variational.block import Block
from advi.variational.family_check import check_families
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.mixture import Mixture
from advi.variational.resolve_family import AUTO_FULL_RANK_DIM, resolve_family
from advi.variational.sparse_precision import SparsePrecision, is_sparse
from advi.variational.transport import GaussianTransport

# Coordinates above which "auto" looks for a sparse precision, and the entries of its factor, as a
# share of those of a full matrix, up to which it takes it where a full one would fit as well.
AUTO_SPARSE_DIM, MAX_SHARE = 256, 0.125


class Plan(NamedTuple):
    """The automatic plan: a search for a start, then fixed draws, L-BFGS and Newton steps."""

    restarts: int = 1
    max_evals: int | None = None  # None for no limit

    def refuse(self, objective: Any, eval_data: Any, checkpoint: Any, init: Any) -> None:
        if objective is not None:
            raise ValueError(
                "objective: the automatic plan chooses its own draws and estimator; give an "
                "`optimizer` or a `batch_size` with it, or leave it out."
            )
        if eval_data is not None:
            raise ValueError(
                "eval_data: the automatic plan works on a fixed objective, whose course says "
                "nothing about other rows; give a `batch_size` or an `optimizer` with it, or use "
                "fit.loo()."
            )
        if checkpoint is not None:
            raise ValueError(
                "checkpoint: the automatic plan has none; give a `batch_size` or an `optimizer` "
                "with it, or leave it out and keep the fit by fit.save(path)."
            )
        if self.restarts > 1 and isinstance(init, FitRecord):
            raise one_start(self.restarts, "a fit to go on from is")

    def run(
        self, model: Model, source: Source, family: Any, init: Any, key: Any, bar: ProgressBar
    ) -> FitRecord:
        of_rows, _ = traced_model(model, source)
        guide = resolve_family(of_rows, family)
        check_families(guide, any_scale=True)
        model, estimated = guide.model, guide.estimated
        density = Density(model, source.example, source.spec, estimated, by_gradient=True)
        guide, hessian = _with_sparsity(guide, density, self.restarts)
        first, warm = initial(model, init)
        known = known_optima(model, init)[1:] if isinstance(init, FitRecord) else []
        inspect = FirstPoints(density)
        settings: dict[str, Any] = {
            "warm": warm,
            "max_evals": self.max_evals,
            "callback": bar.update,
            "evaluated": bar.reached,
            "inspect": inspect,
        }
        of_gaussian = {"restarts": self.restarts, "known": known}
        rng = _rng_of(key)
        found = _planned(density, hessian, guide, rng, first, of_gaussian, **settings)
        if found.status == "diverged" and not math.isfinite(found.elbo.value):
            transport = GaussianTransport(found.gaussian, guide.structure.random)
            where = nonfinite_draw(density, transport, host_rng(key, Stream.BLAME))
            if where:
                status = Status("diverged", f"{found.status.message}; {where}")
                found = found._replace(status=status)
        record = _record(found, density, guide, key)
        record = _beyond_gaussian(record, self.max_evals, bar.update)
        return record.with_outcome(alarms=inspect.alarms)


def refined(record: FitRecord, family: Any) -> FitRecord:
    """Return the automatic plan's fit of a family from a fit as the start, without a verdict."""
    posterior = record.global_posterior
    guide, whole = resolve_family(posterior.model, family), posterior.density.on(None)
    check_families(guide, any_scale=True)
    density = whole.of(guide.model, guide.estimated)
    return refit(record, density, guide, initial(guide.model, record)[0])


def anew(density: Density, guide: Guide, first: Gaussian, key: Any) -> FitRecord:
    """Return the plan's fit of a guide to a density from a search for a start, without a verdict.

    ValueError if no start has a finite value.
    """
    rng, inspect = _rng_of(key), FirstPoints(density)
    hessian = require_sparse(density) if is_sparse(guide) else None
    found = _planned(density, hessian, guide, rng, first, {}, warm=False, inspect=inspect)
    record = _beyond_gaussian(_record(found, density, guide, key))
    return record.with_outcome(alarms=inspect.alarms)


def refit(record: FitRecord, density: Density, guide: Guide, start: Gaussian | None) -> FitRecord:
    """Return the plan's fit of a guide from a start near it, or without one; after another fit."""
    first, rng = start or initial(guide.model, None)[0], host_rng(record.key, Stream.REFINE)
    hessian = require_sparse(density) if is_sparse(guide) else None
    same = guide.model.latents.keys() == record.posterior.model.latents.keys()
    known = known_optima(guide.model, record)[1:] if same and hessian is None else []
    warm = start is not None
    found = _planned(density, hessian, guide, rng, first, {"known": known}, warm=warm)
    made = _beyond_gaussian(_record(found, density, guide, record.key))
    return made.with_outcome(alarms=record.outcome.alarms)


def _planned(
    density: Density,
    hessian: SparseHessian | None,
    guide: Guide,
    rng: np.random.Generator,
    first: Gaussian,
    of_gaussian: dict[str, Any],  # further settings of `run_plan`
    **settings: Any,
) -> PlanResult:
    """Run the plan, with a sparse Hessian the sparse one; ValueError if no start is finite."""
    one = of_gaussian.get("restarts", 1) == 1 and not of_gaussian.get("known")
    to_the_end = settings.get("max_evals") is None
    if hessian is None and one and to_the_end and takes_row_plan(density, guide.structure):
        by_rows = {name: value for name, value in settings.items() if name != "max_evals"}
        own = independent(rng, 0)
        found = run_row_plan(density, guide.structure, own, first, **by_rows)
        if found is not None:
            return found
    settings["candidates"] = lambda: prior_starts(density, first.loc)
    try:
        if hessian is not None:
            return run_sparse_plan(density, hessian, guide.structure, rng, first, **settings)
        return run_plan(density, guide.structure, rng, first, **of_gaussian, **settings)
    except NotFiniteError as error:
        raise not_finite_at_start(density, first.loc, error.tried) from None


def _beyond_gaussian(
    record: FitRecord,
    max_evals: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> FitRecord:
    """Return the fit of the plan's Gaussian after the stage of its family, if that has one."""
    guide = record.global_posterior.guide
    family = guide.blocks[0].base
    if isinstance(family, Mixture):
        return mixed(record, max_evals, callback, family.components)
    return record if guide.is_gaussian else bent(record, max_evals, callback).record


def _with_sparsity(
    guide: Guide, density: Density, restarts: int
) -> tuple[Guide, SparseHessian | None]:
    """Return the guide, sparse where "auto" may choose so, and how to find a sparse Hessian.

    A sparse precision is chosen for many coordinates that meet in small numbers: where full rank
    would not fit, or costs more.
    """
    if is_sparse(guide):
        if restarts > 1:
            raise one_start(restarts, "a Gaussian with a sparse precision has")
        return guide, require_sparse(density)
    model = guide.model
    inferred = [b for b in guide.blocks if not set(b.names) <= set(model.held)]
    one_of_auto = len(inferred) == 1 and bool(guide.choices) and not guide.local
    fits = model.size <= AUTO_FULL_RANK_DIM
    if not one_of_auto or model.size <= AUTO_SPARSE_DIM or restarts > 1:
        return guide, None
    hessian = sparse_hessian(density)
    if hessian is None:
        return guide, None
    entries = hessian.elimination.entries
    if fits and entries > MAX_SHARE * model.size**2:
        return guide, None
    why = f"auto chose sparse precision, {model.size:,} latents, {entries:,} entries"
    return Guide(model, (Block(tuple(model.latents), SparsePrecision()),), (why,)), hessian


def _record(found: PlanResult, density: Density, guide: Guide, key: Any) -> FitRecord:
    seed = key_words(key)[-1]
    params = guide.params_of(found.gaussian, density.dtype, seed)
    posterior = GlobalPosterior(guide, params, density)
    _, elbo, status, trace, gap, other_modes = found
    outcome = Outcome(status, elbo, trace, density.num_gradients, gap, other_modes)
    return FitRecord(posterior, outcome, key)


def _rng_of(key: Any) -> np.random.Generator:
    return host_rng(key, Stream.PLAN)


def one_start(restarts: int, what: str) -> ValueError:
    """Return the error for restarts where there is only one start."""
    return ValueError(
        f"restarts: got {restarts}, and {what} one start; expected 1. Leave it out; several starts "
        "are the automatic plan's, without batch_size, optimizer, init=fit and family='sparse'."
    )
