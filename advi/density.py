"""The log density on R^D, compiled once per model and data shapes, evaluated for many points."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.data import DataSpec
from advi.model import Model, Terms
from advi.tracing import LogJoint, trace

Floats = NDArray[np.float64]

# One call of the compiled function handles between MIN_POINTS and MAX_POINTS points: as many as
# keep its work near WORK elements, so that cheap models are not all dispatch and a costly one
# does not pay for padding when few points are asked for.
MIN_POINTS, MAX_POINTS, WORK = 8, 64, 2**24


def log_density(model: Model, log_joint: LogJoint, estimated: frozenset[str]) -> Any:
    """Return the function (x, data) -> `Terms` of the log density on R^D.

    The log-Jacobian of every latent's transform is added to the shared term, except for latents
    that are `estimated` as a point: a maximum is taken on the constrained scale.
    """

    def function(x: Array, data: Any) -> Terms:
        values, log_dets = model.unravel(x)
        shared, rows = log_joint(values, data)
        jacobian = sum(v for name, v in log_dets.items() if name not in estimated)
        return Terms(shared + jacobian, rows)

    return function


@lru_cache(maxsize=64)
def _compiled(model: Model, spec: DataSpec, estimated: frozenset[str], gradient: bool) -> Any:
    log_p = log_density(model, trace(model, spec), estimated)

    def value(x: Array, data: Any) -> Array:
        return log_p(x, data).total()

    one = jax.value_and_grad(value) if gradient else value
    return jax.jit(jax.vmap(one, in_axes=(0, None)))


class Density:
    """Log density on R^D of one model and one data set.

    Parameters
    ----------
    model
        The model.
    data
        Data on the device.
    spec
        Its `DataSpec`.
    estimated
        Latents that are estimated as a point, whose log-Jacobian is left out.

    Attributes
    ----------
    num_gradients, num_values : int
        Points at which the gradient, or the value alone, was asked for.
    """

    def __init__(
        self, model: Model, data: Any, spec: DataSpec, estimated: frozenset[str] = frozenset()
    ) -> None:
        self.model, self.data, self.spec = model, data, spec
        self.log_joint = trace(model, spec)
        self.dtype = np.dtype(spec.float_dtype)
        self.num_gradients = self.num_values = 0
        self._program = partial(_compiled, model, spec, estimated)
        fitting = WORK // max(self.log_joint.cost, 1)
        self._points = int(np.clip(2 ** int(np.log2(max(fitting, 1))), MIN_POINTS, MAX_POINTS))

    def value_and_grad(self, X: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) in nats and gradients (n, D) at points X (n, D)."""
        self.num_gradients += len(X)
        values, gradients = self._evaluate(X, gradient=True)
        return values, gradients

    def value(self, X: Floats) -> Floats:
        """Return log densities (n,) in nats at points X (n, D)."""
        self.num_values += len(X)
        return self._evaluate(X, gradient=False)[0]

    def _evaluate(self, X: Floats, gradient: bool) -> list[Floats]:
        program = self._program(gradient)
        padded = -(-len(X) // self._points) * self._points
        Z = np.zeros((padded, X.shape[1]), self.dtype)
        Z[: len(X)] = X
        Z[len(X) :] = X[:1]
        # all calls are dispatched before the first result is waited for
        calls = [program(part, self.data) for part in Z.reshape(-1, self._points, X.shape[1])]
        parts = zip(*calls, strict=True) if gradient else [calls]
        return [np.concatenate(part)[: len(X)].astype(np.float64) for part in parts]


def default_float(x64: bool | None) -> str:
    """Return the float type of a fit: float64 if asked for, or if JAX has it switched on."""
    wide = bool(jax.config.jax_enable_x64) if x64 is None else x64  # type: ignore[attr-defined]
    return jnp.dtype(jnp.float64 if wide else jnp.float32).name
