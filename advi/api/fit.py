"""fit(): from a model and data to a posterior approximation."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import optax

from advi.core import interrupts
from advi.core.archive import Name
from advi.core.errors import check_bool, check_count, describe, unknown
from advi.core.keys import Stream, device_key, host_rng, key_words
from advi.core.progress_bar import Bar
from advi.core.status import Progress
from advi.data.arrays import check_batch, for_rows, make_rows, prepare
from advi.data.streams import Reader, open_stream
from advi.diagnostics.trust import checked
from advi.inference.plan.run import default_optimizer, fit_plan
from advi.inference.stochastic.averaging import averaged_blocks
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.keyed import keyed
from advi.inference.stochastic.run import MAX_STEPS, fit_steps
from advi.inference.stochastic.steps import Stochastic
from advi.inference.stochastic.validation import hold_out
from advi.inference.stochastic.warm_start import Planned, planned
from advi.model.checks.indices import check_data_indices
from advi.model.checks.jacobians import transform_faults
from advi.model.density import Density, default_float, precision
from advi.model.model import Model
from advi.model.resolve import Deferred, bound, check_model, check_on_host
from advi.model.trace import require_all_used, trace, trace_derived
from advi.posterior.initial import initial
from advi.results.fit import Fit
from advi.variational.mean_field import MeanField
from advi.variational.objective import Elbo, Objective
from advi.variational.resolve_family import asks_for_rows, make_guide

CHECK_DENSITIES, CHECK_WORK = 5000, 2**37  # elements read by a check: some seconds


def _names_known_arguments(function: Callable[..., Fit]) -> Callable[..., Fit]:
    known = [p for p in inspect.signature(function).parameters if p not in ("model", "data")]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Fit:
        for name in kwargs:
            if name not in known and name not in ("model", "data"):
                raise TypeError(f"fit(): {unknown('argument', name, known)}")
        return function(*args, **kwargs)

    return checked


@_names_known_arguments
def fit(
    model: Model | Deferred,
    data: Any = None,
    *,
    family: Any = "auto",
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    num_rows: int | None = None,
    max_steps: int | None = None,
    restarts: int = 1,
    key: Any = 0,
    init: Any = None,
    x64: bool | None = None,
    eval_data: Any = None,
    checkpoint: Name | None = None,
    callback: Callable[[Progress], object] | None = None,
    progress: bool | None = None,
    diagnose: bool = True,
) -> Fit:
    """Fit a variational approximation to a model's posterior.

    With neither `optimizer` nor `batch_size` an automatic plan runs, which has no setting.

    Ctrl-C returns the fit so far, "interrupted", without a further evaluation: at the next place
    where a fit can stop, which is not in the middle of a compilation. Before the first evaluation
    that is the point to start from. Only while the first batch of a stream is waited for there is
    nothing to return, and KeyboardInterrupt is raised; so it is by a second Ctrl-C that comes
    before the first has been heeded.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    data
        Pytree of arrays, passed on to the log-joint; rows along leading axes. With a `batch_size`,
        memory-mapped arrays (`numpy.memmap`) are read a few rows at a time. Or a stream of
        batches, each such a pytree: a list of them, anything else that can be iterated over again
        and again, such as a data loader, or a function without arguments that returns an iterator
        of one epoch. Its batches may differ in their number of rows: they are joined and cut into
        steps of `batch_size` rows, and what is left of an epoch begins the next. A thread reads
        ahead. What a stream raises before there is a fit is raised as it is; later the fit so far
        is returned, "interrupted", with the exception as `status.cause`.
    family
        "auto" (full rank up to dimension 1024, low rank up to 2896, else mean field; mean field
        on the stochastic path), "mean_field", "low_rank", "full_rank", a family, or a dict from
        latent names, or tuples of names to couple, to these. Of local latents, on the stochastic
        path, every row has its own: `PerRow`, where nothing else is said, or `Amortised`, which
        lead there by themselves.
    objective
        `Elbo` or `Iwae`, on the stochastic path.
    optimizer
        An Optax optimiser, used instead of the plan; it is passed value, grad and value_fn.
    batch_size
        Rows per step, for a log-joint that returns `Terms`; of a stream, by default the rows of
        its first batch. Unless an `optimizer` is given, steps are Adam's, at a rate that falls,
        and measure shared latents by their posterior sds. With up to 256 latents, all shared and
        none a point, they start where the plan ends on some 2,000 of the rows, and compare each
        batch with all rows at one point. For it a stream is read as often as by the steps, at
        most, but twice at least; if they read less than an epoch, as many rows of it.
    num_rows
        Rows in one epoch of a stream, by which its batches are scaled; the last ones may be left
        out, fewer than a batch. Or the rows in the data that local latents have values for, by
        default the leading axis of all data leaves, where they agree.
    max_steps
        Evaluations of the plan at most (default: no limit but the stages' own), or exactly how
        many steps the optimiser takes, after which encoders, and latents estimated as a point,
        are where the last step left them. By default it goes on until its averages have settled,
        or for 100,000 steps. A fit that was still moving says so in its status, `Fit.drift` by how
        much.
    restarts
        How often the plan is carried through, search for a start included, each time with draws of
        its own, as another key would; the best ELBO is kept. Seventeen climbs are made in any
        case. Not for steps of an optimiser, nor where `init` is a fit.
    key
        Integer or JAX key. The same key, data and kind of machine give the same bits.
    init
        A `Fit` to start from, or a dict of constrained values for some or all latents.
    x64
        True computes this fit in float64, False in float32; None follows JAX's setting.
    eval_data
        Held-out rows, a pytree like the data, on the stochastic path. Now and then the ELBO is
        evaluated with them in place of the data's, scaled to as many: `Progress.eval_elbo` and
        `Fit.eval_trace`, in nats and comparable with `Fit.elbo_trace`. At most 4,096 of them are
        used, drawn at random, and about a twentieth of the time.
    checkpoint
        A folder to keep a stochastic fit in while it runs, written every ten seconds and at the
        end. However the process ended, the same call goes on from there, and ends with the same
        bits as if it had not been stopped; `max_steps` may be larger. One fit at a time may use a
        folder. Not for streams, nor for memory-mapped data.
    callback
        Called with a `Progress` as the fit goes on; a true result ends it.
    progress
        Whether to show a progress bar; None shows one in a terminal and in a notebook.
    diagnose
        Whether to examine the fit and give a verdict: 5,000 density evaluations on all data, and
        gradients where these are not enough. Where they would take longer than some seconds it is
        left to `Fit.check`.

    Returns
    -------
    Fit

    Raises
    ------
    TypeError, ValueError, KeyError
        For wrong arguments, before anything is compiled, and for a log-joint that is not finite
        at any starting point.

    References
    ----------
    Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, JMLR 18(14).

    Examples
    --------
    >>> import advi, jax.numpy as jnp
    >>> def log_joint(z, y):
    ...     return -0.5 * (z["mu"] ** 2 + jnp.sum((y - z["mu"]) ** 2))
    >>> result = advi.fit(advi.Model(log_joint, {"mu": advi.real()}), jnp.array([1.0, 2.0, 3.0]))
    >>> str(result.status), round(float(result.mean()["mu"]), 2), round(float(result.sd()["mu"]), 2)
    ('converged', 1.5, 0.5)
    """
    check_model(model)
    check_on_host(data, init, eval_data)
    _check_arguments(objective, optimizer, callback)
    if max_steps is not None:
        check_count("max_steps", max_steps)
    check_count("restarts", restarts)
    check_bool("diagnose", diagnose)
    if progress is not None:
        check_bool("progress", progress)
    key_words(key)
    float_dtype = default_float(x64)
    with (
        interrupts.held(),
        precision(float_dtype),
        Bar(progress, callback, max_steps) as bar,
        contextlib.ExitStack() as opened,
    ):
        stream = open_stream(model, data, num_rows, batch_size, float_dtype)
        if stream is None:
            data, spec = prepare(data, float_dtype)
            model = bound(model, data, spec)
        else:
            spec, model = stream.spec, stream.model
        for fault in transform_faults(model, float_dtype):
            raise ValueError(fault)
        # tables and encoders are moved by an optimiser, on all rows if there are no batches
        by_row = bool(model.local) and asks_for_rows(family)
        stochastic = optimizer is not None or batch_size is not None or stream is not None or by_row
        if num_rows is not None and stream is None and not model.local:
            raise ValueError(
                f"num_rows: got {describe(num_rows)} for data in memory, whose number of rows is "
                "that of Terms.rows; expected it for a stream of batches only. Leave it out."
            )
        if not stochastic:
            _check_planned(objective, eval_data, checkpoint)
        if restarts > 1 and (stochastic or isinstance(init, Fit)):
            raise ValueError(
                f"restarts: got {restarts}, and "
                + ("steps of an optimiser have" if stochastic else "a fit to go on from is")
                + " one start; expected 1. Leave it out; several starts are the automatic plan's, "
                "without batch_size, optimizer and init=fit."
            )
        if checkpoint is not None and stream is not None:
            raise ValueError(
                "checkpoint: the rows of a stream, or of memory-mapped arrays, cannot be taken up "
                "where they were left; expected data in memory. Leave it out, or read the data."
            )
        keeper = opened.enter_context(Checkpoint(checkpoint))
        if stream is None:
            whole = for_rows(model, spec, num_rows)
        else:
            whole = model.with_rows(stream.rows.batch_size)
        auto = MeanField() if stochastic else None
        guide = make_guide(model if stochastic else whole, family, auto=auto)
        log_joint = trace(whole, spec)
        require_all_used(whole, log_joint)
        if stream is None:
            check_data_indices(whole, log_joint, spec, data)
            if whole.derived.names:
                trace_derived(whole, spec)
        if not stochastic:
            density = Density(whole, data, spec, guide.estimated, by_gradient=True)
            first, warm = initial(whole, init)
            result = fit_plan(density, guide, first, warm, restarts, key, max_steps, bar)
            return _diagnosed(result, bar) if diagnose else result
        rows = None if stream is None else stream.rows
        if rows is None and (batch_size is not None or guide.local):
            if log_joint.num_rows is None and whole.needs_all_rows:
                raise ValueError(f"batch_size={batch_size}: {whole.needs_all_rows}")
            size = whole.num_rows if batch_size is None else batch_size
            rows = make_rows(size, log_joint.num_rows, spec)
        batch_spec = spec if rows is None else rows.batch_spec(spec)
        if rows is not None:
            guide = guide.with_rows(rows.batch_size)
            log_joint = trace(guide.model, batch_spec)
            check_batch(rows, log_joint.num_rows)
            guide.check_encoders(batch_spec, rows.per_row)
            guide = guide.frozen(batch_spec, rows.per_row)
        objective = objective or Elbo()
        objective.check(guide, log_joint)
        settings = Stochastic(
            guide,
            batch_spec,
            objective.frozen,
            default_optimizer(guide, near=True)
            if optimizer is None
            else keyed(optimizer, guide, float_dtype),
            rows,
            averaged_blocks(guide, settle=max_steps is None),
        )
        _check_tables(settings, stream is not None)
        held_out = reader = None
        if eval_data is not None:
            num_rows = log_joint.num_rows if rows is None else rows.num_rows
            rng = host_rng(key, Stream.EVAL)
            held_out = hold_out(eval_data, guide, batch_spec, num_rows, settings.draws, rng)
        if stream is None:
            density = Density(whole, data, spec, guide.estimated)
        else:
            first, first_spec = prepare(stream.first, float_dtype)
            scale = stream.rows.num_rows / stream.num_first
            of_first = model.with_rows(stream.num_first)
            density = Density(of_first, first, first_spec, guide.estimated, scale)
        found = Planned()
        if optimizer is None:
            bar.begin("start")
            found = planned(settings, stream or density, init, key, max_steps or MAX_STEPS)
            near = found.start is not None or isinstance(init, Fit)
            settings = settings._replace(optimizer=default_optimizer(guide, near))
        step_key = device_key(key, Stream.STEPS)
        if stream is not None:  # only now: it may be read by one reader at a time
            reader = opened.enter_context(Reader(stream, step_key, host_rng(key, Stream.READ)))
        result = fit_steps(
            density, settings, init, key, step_key, max_steps, bar, keeper, held_out, reader, found
        )
        return _diagnosed(result, bar) if diagnose else result


def _check_planned(objective: Any, eval_data: Any, checkpoint: Any) -> None:
    """Raise ValueError if an argument is of the stochastic path only."""
    if objective is not None:
        raise ValueError(
            "objective: the automatic plan chooses its own draws and estimator; give an "
            "`optimizer` or a `batch_size` with it, or leave it out."
        )
    if eval_data is not None:
        raise ValueError(
            "eval_data: the automatic plan works on a fixed objective, whose course says nothing "
            "about other rows; give a `batch_size` or an `optimizer` with it, or use fit.loo()."
        )
    if checkpoint is not None:
        raise ValueError(
            "checkpoint: the automatic plan has none; give a `batch_size` or an `optimizer` with "
            "it, or leave it out and keep the fit by fit.save(path)."
        )


def _check_tables(settings: Stochastic, streamed: bool) -> None:
    """Raise ValueError if a table of parameters cannot be moved in this way."""
    if settings.guide.tables and streamed:
        raise ValueError(
            f"family: {settings.guide.tables[0]!r} has a table of parameters, one for each row, "
            "and a stream does not say which row is which; expected "
            "advi.Amortised(encode, params), or data in memory."
        )
    if settings.sparse and settings.line_search:
        raise ValueError(
            "optimizer: got one that searches along lines, which moves all parameters at once; "
            "expected one that moves each by itself, such as optax.adam(1e-2), where a batch "
            "sees only some rows of a table. Or leave batch_size out."
        )


def _diagnosed(result: Fit, bar: Bar) -> Fit:
    """Return a fit with its verdict; a check that is interrupted costs only the verdict."""
    if result.guide.local:
        return result  # importance weights of all rows together tell nothing
    if not result.structure.dim:
        return result  # an estimate has no posterior to compare with
    if result.density.log_joint.cost > CHECK_WORK // CHECK_DENSITIES:
        return result  # fit.check() examines it all the same
    if isinstance(result.status.cause, KeyboardInterrupt):
        return result  # nobody waits for a verdict, either
    bar.begin("verdict")
    try:
        return dataclasses.replace(result, checked=checked(result))
    except KeyboardInterrupt:
        return result


def _check_arguments(objective: Any, optimizer: Any, callback: Any) -> None:
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(
            f"objective: got {describe(objective)}; expected advi.Elbo(...) or advi.Iwae(...)."
        )
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer: got {describe(optimizer)}; expected an Optax optimiser such as "
            "optax.adam(1e-2), or nothing for the automatic plan."
        )
    if callback is not None and not _takes_one(callback):
        raise TypeError(
            f"callback: got {describe(callback)}; expected a function of one argument, a Progress."
        )


def _takes_one(function: Any) -> bool:
    """Return whether something can be called with one argument, as far as it says."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass  # a built-in without a signature
    return True
