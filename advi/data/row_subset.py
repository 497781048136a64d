"""Rows of data that something is asked about, in chunks of one size, so that code compiles once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.errors import unknown
from advi.data.arrays import DataSpec, Rows, check_rows, prepare

CHUNK_ROWS = 256


@dataclass(frozen=True, eq=False)
class RowData:
    """Rows of data.

    Attributes
    ----------
    data
        Pytree of arrays.
    spec
        Its `DataSpec`.
    per_row
        For every data leaf whether its leading axis runs over rows.
    index
        (n,) the rows that are meant.
    """

    data: Any
    spec: DataSpec
    per_row: tuple[bool, ...]
    index: NDArray[np.int_]

    @classmethod
    def of(cls, data: Any, spec: DataSpec, num_rows: int) -> "RowData":
        """Return the rows of the data of a fit."""
        return cls(data, spec, check_rows(num_rows, spec), np.arange(num_rows))

    def new(self, data: Any) -> "RowData":
        """Return new data of the same kind, with any number of rows; leaves may be left out.

        Raises
        ------
        ValueError
            If a leaf is unknown, a row has another shape, or leaves differ in their rows.
        """
        data, spec = prepare(data, self.spec.float_dtype)
        known = dict(
            zip(self.spec.names, zip(self.spec.leaves, self.per_row, strict=True), strict=True)
        )
        per_row, lengths = [], {}
        for name, (shape, _) in zip(spec.names, spec.leaves, strict=True):
            if name not in known:
                raise ValueError(f"data: {unknown('leaf', name, known)}")
            ((old, _), row) = known[name]
            if shape[row:] != old[row:] or len(shape) != len(old):
                wanted = f"(n, {', '.join(map(str, old[1:]))})" if row else str(old)
                raise ValueError(f"data leaf {name!r}: got shape {shape}; expected {wanted}.")
            per_row.append(row)
            lengths |= {name: shape[0]} if row else {}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
            raise ValueError(
                f"data: got leading axes {listed}; expected one number of rows, at least one."
            )
        return RowData(data, spec, tuple(per_row), np.arange(next(iter(lengths.values()))))

    def joined(self, batches: list[Any]) -> "RowData":
        """Return the rows of several batches, each like the data."""
        parts = zip(*map(jax.tree.leaves, batches), strict=True)
        leaves = [
            np.concatenate(part) if row else part[0]
            for part, row in zip(parts, self.per_row, strict=True)
        ]
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        num = next(len(leaf) for leaf, row in zip(leaves, self.per_row, strict=True) if row)
        return replace(
            self,
            data=self.spec.treedef.unflatten(leaves),
            spec=self.spec._replace(leaves=shapes),
            index=np.arange(num),
        )

    def sample(self, num: int, rng: np.random.Generator) -> "RowData":
        """Return a random sample of the rows, or all where there are not more than `num`."""
        if len(self.index) <= num:
            return self
        return replace(self, index=rng.permutation(self.index)[:num])

    def head(self, num: int) -> tuple[Any, DataSpec]:
        """Return the data of the first `num` rows, or of all where there are not more."""
        num = min(num, len(self.index))
        leaves, treedef = jax.tree.flatten(self.data)
        cut = [x[:num] if row else x for x, row in zip(leaves, self.per_row, strict=True)]
        spec = Rows(len(self.index), num, self.per_row).batch_spec(self.spec)
        return treedef.unflatten(cut), spec

    @property
    def chunk_spec(self) -> DataSpec:
        """`DataSpec` of one chunk."""
        return Rows(len(self.index), CHUNK_ROWS, self.per_row).batch_spec(self.spec)

    def chunks(self) -> Iterator[tuple[Any, NDArray[np.int_], int]]:
        """Yield chunks of rows: their data, their places in `index`, and how many of them count.

        The last chunk repeats its last row until it is full.
        """
        leaves, treedef = jax.tree.flatten(self.data)
        leaves = [
            jax.device_get(x) if row else x for x, row in zip(leaves, self.per_row, strict=True)
        ]
        for start in range(0, len(self.index), CHUNK_ROWS):
            places = np.minimum(np.arange(start, start + CHUNK_ROWS), len(self.index) - 1)
            rows = self.index[places]
            batch = [x[rows] if row else x for x, row in zip(leaves, self.per_row, strict=True)]
            yield treedef.unflatten(batch), places, min(CHUNK_ROWS, len(self.index) - start)
