"""Steps of an optimiser as an algorithm of `fit`."""

from typing import Any, NamedTuple

import optax

from advi.core.keys import Stream, host_rng
from advi.core.progress_bar import ProgressBar
from advi.data.batching import check_batch
from advi.data.source import Source
from advi.inference.plan.run import one_start
from advi.inference.stochastic.averaging import averaged_blocks
from advi.inference.stochastic.by_latent import by_latent
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.defaults import MAX_STEPS, default_optimizer
from advi.inference.stochastic.steps import Steps
from advi.inference.stochastic.steps_fit import StepsFit
from advi.inference.stochastic.validation import EvalSettings, hold_out
from advi.inference.stochastic.warm_start import Found, find_start
from advi.model.model import Model
from advi.model.resolve import traced_model
from advi.model.source_density import rows_density
from advi.model.trace import trace
from advi.posterior.record import FitRecord
from advi.variational.family_check import check_families
from advi.variational.mean_field import MeanField
from advi.variational.objective import Elbo, Objective
from advi.variational.resolve_family import WHOLE, resolve_family


class StochasticSteps(NamedTuple):
    """Steps of an Optax optimiser, each on fresh draws and a batch of rows; fields as in `fit`."""

    objective: Objective | None
    optimizer: optax.GradientTransformation | None
    batch_size: int | None
    max_steps: int | None
    held_out: EvalSettings
    checkpoint: Checkpoint

    def refuse(self, restarts: int) -> None:
        if restarts > 1:
            raise one_start(restarts, "steps of an optimiser have")

    def run(
        self, model: Model, source: Source, family: Any, init: Any, key: Any, bar: ProgressBar
    ) -> FitRecord:
        """Fit, until the steps have converged where `max_steps` is None.

        After Ctrl-C, whenever it comes, the fit so far is returned without a further evaluation.
        """
        steps, source = prepare_steps(model, source, family, self)
        validation = None
        if self.held_out.data is not None:
            validation = hold_out(self.held_out, steps, host_rng(key, Stream.EVAL))
        guide = steps.guide
        density = rows_density(guide.model, source, source.first, guide.estimated)
        found = Found()
        if self.optimizer is None:
            bar.begin("start")
            found = find_start(steps, source, init, key, self.max_steps or MAX_STEPS)
            near = found.start is not None or isinstance(init, FitRecord)
            steps = steps._replace(optimizer=default_optimizer(steps.guide, near))
        fit = StepsFit(self.max_steps, steps, density, found, init, key, validation)
        # blocks are opened only now: a stream may be read by one reader at a time
        with (
            self.checkpoint as checkpoint,
            source.blocks(fit.step_key, host_rng(key, Stream.READ)) as blocks,
        ):
            state, history, status = fit.take_steps(checkpoint, blocks, bar)
            return fit.finished(state, history, status, checkpoint, blocks.kept)


def prepare_steps(
    model: Model, source: Source, family: Any, settings: StochasticSteps
) -> tuple[Steps, Source]:
    """Return the settings of steps and the source in batches, after all checks of arguments."""
    batch_size = settings.batch_size
    of_rows, log_joint = traced_model(model, source)
    guide = resolve_family(model, family, auto=MeanField())
    check_families(guide, any_scale=False)
    for block in guide.blocks:
        if isinstance(block.base, WHOLE):
            raise ValueError(
                f"family: {type(block.base).__name__} is fitted by the automatic plan, since steps "
                "cannot move it; leave out batch_size and optimizer, or choose another family."
            )
    if batch_size is None and guide.local:
        batch_size = of_rows.num_rows
    source = source.batched(log_joint.num_rows, batch_size, model.program.needs_all_rows)
    source.check_settings(settings.checkpoint.folder, guide.tables)
    spec = source.batch_spec
    if source.batching is not None:
        guide = guide.with_rows(source.batching.batch_size)
        log_joint = trace(guide.model, spec)
        check_batch(source.batching, log_joint.num_rows)
        guide.check_encoders(spec)
        guide = guide.frozen(spec)
    objective = settings.objective or Elbo()
    objective.check(guide, log_joint)
    optimizer = default_optimizer(guide, near=True)
    if settings.optimizer is not None:
        optimizer = by_latent(settings.optimizer, guide, spec.float_dtype)
    averaged = averaged_blocks(guide, settle=settings.max_steps is None)
    steps = Steps(guide, spec, objective.frozen, optimizer, source.batching, averaged)
    if steps.sparse and steps.line_search:
        raise ValueError(
            "optimizer: got one that searches along lines, which moves all parameters at once; "
            "expected one that moves each by itself, such as optax.adam(1e-2), where a batch "
            "sees only some rows of a table. Or leave batch_size out."
        )
    return steps, source
