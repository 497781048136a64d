"""The number of rows of data, for each of which the local latents of a model have a value."""

from typing import Any

import numpy as np

from advi.core.errors import describe
from advi.data.spec import DataSpec
from advi.model.model import Model


def count_rows(model: Model, spec: DataSpec, num_rows: Any) -> int:
    """Return the number of rows for which local latents have values, which the user may give.

    TypeError if `num_rows` is not an integer; ValueError if the data has no rows, its leaves
    differ in their leading axes, or none has `num_rows`.
    """
    latents = ", ".join(map(repr, sorted(model.local)))
    axes = {name: shape[0] for name, shape in spec.shapes.items() if shape}
    listed = ", ".join(f"{name}: {length}" for name, length in axes.items()) or "none"
    if num_rows is not None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, (int, np.integer)):
            raise TypeError(f"num_rows: got {describe(num_rows)}; expected an integer.")
        if num_rows not in axes.values():
            raise ValueError(
                f"num_rows: got {num_rows}; expected the leading axis of a data leaf ({listed})."
            )
        return int(num_rows)
    if model.program.rows_leaf is not None:
        return spec.leaves[model.program.rows_leaf][0][0]
    if len(set(axes.values())) != 1:
        raise ValueError(
            f"latent {latents} is local, one value per data row, but the leading axes of the data "
            f"do not say how many rows there are ({listed}). Give num_rows=..., or arrays with "
            "rows along their leading axis."
        )
    return next(iter(axes.values()))


def for_rows(model: Model, spec: DataSpec, num_rows: Any = None) -> Model:
    """Return the model for the rows of some data; `num_rows` is as for `count_rows`."""
    return model.with_rows(count_rows(model, spec, num_rows)) if model.local else model
