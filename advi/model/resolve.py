"""The model of a fit: resolved for its data, traced, and checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.core import Tracer

from advi.core.axes import NOTHING, Labels
from advi.core.errors import describe
from advi.data.source import Source
from advi.data.spec import DataSpec
from advi.model.axis_labels import labelled
from advi.model.freeze import of_fit
from advi.model.indices import check_data_indices
from advi.model.model import Model
from advi.model.rows import for_rows
from advi.model.trace import LogJoint, require_all_used, trace, trace_deterministic
from advi.model.transform_checks import check_transforms


@runtime_checkable
class ModelFactory(Protocol):
    """Makes a model once there is data, as of a NumPyro program; equal ones make equal models."""

    def bind(self, data: Any, spec: DataSpec, streamed: bool = False) -> Model:
        """Return the model for data of these shapes; `streamed`: more batches like it follow."""
        ...


def bind(model: Model | ModelFactory, data: Any, spec: DataSpec, streamed: bool = False) -> Model:
    """Return the model, or a factory's model for the data, as it is now."""
    if isinstance(model, Model):
        return of_fit(model, spec.float_dtype, {})
    made = model.bind(data, spec, streamed)
    return of_fit(made, spec.float_dtype, made.traces)


def resolve_model(model: Model | ModelFactory, source: Source, coords: Labels = NOTHING) -> Model:
    """Return the model, or a factory's model for the data, for one fit with its labels.

    Values that its functions read from outside are those of now. TypeError if it is no model;
    ValueError if a transform is wrong, the model cannot take its rows from the source, or labels
    do not fit its axes.
    """
    check_model(model)
    spec = source.spec
    resolved = bind(model, source.example, spec, source.streamed)
    check_transforms(resolved, spec.float_dtype)
    program = resolved.program
    source.check_model(bool(resolved.local), program.needs_all_rows, program.declared_rows)
    return labelled(resolved, source, coords)


def check_model(model: Any) -> None:
    """Raise TypeError unless something is a model."""
    if isinstance(model, type) or not isinstance(model, (Model, ModelFactory)):
        raise TypeError(
            f"model: got {describe(model)}; expected an advi.Model. Write "
            "advi.Model(log_joint, latents), or advi.from_numpyro(model) for a NumPyro model."
        )


def check_on_host(*values: Any) -> None:
    """Raise TypeError inside of a JAX transformation, of which a fit cannot be a part."""
    try:
        leaves = jax.tree.leaves(values, is_leaf=lambda node: isinstance(node, Iterator))
    except ValueError:  # names that JAX cannot sort, which are refused where data are taken
        leaves = []
    inside = any(isinstance(leaf, Tracer) for leaf in leaves)
    # inside of jax.jit a constant is traced as well
    if inside or isinstance(jax.device_put(np.zeros((), np.float32)), Tracer):
        raise TypeError(
            "advi runs this on the host: call it outside jit, grad and vmap, whose values JAX "
            "traces; expected numbers and arrays."
        )


def traced_model(model: Model, source: Source) -> tuple[Model, LogJoint]:
    """Return the model for the rows of a source's example, and the trace of its log-joint.

    KeyError, TypeError or ValueError if the log-joint is wrong, does not use a latent, or takes an
    index from the data that is outside of its array.
    """
    spec = source.spec
    of_rows = for_rows(model, spec, source.num_rows)
    log_joint = trace(of_rows, spec)
    require_all_used(of_rows, log_joint)
    source.check_leaves(partial(check_data_indices, of_rows, log_joint, spec))
    if of_rows.beside and not source.streamed:
        trace_deterministic(of_rows, spec)
    return of_rows, log_joint
