"""Data as the engine takes them: checked, in the dtypes of the computation, on the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from advi.core.arrays import numbers, on_host
from advi.core.axes import NOTHING, Labels
from advi.core.errors import describe
from advi.data.tables import leaves_with_paths, without_tables

ALIGNMENT = 64  # bytes, of arrays that XLA does not copy


class DataSpec(NamedTuple):
    """The tree, shapes and dtypes of data, on which compiled code depends, and the float type."""

    treedef: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]  # shape and dtype of every leaf
    names: tuple[str, ...]  # path of every leaf
    float_dtype: str  # dtype of latents and log densities
    per_row: tuple[bool, ...] = ()  # whether a leaf's leading axis runs over rows; () if none does

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every leaf, by its name."""
        return {name: shape for name, (shape, _) in zip(self.names, self.leaves, strict=True)}

    @property
    def abstract(self) -> Any:
        """The tree of shapes and dtypes, which JAX traces functions with."""
        return self.treedef.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves])

    @property
    def axes(self) -> Any:
        """The tree of the axes that run over rows, 0 or None, as `jax.vmap` takes them."""
        return self.treedef.unflatten([0 if row else None for row in self._rows])

    @property
    def num_bytes(self) -> int:
        """Memory of all leaves."""
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self.leaves)

    @property
    def num_rows(self) -> int:
        """Length of the leaves that run over rows."""
        return self.leaves[self.per_row.index(True)][0][0]

    def by_row(self, num: int) -> "DataSpec":
        """Return the spec of data with `num` rows, which knows the leaves that run over them.

        ValueError if the data has leaves and none of them does.
        """
        per_row = tuple(bool(shape) and shape[0] == num for shape, _ in self.leaves)
        if self.leaves and not any(per_row):
            axes = ", ".join(
                f"{name}: {shape[0] if shape else 'a scalar'}"
                for name, shape in self.shapes.items()
            )
            raise ValueError(
                f"Terms.rows has length {num}, but no data leaf has that leading axis ({axes}). "
                "Return one log-likelihood per data row: sum over every axis but the first."
            )
        return self._replace(per_row=per_row)

    def with_length(self, num: int) -> "DataSpec":
        """Return the spec of `num` rows of the data."""
        leaves = zip(self.leaves, self._rows, strict=True)
        resized = ((((num, *shape[1:]) if shape else ()), dtype) if row else (shape, dtype)
                   for (shape, dtype), row in leaves)  # fmt: skip
        return self._replace(leaves=tuple(resized))

    def length(self, leaves: Sequence[Any]) -> int:
        """Return the number of rows of some leaves."""
        return len(leaves[self.per_row.index(True)])

    def at(self, leaves: Sequence[Any], index: Any) -> list[Any]:
        """Return the leaves of some rows, by an index or a slice, of leaves on the host."""
        return [leaf[index] if row else leaf for leaf, row in zip(leaves, self._rows, strict=True)]

    def joined(self, blocks: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the leaves of the rows of several blocks, concatenated."""
        columns = zip(map(list, zip(*blocks, strict=True)), self._rows, strict=True)
        return [np.concatenate(c) if row and len(c) > 1 else c[-1] for c, row in columns]

    def gather(self, data: Any, index: Any) -> Any:
        """Return the data of some rows (B,), in compiled code."""
        leaves, treedef = jax.tree.flatten(data)
        pairs = zip(leaves, self._rows, strict=True)
        return treedef.unflatten(
            leaf.at[index].get(mode="promise_in_bounds") if row else leaf for leaf, row in pairs
        )

    def conform(self, data: Any) -> Any:
        """Return data of this tree and these shapes with its dtypes, also where JAX traces it.

        TypeError or ValueError if the tree, a shape or the kind of a dtype is another.
        """
        leaves, treedef = jax.tree.flatten(data, is_leaf=lambda node: isinstance(node, list))
        if treedef != self.treedef:
            raise TypeError(f"batch: got {treedef}; expected a tree like the data, {self.treedef}.")
        found = []
        for leaf, name, (shape, dtype) in zip(leaves, self.names, self.leaves, strict=True):
            kinds = [k for k in (jnp.floating, jnp.integer, jnp.bool_) if jnp.issubdtype(dtype, k)]
            if not any(jnp.issubdtype(getattr(leaf, "dtype", object), k) for k in kinds):
                raise TypeError(
                    f"batch leaf {name!r}: got {describe(leaf)}; expected an array of {dtype}."
                )
            if np.shape(leaf) != shape:
                raise ValueError(
                    f"batch leaf {name!r}: got shape {np.shape(leaf)}; expected {shape}."
                )
            found.append(jnp.asarray(leaf, dtype))
        return self.treedef.unflatten(found)

    @property
    def _rows(self) -> tuple[bool, ...]:
        return self.per_row or (False,) * len(self.leaves)


def prepare(data: Any, float_dtype: str, known: Labels = NOTHING) -> tuple[Any, DataSpec]:
    """Return data in the dtypes of the computation and on the device, and their `DataSpec`.

    Leaves are all that `numbers` takes. The JAX arrays returned share no memory with NumPy arrays
    that were given. `known` has the names of categories, as in `without_tables`. TypeError if a
    leaf holds text or objects, or means more than its numbers; ValueError if a category is not
    known, or an integer does not fit into 32 bits in a float32 fit.
    """
    arrays, spec = converted(data, float_dtype, known)
    # jax.device_put moves without compiling anything, unlike jnp.asarray with a dtype
    return jax.tree.map(lambda leaf: jax.device_put(_own(leaf)), arrays), spec


def _own(leaf: Any) -> Any:
    """Return a copy of a NumPy array in memory that the host's device takes over without a copy.

    JAX copies arrays that do not begin at a multiple of 64 bytes and shares the others, in which
    a later change by the owner would change the data of a fit. This copy is shared with nobody.
    NumPy also asks for large pages, in which rows at random indices are read faster.
    """
    if isinstance(leaf, jax.Array):
        return leaf
    memory = np.empty(leaf.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
    copy[...] = leaf
    return copy


def converted(data: Any, float_dtype: str, known: Labels = NOTHING) -> tuple[Any, DataSpec]:
    """Return `prepare`'s result without moving any array."""
    paths, treedef = leaves_with_paths(without_tables(data, known))
    names = tuple(leaf_name(path) for path, _ in paths)
    given = (leaf for _, leaf in paths)
    leaves = [_as_array(*pair, float_dtype) for pair in zip(names, given, strict=True)]
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return jax.tree.unflatten(treedef, leaves), DataSpec(treedef, shapes, names, float_dtype)


def _as_array(name: str, leaf: Any, float_dtype: str) -> Any:
    if isinstance(leaf, jax.Array) and (leaf.dtype != np.float64 or float_dtype == "float64"):
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
    return _find(data, spec, np.isnan, "NaN", "NaN")


def find_infinite(data: Any, spec: DataSpec) -> str | None:
    """Return the leaf and row of the first infinite number in the data, in words, or None."""
    return _find(data, spec, np.isinf, "infinite", "infinite numbers")


def _find(data: Any, spec: DataSpec, test: Any, word: str, words: str) -> str | None:
    for name, leaf in zip(spec.names, jax.tree.leaves(data), strict=True):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            continue
        where = np.argwhere(test(jax.device_get(leaf)))
        if len(where):
            row = f", row {where[0][0]}" if where.shape[1] else ""
            return f"data leaf {name!r}{row} is {word} ({len(where)} {words} in that leaf)"
    return None


def leaf_name(path: Any) -> str:
    """Return the name of a data leaf at a path of JAX's."""
    return keystr(path, simple=True, separator=".") or "data"


def check_static(static: Sequence[tuple[str, Any]], data: Any, spec: DataSpec) -> None:
    """Raise ValueError unless leaves have the values that decide about a model's shapes."""
    leaves = dict(zip(spec.names, jax.tree.leaves(data), strict=True))
    for name, value in static:
        if name in leaves and (given := on_host(leaves[name]).item()) != value:
            raise ValueError(
                f"data leaf {name!r}: got {given}, but {value} in the fit, where it decides about "
                "shapes or branches of the model; expected the same. Fit again for another."
            )
