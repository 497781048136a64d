"""Several data sets of one shape."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from advi.core.arrays import numbers, on_host
from advi.core.axes import NOTHING, Labels
from advi.core.errors import describe
from advi.data.spec import DataSpec, converted
from advi.data.tables import Names, tables_and_names, without_tables


def each(datasets: Any) -> list[Any]:
    """Return data sets one by one, of a list or of a pytree whose leaves have a leading axis.

    TypeError if they can be read only once; ValueError if there is none, or the leading axes
    differ.
    """
    if isinstance(datasets, Iterator):
        raise TypeError(
            f"datasets: got {describe(datasets)}, which can be read only once; expected a list of "
            "data sets, or arrays with a leading axis that runs over them."
        )
    if isinstance(datasets, list):
        if not datasets:
            raise ValueError("datasets: got an empty list; expected at least one data set.")
        return datasets
    leaves, treedef = jax.tree.flatten(without_tables(datasets))
    arrays = [on_host(numbers("datasets", leaf)) for leaf in leaves]
    axes = {a.shape[0] if a.ndim else None for a in arrays}
    if len(axes) != 1 or axes & {None, 0}:
        shapes = ", ".join(str(a.shape) for a in arrays) or "no array"
        raise ValueError(
            f"datasets: got arrays of shapes {shapes}; expected one leading axis that runs over "
            "the data sets, of the same length in all, or a list of data sets."
        )
    return [treedef.unflatten([a[i] for a in arrays]) for i in range(arrays[0].shape[0])]


def prepared(
    datasets: Sequence[Any], float_dtype: str, coords: Labels = NOTHING
) -> tuple[list[Any], DataSpec, Names]:
    """Return data sets as host arrays in the dtypes of the computation, their spec, and names.

    Categories are those of the first data set, or `coords` of a column. ValueError that names the
    first data set of another tree, shapes or dtypes.
    """
    first, names = tables_and_names(datasets[0], coords)
    found, spec = [], None
    for number, data in enumerate([first, *datasets[1:]]):
        arrays, own = converted(data, float_dtype, names.categories)
        spec = spec or own
        check_same("datasets:", number, own, spec)
        found.append(jax.tree.map(np.asarray, arrays))
    assert spec is not None
    return found, spec, names


def check_same(what: str, number: int, spec: DataSpec, first: DataSpec) -> None:
    """Raise ValueError unless a data set has the tree, shapes and dtypes of the first."""
    if spec != first:
        raise ValueError(
            f"{what} number {number} has {_described(spec)}, but number 0 has "
            f"{_described(first)}; expected the same in all. Pad rows and give them a weight of "
            "zero in log_joint, or take data sets of other shapes apart."
        )


@contextmanager
def explained(datasets: Any) -> Iterator[None]:
    """Add a note to errors of the log-joint where data sets are given as a tuple."""
    try:
        yield
    except Exception as error:
        if type(datasets) is tuple:
            error.add_note(
                f"fit_many(): datasets is a tuple of {len(datasets)}, which is one pytree whose "
                "leading axis runs over the data sets: log_joint gets a tuple. Give several data "
                "sets as a list."
            )
        raise


def _described(spec: DataSpec) -> str:
    pairs = zip(spec.names, spec.leaves, strict=True)
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in pairs) or "no leaf"
