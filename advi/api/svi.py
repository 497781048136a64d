"""svi(): the steps of stochastic variational inference as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advi.api.arguments import check_arguments
from advi.api.fit import record_of
from advi.core.axes import check_coords
from advi.core.errors import describe
from advi.core.jax_config import default_float, precision
from advi.core.keys import is_key
from advi.core.status import Progress, Status
from advi.core.step_keys import as_step_key, step_key
from advi.data.open_source import open_source
from advi.data.tables import without_tables
from advi.inference.stochastic.checkpoint import Checkpoint
from advi.inference.stochastic.defaults import default_optimizer
from advi.inference.stochastic.loop import History, diverged, skipped_note
from advi.inference.stochastic.run import StochasticSteps, prepare_steps
from advi.inference.stochastic.steps import State, StepInfo, initial_state, make_step
from advi.inference.stochastic.steps_fit import StepsFit
from advi.inference.stochastic.validation import EvalSettings
from advi.inference.stochastic.warm_start import Found
from advi.model.axis_labels import check_start
from advi.model.model import Model
from advi.model.resolve import ModelFactory, check_model, check_on_host, resolve_model
from advi.model.source_density import rows_density
from advi.posterior.record import FitRecord
from advi.results.fit import Fit
from advi.variational.objective import Objective


class SVI:
    """Stochastic variational inference in three functions: `init`, `step` and `result`."""

    def __init__(self, fit: Callable[[], StepsFit], data: Any, init: Any) -> None:
        self._fit, self._data = fit, data
        first = fit()
        self._steps = steps = first.steps
        self._float_dtype = steps.spec.float_dtype

        def on_device(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jax.device_put(leaf.astype(self._float_dtype)), tree)

        with precision(self._float_dtype):
            self._start = on_device(first.ends.start(init)), on_device(steps.fixed_draws(first.rng))
            step = make_step(steps, steps.traces()[0], skip_nonfinite=True)
        no_index = jnp.zeros(0, jnp.int32)
        self._step = jax.jit(lambda state, batch: step(state, batch, no_index)[:2])
        self._abstract = jax.eval_shape(self.init, jax.random.key(0))
        # a bound method is a new object at every access, which jax.lax.scan would trace anew
        vars(self)["step"] = self.step

    def init(self, key: Any) -> State:
        """Return the state before the first step, of an integer or one JAX key.

        It may be mapped over keys by `jax.vmap`.
        """
        params, fixed = self._start
        return initial_state(
            self._steps.optimizer,
            self._steps.averaged,
            params,
            as_step_key(key) if is_key(key) else step_key(key),
            fixed,
        )

    def step(self, state: State, batch: Any = None) -> tuple[State, StepInfo]:
        """Return the state after one step on the rows of a batch, and what the step found.

        ``info.elbo`` is the ELBO in nats at the parameters before the step, higher is better; a
        step that is not ``info.finite`` leaves the parameters as they were. Pure and compiled: it
        may be passed to `jax.lax.scan`, and mapped over the states of several keys.

        Parameters
        ----------
        state
            What `init` or the step before returned.
        batch
            Tree of arrays, or a table, like the data, with `batch_size` rows; by default all data,
            if `svi` was given no `batch_size`.

        Raises
        ------
        TypeError, ValueError
            If the state is not of this object, or the batch not like the data.
        """
        self._check(state)
        if batch is None and self._steps.batching is None:
            return self._step(state, self._data)
        batch = without_tables(batch, self._steps.guide.model.known_names)
        return self._step(state, self._steps.spec.conform(batch))

    def result(self, state: State) -> Fit:
        """Return the fit at a state, without a verdict until its `check` is called.

        Its parameters are the average of the last half of the steps, or those of the last step,
        whichever has the higher ELBO on common draws. A status of "diverged" says that no step, or
        none of the last 100, was finite. The state may be stepped further.

        Raises
        ------
        TypeError
            If the state is not one of this object, or is traced by JAX.
        """
        check_on_host(state)
        self._check(state)
        num, skipped, bad_run = map(int, jax.device_get((state.step, state.skipped, state.bad_run)))
        status = diverged(num, bad_run, num)
        if status is None:
            status = Status("max_steps", f"took {num} steps{skipped_note(skipped)}")
        with precision(self._float_dtype):
            # a new one, so that the same state has the same result
            record = self._fit().finished(state, History([], []), status, Checkpoint(None), [])
        trace = [Progress("optimize", num, record.outcome.elbo.value)] if num else []
        return Fit(record.with_outcome(trace=trace, num_gradients=num * self._steps.draws))

    def _check(self, state: Any) -> None:
        same_tree = jax.tree.structure(state) == jax.tree.structure(self._abstract)
        if not same_tree or _forms(state) != _forms(self._abstract):
            got = "a state of other parameters" if isinstance(state, State) else describe(state)
            raise TypeError(
                f"state: got {got}; expected one state that `init` or `step` of this object "
                "returned. jax.vmap(svi.step) takes the states of several keys."
            )

    def __repr__(self) -> str:
        guide = self._steps.guide
        return f"SVI(family={guide.description!r}, {guide.model.size} real coordinates)"


def _forms(state: Any) -> list[Any]:
    return [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(state)]


def svi(
    model: Model | ModelFactory,
    data: Any = None,
    *,
    coords: Mapping[str, Any] | None = None,
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
    model, data, coords, family, objective, optimizer, num_rows, init
        As in `fit`. The optimiser sees the parameters as a dict by latent, so that
        `optax.partition` and `optax.masked` work by name; those of coupled latents are one entry,
        named "mu, tau", nested latents have names with dots, and held ones none. By default it is
        Adam, at a rate that falls.
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
        labels = check_coords(coords)
        source = open_source(data, num_rows, batch_size, float_dtype, labels)
        resolved = resolve_model(model, source, labels)
        if isinstance(init, FitRecord):
            check_start(resolved, init.posterior.model)
        held_out, checkpoint = EvalSettings(), Checkpoint(None)
        settings = StochasticSteps(objective, optimizer, batch_size, 1, held_out, checkpoint)
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
        guide = steps.guide
        density = rows_density(guide.model, source, source.first, guide.estimated)
    data = None if steps.batching is not None else source.example
    return SVI(lambda: StepsFit(None, steps, density, Found(), init, 0), data, init)
