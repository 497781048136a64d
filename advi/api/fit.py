"""fit(): from a model and data to a posterior approximation."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec

from advi.api.arguments import check_arguments
from advi.core import interrupts
from advi.core.archive import Name
from advi.core.axes import check_coords
from advi.core.errors import check_bool, check_count, unknown
from advi.core.jax_config import default_float, precision
from advi.core.keys import key_words
from advi.core.progress_bar import ProgressBar
from advi.core.status import Progress
from advi.data.open_source import open_source
from advi.diagnostics.examine import examined
from advi.inference.many.one import CompiledPlan
from advi.inference.plan.run import Plan
from advi.model.axis_labels import check_start
from advi.model.model import Model
from advi.model.resolve import ModelFactory, check_model, check_on_host, resolve_model
from advi.posterior.base import density_of
from advi.posterior.record import FitRecord
from advi.results.fit import Fit
from advi.results.improve import improved
from advi.variational.objective import Objective
from advi.variational.resolve_family import has_row_family

if TYPE_CHECKING:
    import optax

CHECK_DENSITIES, CHECK_WORK = 5000, 2**37  # elements read by a check: some seconds

P = ParamSpec("P")


def _names_known_arguments(function: Callable[P, Fit]) -> Callable[P, Fit]:
    known = [p for p in inspect.signature(function).parameters if p not in ("model", "data")]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Fit:
        for name in kwargs:
            if name not in known and name not in ("model", "data"):
                raise TypeError(f"fit(): {unknown('argument', name, known)}")
        return function(*args, **kwargs)

    return checked


@_names_known_arguments
def fit(
    model: Model | ModelFactory,
    data: Any = None,
    *,
    coords: Mapping[str, Any] | None = None,
    family: Any = "auto",
    objective: Objective | None = None,
    optimizer: "optax.GradientTransformation | None" = None,
    batch_size: int | None = None,
    num_rows: int | None = None,
    max_steps: int | None = None,
    restarts: int = 1,
    compile: bool = False,
    key: Any = 0,
    init: Any = None,
    x64: bool | None = None,
    eval_data: Any = None,
    eval_every: int | None = None,
    keep_best: bool = False,
    checkpoint: Name | None = None,
    callback: Callable[[Progress], object] | None = None,
    progress: bool | None = None,
    diagnose: bool = True,
) -> Fit:
    """Fit a variational approximation to a model's posterior.

    With neither `optimizer` nor `batch_size` an automatic plan runs, which has no setting.

    Ctrl-C returns the fit so far, "interrupted", at the next point where a fit can stop, which is
    not during a compilation; before the first evaluation that is the start. While the fit waits
    for the first batch of a stream there is nothing to return, and KeyboardInterrupt is raised; so
    it is by a second Ctrl-C before the first has taken effect.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    data
        Pytree of arrays, passed on to the log-joint; rows along leading axes. A table (a DataFrame
        of pandas or Polars, a table of Arrow, a Dataset of xarray, a structured array) is a dict of
        its columns, and a column of categories the codes of these; further data, in batches and in
        methods of the fit, are coded by the names of the categories. With a `batch_size`,
        memory-mapped arrays (`numpy.memmap`) are read a few rows at a time. Or a stream of
        batches, each such a pytree: a list of them, anything else that can be iterated over again
        and again, such as a data loader, or a function without arguments that returns an iterator
        of one epoch. Its batches may differ in their number of rows: they are joined and cut into
        steps of `batch_size` rows, and the rest of an epoch begins the next. A thread reads ahead.
        An exception of a stream is raised before there is a fit; later the fit so far is returned,
        "interrupted", with the exception as `status.cause`.
    coords
        Name of an axis to the labels along it, such as ``{"county": frame.county.cat.categories}``.
        Axes are named by the model: ``advi.Model(..., dims=...)``, or the plates of a NumPyro
        model. An axis with the name of a column of categories has these for labels without that,
        and with the name of a dimension of a Dataset its coordinate. Labels stand wherever entries
        are named, "eta[Aitkin]" in place of "eta[3]", and take no compilation.
    family
        "auto" (above dimension 256 a sparse precision, where latents meet in small numbers; else
        full rank up to 1024, low rank up to 2896, mean field beyond; mean field on the stochastic
        path), "mean_field", "low_rank", "full_rank", "triangular", "sparse", a family, or a dict
        from latent names, or tuples of names to couple, to these. "auto" goes on by itself where
        the verdict is not good, or good with little to spare: from full rank to `Triangular` maps,
        and to a correction of the draws. `Fixed`, in a dict, holds a latent at a value. Of local
        latents, on the stochastic path, every row has its own: `PerRow`, the default, or
        `Amortised`; both select that path.
    objective
        `Elbo` or `Iwae`, on the stochastic path.
    optimizer
        An Optax optimiser, instead of the plan; its update gets value, grad and value_fn.
    batch_size
        Rows per step, for a log-joint that returns `Terms`; of a stream, by default the rows of
        its first batch. Unless an `optimizer` is given, steps are Adam's, with a decreasing rate,
        on shared latents in units of their posterior sds. With up to 256 latents, all shared and
        none a point, they start from the plan on some 2,000 of the rows, with the log density of
        all rows at one point as a control variate. This reads a stream at least twice, and at most
        as often as the steps; if they read less than an epoch, as many rows of it.
    num_rows
        Rows in one epoch of a stream, by which its batches are scaled; an epoch may lack less than
        one batch of them. Or the number of rows of local latents, by default the leading axis of
        all data leaves, where they agree.
    max_steps
        Evaluations of the plan at most (default: only the limits of its stages), beyond which
        "auto" does not go on; or the exact
        number of steps of the optimiser, after which encoders and point estimates are those of the
        last step. By default steps end when their averages have converged, or after 100,000. The
        status says if a fit was still moving, and ``fit.diagnostics["drift"]`` by how much.
    restarts
        Number of complete runs of the plan, each with its own draws and search for a start; the
        fit with the best ELBO is returned. Not for steps of an optimiser, nor if `init` is a fit.
    compile
        Whether the plan of a Gaussian runs as one compiled program, that of `fit_many` with its
        bits. It takes some seconds to compile at first, and then a half or less of the time of a
        fit to data of the same shape of some thousand rows. For mean field and full rank, up to 256
        coordinates.
    key
        Integer or JAX key. The same key, data and kind of machine give the same bits; with
        `compile` these are others.
    init
        A `Fit` to start from, or a dict of constrained values for some or all latents.
    x64
        True computes this fit in float64, False in float32; None follows JAX's setting.
    eval_data
        Held-out rows, a pytree like the data, on the stochastic path. Their ELBO, scaled to the
        number of data rows, is evaluated at intervals: `Progress.eval_elbo` and `Fit.eval_trace`,
        in nats and comparable with `Fit.elbo_trace`. At most 4,096 of them are used, drawn at
        random.
    eval_every
        Steps between two evaluations of the held-out ELBO, which is also evaluated after the last
        step. By default as many as keep them to about a twentieth of the time. The parameters do
        not depend on it, unless `keep_best`.
    keep_best
        Whether the fit ends with the parameters at which the held-out ELBO was the highest,
        however it ends: after `max_steps`, Ctrl-C or the callback's wish. They are those of one
        of the steps that were evaluated or, except after Ctrl-C, the end's; `status.message` says
        which, or that the held-out ELBO was never finite. A checkpoint holds them. The best of many
        evaluations on the same rows is a little optimistic about new ones.
    checkpoint
        A folder for a stochastic fit, written every ten seconds and at the end. After a crash the
        same call continues from there, and ends with the same bits as without the interruption;
        `max_steps` may be larger. One fit at a time may use a folder. Not for streams, nor for
        memory-mapped data.
    callback
        Called with a `Progress` as the fit goes on, after every chunk of steps, which has 128 of
        them or fewer where `eval_every` asks for it; a true result ends it.
    progress
        Whether to show a progress bar; None shows one in a terminal and in a notebook.
    diagnose
        Whether to examine the fit and give a verdict: 5,000 density evaluations on all data, and
        gradients if needed. If they would take longer than some seconds it is left to `Fit.check`.
        Without it "auto" is the Gaussian alone.

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
    check_arguments(objective, optimizer, callback)
    _check_numbers(max_steps, restarts, key, progress, diagnose)
    check_bool("compile", compile)
    if compile and callback is not None:
        raise ValueError("callback: the compiled plan calls none; leave it out, or compile.")
    if eval_data is not None or eval_every is not None or keep_best is not False:
        from advi.inference.stochastic.validation import EvalSettings

        EvalSettings(eval_data, eval_every, keep_best).check()
    init, float_dtype = record_of(init), default_float(x64)
    with (
        interrupts.held(),
        precision(float_dtype),
        ProgressBar(progress, callback, max_steps, Fit) as bar,
    ):
        check_on_host(data, init, eval_data)
        labels = check_coords(coords)
        source = open_source(data, num_rows, batch_size, float_dtype, labels)
        resolved = resolve_model(model, source, labels)
        if isinstance(init, FitRecord):
            check_start(resolved, init.posterior.model)
        by_row = bool(resolved.local) and has_row_family(family)
        if optimizer is not None or batch_size is not None or source.streamed or by_row:
            # with Optax, which the plan does without
            from advi.inference.stochastic.checkpoint import Checkpoint
            from advi.inference.stochastic.run import StochasticSteps
            from advi.inference.stochastic.validation import EvalSettings

            if compile:
                raise ValueError(
                    "compile: steps of an optimiser are compiled as they are; leave it out."
                )
            held_out = EvalSettings(eval_data, eval_every, keep_best)
            algorithm = StochasticSteps(
                objective, optimizer, batch_size, max_steps, held_out, Checkpoint(checkpoint)
            )
            algorithm.refuse(restarts)
        else:
            algorithm = (CompiledPlan if compile else Plan)(restarts, max_steps)
            algorithm.refuse(objective, eval_data, checkpoint, init)
        record = algorithm.run(resolved, source, family, init, key, bar)
        if diagnose:
            record = _diagnosed(record, bar)
            if isinstance(algorithm, Plan) and _goes_on(family, max_steps):
                record = improved(record, bar)
        return Fit(record)


def _goes_on(family: Any, max_steps: int | None) -> bool:
    """Return whether a fit goes on to richer families by itself."""
    return isinstance(family, str) and family == "auto" and max_steps is None


def record_of(init: Any) -> Any:
    """Return the record of a fit, or another `init` as it is."""
    return init._record if isinstance(init, Fit) else init


def _check_numbers(max_steps: Any, restarts: Any, key: Any, progress: Any, diagnose: Any) -> None:
    """Raise TypeError or ValueError for a wrong number, key or switch."""
    if max_steps is not None:
        check_count("max_steps", max_steps)
    check_count("restarts", restarts)
    check_bool("diagnose", diagnose)
    if progress is not None:
        check_bool("progress", progress)
    key_words(key)


def _diagnosed(record: FitRecord, bar: ProgressBar) -> FitRecord:
    """Return a fit with its examination, or without where it is interrupted or too costly."""
    guide = record.posterior.guide
    comparable = not guide.local and guide.structure.dim > 0
    costly = density_of(record.posterior).log_joint.cost > CHECK_WORK // CHECK_DENSITIES
    if not comparable or costly or isinstance(record.outcome.status.cause, KeyboardInterrupt):
        return record
    bar.begin("verdict")
    try:
        return examined(record)
    except KeyboardInterrupt:
        return record
