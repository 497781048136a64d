"""The log density on R^D, compiled once per model and data shapes, evaluated for many points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core import interrupts
from advi.core.jax_config import precision
from advi.core.types import Floats
from advi.data.spec import DataSpec, check_static, prepare
from advi.model.indices import check_data_indices
from advi.model.model import Model
from advi.model.one_by_one import is_faster_in_turn
from advi.model.real_density import Quantity, compiled_density, real_log_density
from advi.model.row_blocks import BLOCK_POINTS, RowBlocks, row_blocks
from advi.model.rows import for_rows
from advi.model.trace import LogJoint, trace
from advi.transforms import Window, is_angle

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


# Points of one call of the compiled function: as many as keep its work near WORK elements, so that
# cheap models are not all dispatch and a costly one does not pay for padding of few points.
MIN_POINTS, MAX_POINTS, WORK = 8, 64, 2**24
COSTLY = 2**12  # elements read by a density, above which padding costs more than a call
CHEAP = 2**22  # elements read by a density whose gradients cost no more than compiling its values

SOME_ROWS = "the fit read its rows a few at a time and holds only some of them"


class Density:
    """Log density on R^D of one model and one data set.

    The log-Jacobian of latents that are `estimated` as a point is left out. `scale`, the factor of
    the rows, is above one where the data are some of the rows, and stand for all. `by_gradient`
    takes a cheap density's values from the program of its gradient, which is compiled anyway: a
    program of their own would take longer to compile than it saves. `num_gradients`, `num_values`
    and `num_hessian_vectors` count the points of evaluations. `weights` (N,) multiply the rows.
    """

    def __init__(
        self,
        model: Model,
        data: Any,
        spec: DataSpec,
        estimated: frozenset[str] = frozenset(),
        scale: float = 1.0,
        by_gradient: bool = False,
        weights: Floats | None = None,
    ) -> None:
        self.model, self.spec, self.estimated = model, spec, estimated
        with precision(spec.float_dtype):
            self.data = jax.device_put(data)
            self._given = self.data
            if weights is not None:
                self._given = self.data, jax.device_put(weights.astype(spec.float_dtype))
        self.scale, self.by_gradient, self.weights = scale, by_gradient, weights
        self.dtype = np.dtype(spec.float_dtype)
        self.num_gradients = self.num_values = self.num_hessian_vectors = 0
        self._programs: dict[Quantity, Callable[..., Any]] = {}
        angles = [np.full(v.size, is_angle(v.bijection)) for v in model.latents.values()]
        self.angles = np.concatenate(angles)  # (D,) which coordinates are angles
        inferred = [np.full(v.size, n not in estimated) for n, v in model.latents.items()]
        self._own_window = Window.default(np.flatnonzero(self.angles & np.concatenate(inferred)))
        # values and derivatives have this window's weights in place of the transform's own
        self.window = self._own_window

    @cached_property
    def log_joint(self) -> LogJoint:
        """The traced log-joint; a loaded fit has none to trace."""
        return trace(self.model, self.spec)

    @cached_property
    def blocks(self) -> RowBlocks | None:
        """The log-joint for blocks of rows, where these are many and known to be independent."""
        return row_blocks(self.model, self.log_joint, self.spec)

    @cached_property
    def _points(self) -> int:
        fitting = WORK // max(self.log_joint.cost, 1)
        return int(np.clip(2 ** int(np.log2(max(fitting, 1))), MIN_POINTS, MAX_POINTS))

    @cached_property
    def _gradients(self) -> Quantity:
        in_turn = self.blocks is None and is_faster_in_turn(self.log_joint, self.model.size)
        return "gradients_in_turn" if in_turn else "value_and_grad"

    def on(self, data: Any) -> Density:
        """Return the log density on other data of its form but any rows, or if None on its own.

        Weights of the rows stay where there are as many rows; others count once. ValueError if its
        own are only some of the rows, or an index in the data is outside of its array.
        """
        if data is None:
            self.require_all_rows()
            return self
        with precision(self.spec.float_dtype):
            moved, spec = prepare(data, self.spec.float_dtype, self.model.known_names)
            check_static(self.model.program.static, moved, spec)
            model, weights = for_rows(self.model, spec), self.weights
            if weights is not None and trace(model, spec).num_rows != len(weights):
                weights = None
            other = Density(model, moved, spec, self.estimated, weights=weights)
            check_data_indices(other.model, other.log_joint, spec, moved)
            if other.model.size == self.model.size:
                other.window = self.window
            return other

    @property
    def is_partial(self) -> bool:
        """Whether there are only some of the rows, which stand for all."""
        return self.scale != 1

    def of(self, model: Model, estimated: frozenset[str], *, by_gradient: bool = False) -> Density:
        """Return the log density of another model on the same rows, with their weights."""
        settings: Any = {"by_gradient": by_gradient, "weights": self.weights}
        return Density(model, self.data, self.spec, estimated, **settings)

    def require_all_rows(self) -> None:
        """Raise ValueError if there are only some of the rows."""
        if self.is_partial:
            raise ValueError(f"{SOME_ROWS}, and this needs all: give data=... where it is taken.")

    def value_and_grad(
        self, X: Float[ndarray, "n D"], *, repeated: bool = False
    ) -> tuple[Float[ndarray, " n"], Float[ndarray, "n D"]]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D).

        `repeated` says that thousands of calls with as many points follow, for which a costly
        density is compiled once more rather than pay for padding.
        """
        quantity = self._gradients
        padded = quantity == "value_and_grad" and len(X) < self._points
        own_size = repeated and self.log_joint.cost >= COSTLY and padded
        size = len(X) if own_size else self._points
        values, gradients = self._evaluate(quantity, X, size=size)
        self.num_gradients += len(X)
        if len(self.window.angles):
            added, removed = self.window.log_weight(X), self._own_window.log_weight(X)
            values += added.value - removed.value
            gradients[:, self.window.angles] += added.slope - removed.slope
        return values, gradients

    def value(self, X: Float[ndarray, "n D"]) -> Float[ndarray, " n"]:
        """Return log densities (n,) in nats at points X (n, D)."""
        self.num_values += len(X)
        cheap = self.by_gradient and self.log_joint.cost <= CHEAP
        values = self._evaluate(self._gradients if cheap else "value", X)[0]
        if len(self.window.angles):
            values += self.window.log_weight(X).value - self._own_window.log_weight(X).value
        return values

    def hessian_vector(
        self, X: Float[ndarray, "n D"], directions: Float[ndarray, "n D"]
    ) -> Float[ndarray, "n D"]:
        """Return the Hessian at each point X (n, D) times that point's direction (n, D)."""
        self.num_hessian_vectors += len(X)
        products = self._evaluate("hessian_vector", X, directions)[0]
        index = self.window.angles
        if len(index):
            added, removed = self.window.log_weight(X), self._own_window.log_weight(X)
            products[:, index] += (added.curvature - removed.curvature) * directions[:, index]
        return products

    def hessian_products(
        self, x: Float[ndarray, " D"], directions: list[Float[ndarray, "k D"]]
    ) -> list[Float[ndarray, "k D"]]:
        """Return the Hessian at one point x (D,) times directions, in calls of equal shapes.

        The directions are of the density's float type. Only the density of the transform's own
        window is known.
        """
        self.num_hessian_vectors += sum(map(len, directions))
        interrupts.check()
        program = self._program("hessian_products")
        with precision(self.spec.float_dtype), np.errstate(over="ignore"):
            point = x.astype(self.dtype)
            found = [program(point, part, self._given) for part in directions]
            return [np.asarray(part) for part in found]

    def trace_value(self) -> Any:
        """Return the closed jaxpr of the log density, of a point (D,) and the data's leaves."""
        log_p = real_log_density(self.model, self.log_joint, self.estimated)

        def value(x: Array, *leaves: Any) -> Array:
            return log_p(self.model.split(x), self.spec.treedef.unflatten(leaves)).total(self.scale)

        with precision(self.spec.float_dtype):
            point = jax.ShapeDtypeStruct((self.model.size,), self.dtype)
            return jax.make_jaxpr(value)(point, *jax.tree.leaves(self.data))

    def lift_window(self) -> None:
        """Give all turns of the angles the same weight: for a search of modes."""
        self.window = self.window.lifted()

    def place_window(self, loc: Float[ndarray, " D"], sds: Float[ndarray, " D"]) -> bool:
        """Set the window of the angles for a Gaussian; return whether that changed it."""
        before, self.window = self.window, self.window.around(loc, sds)
        return self.window is not before

    def _evaluate(
        self, quantity: Quantity, *arrays: Floats, size: int | None = None
    ) -> list[Floats]:
        # a point beyond the float type becomes infinite, and its density is not finite
        with precision(self.spec.float_dtype), np.errstate(over="ignore"):
            if self.blocks is None:
                return self._called(quantity, self._program(quantity), self._given, size, *arrays)
            of_what = self.model, self.blocks.log_joint, self.estimated, None
            program, weights = compiled_density(*of_what, quantity), self.weights
            found = [
                self._called(quantity, program, given, BLOCK_POINTS, *arrays)
                for given in self.blocks.of(self.data, self.scale if weights is None else weights)
            ]
            return [np.sum(parts, axis=0) for parts in zip(*found, strict=True)]

    def _called(
        self,
        quantity: Quantity,
        program: Callable[..., Any],
        given: Any,
        size: int | None,
        *arrays: Floats,
    ) -> list[Floats]:
        """Return the results of calls of a program with up to `size` points each."""
        interrupts.check()
        size, num = size or self._points, len(arrays[0])
        # all calls are dispatched before the first result is waited for
        calls = []
        for start in range(0, num, size):
            parts = [self._part(array, start, size) for array in arrays]
            if quantity == "gradients_in_turn":
                parts.append(np.array(min(size, num - start), np.int32))
            calls.append(program(*parts, given))
        columns = zip(*calls, strict=True) if isinstance(calls[0], tuple) else [calls]
        return [_joined(parts, num) for parts in columns]

    def _program(self, quantity: Quantity) -> Callable[..., Any]:
        if quantity not in self._programs:
            scale = self.scale if self._given is self.data else None
            of_what = self.model, self.log_joint, self.estimated, scale
            self._programs[quantity] = compiled_density(*of_what, quantity)
        return self._programs[quantity]

    def _part(self, array: Floats, start: int, size: int) -> NDArray[Any]:
        """Return the points of one call, padded by the first, which costs nothing unusual."""
        rows = array[start : start + size]
        if len(rows) == size:
            return rows.astype(self.dtype)
        part = np.empty((size, array.shape[1]), self.dtype)
        part[: len(rows)], part[len(rows) :] = rows, rows[0]
        return part


def _joined(parts: Sequence[Array], num: int) -> Floats:
    """Return the first `num` results of several calls, in double precision."""
    found, start = np.empty((num, *parts[0].shape[1:])), 0
    for part in parts:
        rows = np.asarray(part)[: num - start]
        found[start : start + len(rows)] = rows
        start += len(rows)
    return found
