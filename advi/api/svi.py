"""svi(): the steps of stochastic variational inference as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from advi.api.fit import check_arguments, record_of
from advi.core.errors import describe
from advi.core.jax_config import default_float, precision
from advi.core.status import Progress, Status
from advi.data.open_source import open_source
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.defaults import default_optimizer
from advi.inference.stochastic.loop import History
from advi.inference.stochastic.run import StochasticSteps, prepare_steps
from advi.inference.stochastic.steps import State, StepInfo, initial_state, make_step, step_key
from advi.inference.stochastic.steps_fit import StepsFit
from advi.inference.stochastic.warm_start import Found
from advi.model.model import Model
from advi.model.resolve import ModelFactory, check_model, check_on_host, resolve_model
from advi.model.source_density import rows_density
from advi.posterior.record import FitRecord
from advi.results.fit import Fit
from advi.variational.objective import Objective


class SVI(NamedTuple):
    """Stochastic variational inference in three functions.

    Attributes
    ----------
    init
        ``state = init(key)``: the state before the first step, of a JAX key.
    step
        ``state, info = step(state, batch)``: one step on the rows of a batch. `info.elbo` is the
        ELBO in nats, higher is better; a step that is not ``info.finite`` leaves the parameters as
        they were. Pure and compiled; it may be passed to `jax.lax.scan` and `jax.vmap`, over
        states of several keys.
    result
        ``result(state)``: the `Fit`, without a verdict until its `check` is called.
    """

    init: Callable[[Any], State]
    step: Callable[[State, Any], tuple[State, StepInfo]]
    result: Callable[[State], Fit]


def svi(
    model: Model | ModelFactory,
    data: Any = None,
    *,
    family: Any = "mean_field",
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    num_rows: int | None = None,
    init: Any = None,
) -> SVI:
    """Return the steps that `fit` takes with an optimiser, to be taken one by one.

    The float type follows JAX's setting.

    Parameters
    ----------
    model, data, family, objective, optimizer, num_rows, init
        As in `fit`. The optimiser sees the parameters as a dict by latent, so that
        `optax.partition` and `optax.masked` work by name. By default it is Adam, at a rate that
        falls.
    batch_size
        Rows of a batch, by which the rows of a step are scaled; None where every step sees all
        data.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `fit`; and if batches need a table of parameters by row.

    Examples
    --------
    >>> import advi, jax, numpy as np
    >>> def log_joint(z, y):
    ...     return advi.Terms(-0.5 * z["mu"] ** 2, rows=-0.5 * (y - z["mu"]) ** 2)
    >>> y = np.ones(100)
    >>> steps = advi.svi(advi.Model(log_joint, {"mu": advi.real()}), y, batch_size=10)
    >>> state = steps.init(jax.random.key(0))
    >>> for k in range(200):
    ...     state, info = steps.step(state, y[:10])
    >>> abs(float(steps.result(state).mean()["mu"]) - 1) < 0.1
    True
    """
    check_model(model)
    check_on_host(data, init)
    check_arguments(objective, optimizer, None)
    init, float_dtype = record_of(init), default_float(None)
    with precision(float_dtype):
        source = open_source(data, num_rows, batch_size, float_dtype)
        resolved = resolve_model(model, source)
        settings = StochasticSteps(objective, optimizer, batch_size, 1, None, Checkpoint(None))
        steps, source = prepare_steps(resolved, source, family, settings)
        if steps.sparse:
            raise ValueError(
                f"family: {steps.guide.tables[0]!r} has a table of parameters, one for each row, "
                "and a batch does not say which rows it holds; expected "
                "advi.Amortised(encode, params), or no batch_size."
            )
        if optimizer is None:
            near = isinstance(init, FitRecord)
            steps = steps._replace(optimizer=default_optimizer(steps.guide, near))
        density = rows_density(resolved, source, source.first, steps.guide.estimated)
        fit = StepsFit(None, steps, density, Found(), init, 0)
        params = jax.tree.map(
            lambda leaf: jax.device_put(leaf.astype(float_dtype)), fit.ends.start(init)
        )
        fixed = jax.device_put(steps.fixed_draws(fit.rng).astype(float_dtype))
        log_joint, _ = steps.traces()
    step = make_step(steps, log_joint, skip_nonfinite=True)
    no_index = jnp.zeros(0, jnp.int32)

    def begin(key: Any) -> State:
        typed = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        key = key if typed else step_key(key)
        return initial_state(steps.optimizer, steps.averaged, params, key, fixed)

    def result(state: State) -> Fit:
        if not isinstance(state, State) or jnp.ndim(state.step):
            raise TypeError(
                f"state: got {describe(state)}; expected one state that `step` returned."
            )
        num = int(jax.device_get(state.step))
        status = Status("max_steps", f"took {num} steps")
        with precision(float_dtype):
            record = fit.finished(state, History([], []), status, Checkpoint(None), [])
        trace = [Progress("optimize", num, record.outcome.elbo.value)] if num else []
        return Fit(record.with_outcome(trace=trace, num_gradients=num * steps.draws))

    return SVI(begin, jax.jit(lambda state, batch: step(state, batch, no_index)), result)
