"""The source that data are: in memory, on disk, or a stream."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from advi.core.axes import NOTHING, Labels
from advi.core.errors import describe
from advi.data.memmap import MemoryMap
from advi.data.source import InMemory, Source
from advi.data.spec import prepare
from advi.data.streams import BatchStream, Epochs
from advi.data.tables import tables_and_names


@runtime_checkable
class _Array(Protocol):
    def __array__(self) -> Any: ...


def open_source(
    data: Any, num_rows: Any, batch_size: int | None, float_dtype: str, coords: Labels = NOTHING
) -> Source:
    """Return the source of a fit's rows.

    Data are a pytree of arrays, read from disk where they are memory-mapped and `batch_size` is
    given; a re-iterable of batches; or a function without arguments that returns an iterator of
    them. `num_rows` is the rows in one epoch of a stream, or those that local latents have values
    for. `coords` has labels by axis, which are also the names of categories in columns of an axis'
    name. TypeError if data can be read only once, or are none that `prepare` takes; ValueError if
    `num_rows` is not given for a stream, or there is no batch.
    """
    epochs = _epochs(data, num_rows)
    if epochs is not None:
        return BatchStream.open(epochs, num_rows, float_dtype, coords)
    data, names = tables_and_names(data, coords)
    if batch_size is not None and any(isinstance(x, np.memmap) for x in jax.tree.leaves(data)):
        return MemoryMap.open(data, num_rows, float_dtype, names)
    return InMemory(*prepare(data, float_dtype), num_rows, names=names)


def _epochs(data: Any, num_rows: Any) -> Epochs | None:
    """Return the function that begins an epoch of batches, or None if the data are no stream."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"data: got {describe(data)}, which can be read only once; a fit takes many epochs. "
            "Give the function that makes it, data=make_batches without calling it, or a list."
        )
    if isinstance(data, list):
        if not any(isinstance(batch, Mapping) for batch in data) and (
            num_rows is None or not all(_is_batch(batch) for batch in data)
        ):
            return None  # one array
    elif not jax.tree_util.all_leaves([data]) or isinstance(data, (_Array, str, bytes, Mapping)):
        return None
    elif not callable(data) and (
        not isinstance(data, Iterable)
        or (num_rows is None and (isinstance(data, Sequence) or hasattr(data, "shape")))
    ):
        return None  # a number, numbers such as a range, or an array of a kind that is refused
    if isinstance(num_rows, bool) or not isinstance(num_rows, (int, np.integer)) or num_rows < 1:
        raise ValueError(
            f"num_rows: got {describe(num_rows)}; expected the number of rows in one epoch of the "
            "stream, by which its batches are scaled. If `data` was meant as one array, write "
            "numpy.asarray(data)."
        )
    begin: Any = data if callable(data) else lambda: data

    def epoch() -> Iterator[Any]:
        made = begin()
        if not isinstance(made, Iterable):
            raise TypeError(f"data(): returned {describe(made)}; expected an iterator of batches.")
        return iter(made)

    return epoch


def _is_batch(entry: Any) -> bool:
    return isinstance(entry, (Mapping, tuple)) or (isinstance(entry, _Array) and np.ndim(entry) > 0)
