"""Data: checked and moved to the device once; rows, minibatches, and the factor N/B."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr

from advi.core.arrays import numbers, on_host
from advi.core.errors import describe
from advi.core.jax_config import compiled
from advi.model.model import Model

FEISTEL_ROUNDS = 8
ALIGNMENT = 64  # bytes, of arrays that XLA does not copy


class DataSpec(NamedTuple):
    """What compiled code depends on: the tree, the shapes and the dtypes, and the float type."""

    treedef: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]  # shape and dtype of every leaf
    names: tuple[str, ...]  # path of every leaf
    float_dtype: str  # dtype of latents and log densities


def prepare(data: Any, float_dtype: str) -> tuple[Any, DataSpec]:
    """Check data, bring it to the dtypes of the computation and move it to the device.

    Parameters
    ----------
    data
        Pytree of arrays: NumPy, JAX, pandas columns, lists of numbers, Python numbers, and what
        else `numbers` takes.
    float_dtype
        "float32" or "float64".

    Returns
    -------
    data
        The same tree of JAX arrays, which share no memory with NumPy arrays that were given.
    spec
        Its `DataSpec`.

    Raises
    ------
    TypeError
        If a leaf holds text or objects, or means more than its numbers.
    ValueError
        If an integer does not fit into 32 bits in a float32 fit.
    """
    arrays, spec = converted(data, float_dtype)
    # jax.device_put moves without compiling anything, unlike jnp.asarray with a dtype
    return jax.tree.map(lambda leaf: jax.device_put(_own(leaf)), arrays), spec


def _own(leaf: Any) -> Any:
    """Return a copy of an array on the host in memory that a device on the host takes over.

    JAX copies what does not begin at a multiple of 64 bytes, and shares what does: an array that
    its owner changes later would change the data of a fit. This copy is shared with nobody. NumPy
    also asks for large pages, which rows read at random places are found faster in.
    """
    if isinstance(leaf, jax.Array):
        return leaf
    memory = np.empty(leaf.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
    copy[...] = leaf
    return copy


def converted(data: Any, float_dtype: str) -> tuple[Any, DataSpec]:
    """Return what `prepare` does, where the data are: nothing is moved."""
    try:
        paths, treedef = jax.tree_util.tree_flatten_with_path(
            data, is_leaf=lambda node: isinstance(node, (list, Iterator))
        )
    except ValueError as error:  # JAX sorts the keys of a dict
        raise TypeError(
            f"data: got {describe(data)}, whose names cannot be sorted; expected dicts with names "
            f"of one type, such as str ({error})."
        ) from None
    names = tuple(keystr(path, simple=True, separator=".") or "data" for path, _ in paths)
    leaves = [
        _as_array(name, leaf, float_dtype) for name, (_, leaf) in zip(names, paths, strict=True)
    ]
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return jax.tree.unflatten(treedef, leaves), DataSpec(treedef, shapes, names, float_dtype)


def _as_array(name: str, leaf: Any, float_dtype: str) -> Any:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if leaf.dtype != np.float64 or float_dtype == "float64":
            return leaf
    array = on_host(numbers(f"data leaf {name!r}", leaf))
    if array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        raise TypeError(
            f"data leaf {name!r}: got {describe(array)}; expected numbers of at most double "
            "precision. Write array.astype(float)."
        )
    if float_dtype == "float64":
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.complex128:
        return array.astype(np.complex64)
    if array.dtype in (np.int64, np.uint64):
        if array.size and not (array.min() >= -(2**31) and array.max() < 2**31):
            raise ValueError(
                f"data leaf {name!r}: got integers from {array.min()} to {array.max()}; expected "
                "32-bit integers in a float32 fit. Use x64=True, or convert the column to floats."
            )
        return array.astype(np.int32)
    return array


def find_nan(data: Any, spec: DataSpec) -> str | None:
    """Return the leaf and row of the first NaN in the data, in words, or None."""
    for name, leaf in zip(spec.names, jax.tree.leaves(data), strict=True):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            continue
        where = np.argwhere(np.isnan(jax.device_get(leaf)))
        if len(where):
            place = f", row {where[0][0]}" if where.shape[1] else ""
            return f"data leaf {name!r}{place} is NaN ({len(where)} NaN in that leaf)"
    return None


@dataclass(frozen=True)
class Rows:
    """Rows of the data and how many of them one step sees.

    Attributes
    ----------
    num_rows
        N, rows in the data.
    batch_size
        B, rows in one step.
    per_row
        For every data leaf whether its leading axis runs over rows.
    block
        Steps whose rows are in memory at a time, of rows that are read from a stream; 0 where all
        rows are in memory.
    """

    num_rows: int
    batch_size: int
    per_row: tuple[bool, ...]
    block: int = 0

    @property
    def scale(self) -> float:
        """N/B, the factor of the sum over a batch's rows."""
        return self.num_rows / self.batch_size

    @property
    def whole(self) -> bool:
        """Whether a step sees all that is in memory."""
        return self.block == 1 or (self.block == 0 and self.scale == 1)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the rows left over change with every epoch."""
        return self.num_rows // self.batch_size

    def batch(self, data: Any, key: Array, step: Array) -> Any:
        """Return the data of a step's batch; the arguments are those of `index` and `take`."""
        return self.take(data, self.index(key, step))

    def index(self, key: Array, step: Array) -> Array:
        """Return the rows (B,) of a step's batch, as places in the data.

        Every epoch goes through the rows in an order of its own, from the key and the epoch. The
        rows of a stream's block are taken as they come.

        Parameters
        ----------
        key
            Typed JAX key of the fit.
        step
            () number of the step, from 0.
        """
        places = jnp.arange(self.batch_size, dtype=step.dtype)
        if self.block:
            return step % self.block * self.batch_size + places
        epoch, position = jnp.divmod(step, self.steps_per_epoch)
        places = position * self.batch_size + places
        return shuffled(places, self.num_rows, jax.random.fold_in(key, epoch))

    def take(self, data: Any, index: Array) -> Any:
        """Return the data of some rows (B,), of a pytree of arrays of all rows."""
        leaves, treedef = jax.tree.flatten(data)
        return treedef.unflatten(
            [
                leaf.at[index].get(mode="promise_in_bounds") if row else leaf
                for leaf, row in zip(leaves, self.per_row, strict=True)
            ]
        )

    def batch_spec(self, spec: DataSpec) -> DataSpec:
        """Return the `DataSpec` of one batch."""
        leaves = tuple(
            ((self.batch_size, *shape[1:]), dtype) if row else (shape, dtype)
            for (shape, dtype), row in zip(spec.leaves, self.per_row, strict=True)
        )
        return spec._replace(leaves=leaves)


@lru_cache(maxsize=16)
def taking(rows: Rows) -> Callable[[Any, Any], Any]:
    """Return the compiled `Rows.take`."""
    return compiled(rows.take)


def shuffled(places: Array, num: int, key: Array) -> Array:
    """Return the entries of a random permutation of 0 .. num - 1 at some places.

    A Feistel network on the pairs of a rectangle that holds `num` places and little more, applied
    again until the result is below `num`: a bijection whose entries cost the same whatever `num`
    is, where sorting all rows would cost more than the steps of an epoch. Every row is equally
    likely at every place; of a handful of rows not quite all orders are.

    Parameters
    ----------
    places
        (B,) integers from 0 to num - 1.
    num
        Length of the permutation, below 2^31.
    key
        Typed JAX key; another key, another permutation.

    References
    ----------
    Black & Rogaway (2002), Ciphers with Arbitrary Finite Domains, methods 2 and 3.

    Examples
    --------
    >>> sorted(shuffled(jnp.arange(5), 5, jax.random.key(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    height = math.isqrt(num - 1) + 1
    width = -(-num // height)
    round_keys = jax.random.bits(key, (FEISTEL_ROUNDS,), jnp.uint32)

    def permute(x: Array) -> Array:
        up, along = x // width, x % width
        for up_key, along_key in round_keys.reshape(-1, 2):
            up = _rotated(up, height, along ^ up_key)
            along = _rotated(along, width, up ^ along_key)
        return up * width + along

    walked = jax.lax.while_loop(
        lambda x: jnp.any(x >= num),
        lambda x: jnp.where(x >= num, permute(x), x),
        permute(places.astype(jnp.uint32)),
    )
    return walked.astype(jnp.int32)


def _rotated(x: Array, size: int, by: Array) -> Array:
    """Return x, below `size`, moved on around 0 .. size - 1 by a hash of `by`."""
    # the upper half of the hash as a fraction of `size`: a product of 16 bits each, no division
    moved = x + (((_mixed(by) >> 16) * jnp.uint32(size)) >> 16)
    return jnp.where(moved >= size, moved - size, moved)


def _mixed(x: Array) -> Array:
    """Return 32 bits that each depend on all bits of x (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def check_rows(rows: int, spec: DataSpec) -> tuple[bool, ...]:
    """Return which data leaves run over `rows` rows.

    Raises
    ------
    ValueError
        If the data has leaves and none of them does.
    """
    per_row = tuple(bool(shape) and shape[0] == rows for shape, _ in spec.leaves)
    if spec.leaves and not any(per_row):
        axes = ", ".join(
            f"{name}: {shape[0] if shape else 'a scalar'}"
            for name, (shape, _) in zip(spec.names, spec.leaves, strict=True)
        )
        raise ValueError(
            f"Terms.rows has length {rows}, but no data leaf has that leading axis ({axes}). "
            "Return one log-likelihood per data row: sum over every axis but the first."
        )
    return per_row


def make_rows(batch_size: Any, rows: int | None, spec: DataSpec) -> Rows:
    """Check a batch size against a model's rows.

    Raises
    ------
    TypeError
        If `batch_size` is not an integer.
    ValueError
        If the log-joint has no rows, there is no data to take batches of, or `batch_size` is not
        between 1 and the number of rows.
    """
    if rows is None:
        raise ValueError(
            f"batch_size={batch_size} needs to know which part of the log-joint belongs to rows, "
            "but log_joint returned a scalar. Return advi.Terms(shared, rows) with one "
            "log-likelihood per data row, or leave batch_size out."
        )
    if not spec.leaves:
        raise ValueError(
            f"batch_size={batch_size} takes batches of `data`, but data is None. Pass the rows as "
            "data instead of closing over them."
        )
    return Rows(rows, check_batch_size(batch_size, rows), check_rows(rows, spec))


def check_batch_size(batch_size: Any, rows: int) -> int:
    """Return a batch size if it is an integer from 1 to the number of rows, or raise."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
        raise TypeError(f"batch_size: got {describe(batch_size)}; expected an integer.")
    if not 1 <= batch_size <= rows:
        raise ValueError(f"batch_size: got {batch_size}; expected 1 to {rows}, the number of rows.")
    return int(batch_size)


def count_rows(model: Model, spec: DataSpec, num_rows: Any) -> int:
    """Return the number of rows of the data that local latents have a value for.

    Parameters
    ----------
    model
        The model.
    spec
        The data's.
    num_rows
        What the user says it is, or None to find it.

    Raises
    ------
    TypeError
        If `num_rows` is not an integer.
    ValueError
        If the data has no rows, its leaves differ in their leading axes, or none has `num_rows`.
    """
    latents = ", ".join(map(repr, sorted(model.local)))
    axes = {n: shape[0] for n, (shape, _) in zip(spec.names, spec.leaves, strict=True) if shape}
    listed = ", ".join(f"{name}: {length}" for name, length in axes.items()) or "none"
    if num_rows is not None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, (int, np.integer)):
            raise TypeError(f"num_rows: got {describe(num_rows)}; expected an integer.")
        if num_rows not in axes.values():
            raise ValueError(
                f"num_rows: got {num_rows}; expected the leading axis of a data leaf ({listed})."
            )
        return int(num_rows)
    if model.rows_leaf is not None:
        return spec.leaves[model.rows_leaf][0][0]
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


def check_batch(rows: Rows, num_rows: int | None) -> None:
    """Raise ValueError unless a log-joint returns a batch's rows for a batch."""
    if num_rows != rows.batch_size:
        raise ValueError(
            f"batch_size={rows.batch_size}: for a batch of data Terms.rows has length {num_rows}; "
            f"expected {rows.batch_size}. Take every row from `data`, and the number of rows from "
            "its shape."
        )
