"""An encoder: every data row's parameters are computed from that row."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.errors import describe
from advi.core.jaxprs.frozen import Frozen
from advi.core.params import NO_STATE, check_params
from advi.data.spec import DataSpec
from advi.variational.family import GaussianFamily, RowFamily, check_base, unit_params
from advi.variational.mean_field import MeanField


@dataclass(frozen=True, eq=False)
class Amortised(RowFamily):
    """An encoder: a function computes each data row's parameters of a base family from that row.

    Parameters
    ----------
    encode
        ``encode(params, row)``: the parameters of `base` for one row of the data. `row` is the
        data with the leading axis of every leaf that runs over rows taken away. For `MeanField` it
        returns ``(loc, log_sd)``, each (d,), where d counts the real coordinates of one row's
        latents; for other families the tuple of their parameters. It must be a pure function:
        state such as that of batch normalisation is not supported.
    params
        Pytree of arrays of floats, where the optimiser starts from.
    base
        Family of one row's latents.

    Notes
    -----
    Two are equal, and share compiled code, if `encode`, `base` and the shapes of `params` are.

    References
    ----------
    Kingma & Welling (2014), Auto-Encoding Variational Bayes, section 2.

    Examples
    --------
    >>> def encode(params, row):
    ...     return params["w"] @ row["x"], params["log_sd"]
    >>> start = {"w": np.zeros((2, 5)), "log_sd": np.zeros(2)}
    >>> Amortised(encode, start) == Amortised(encode, start)
    True
    """

    encode: Callable[[Any, Any], Any]
    params: Any
    base: GaussianFamily = field(default_factory=MeanField)

    def __post_init__(self) -> None:
        if not callable(self.encode):
            raise TypeError(
                f"Amortised: got {describe(self.encode)}; expected a function encode(params, row)."
            )
        check_base("Amortised", self.base)
        check_params("Amortised params", self.params)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        leaves, treedef = jax.tree.flatten(self.params)
        return self.encode, treedef, tuple(map(np.shape, leaves)), self.base

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amortised) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        name = getattr(self.encode, "__name__", type(self.encode).__name__)
        return f"Amortised({name}, base={self.base})"

    def initial(self, loc: NDArray, sd: NDArray) -> Any:
        return self.params

    def at_rows(self, params: Any, batch: Any, axes: Any) -> Any:
        kind = type(unit_params(self.base, 1))
        return kind(*jax.vmap(self.encode, in_axes=(None, axes))(params, batch))

    def check(self, dim: int, spec: DataSpec) -> None:
        """Raise ValueError unless `encode` returns base parameters of dimension `dim`."""
        params, row = self._arguments(spec)
        try:
            got = jax.eval_shape(self.thawed.encode, params, row)
        except Exception as error:
            if isinstance(error, NameError) and "axis name" in str(error):
                raise ValueError(
                    "encode asks for the rows beside its own, along a named axis, as batch "
                    f"normalisation does; expected a function of one row. {NO_STATE}"
                ) from error
            shapes = jax.tree.map(lambda leaf: leaf.shape, row)
            error.add_note(f"advi called encode(params, row) with row of shapes {shapes}.")
            raise
        expected = unit_params(self.base, dim)
        wanted = ", ".join(f"{k} {v.shape}" for k, v in expected._asdict().items())
        shapes = [getattr(leaf, "shape", None) for leaf in got] if isinstance(got, tuple) else None
        if shapes != [leaf.shape for leaf in expected]:
            found = jax.tree.map(lambda leaf: leaf.shape, got)
            raise ValueError(
                f"encode returned arrays of shapes {found}; expected the parameters of one row, "
                f"the tuple ({wanted}) of {type(self.base).__name__}, and nothing else. {NO_STATE}"
            )

    def frozen(self, spec: DataSpec) -> "Amortised":
        args = self._arguments(spec)
        return replace(self, encode=Frozen(self.thawed.encode, "the encoder", *args))

    @property
    def thawed(self) -> "Amortised":
        """The encoder as the user gave it."""
        encode = self.encode
        return replace(self, encode=encode.function) if isinstance(encode, Frozen) else self

    def _arguments(self, spec: DataSpec) -> tuple[Any, Any]:
        """Return abstract parameters of the encoder and one abstract row of data."""
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), spec.float_dtype), self.params
        )
        leaves = zip(spec.leaves, spec.per_row, strict=True)
        row = [jax.ShapeDtypeStruct(shape[by_row:], dtype) for (shape, dtype), by_row in leaves]
        return params, spec.treedef.unflatten(row)
