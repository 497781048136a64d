"""log_density(): the log density of a model as a function of a vector."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from advi.core.errors import describe
from advi.core.jax_config import default_float, precision
from advi.data.open_source import open_source
from advi.model.model import Model
from advi.model.real_density import real_log_density
from advi.model.resolve import ModelFactory, check_model, check_on_host, resolve_model, traced_model
from advi.model.trace import LogJoint
from advi.posterior.initial import initial


@dataclass(frozen=True, eq=False, repr=False)
class LogDensity:
    """Log density of a model and its data on unconstrained R^D, a pure function of JAX arrays.

    It is ``log p(data, z) + log |dz/dx|`` in nats, with the log-Jacobian of all transforms, and can
    be passed to `jax.jit`, `jax.grad` and `jax.vmap`.

    Attributes
    ----------
    dim : int
        Number of coordinates D.
    init : Array
        (D,) the start of a fit: zeros, or the initial values of the latents.

    Raises
    ------
    TypeError, ValueError
        By a call, `ravel` and `unravel`: if a point is not of shape (D,) and of floats, or values
        are not of the latents' shapes. `jax.vmap` maps them over several points.
    """

    _model: Model
    _log_joint: LogJoint
    _data: Any
    init: Array

    @property
    def dim(self) -> int:
        """Number of coordinates D."""
        return self._model.size

    def __call__(self, x: Array) -> Array:
        """Return the log density at a point x (D,), a scalar in nats."""
        log_p = real_log_density(self._model, self._log_joint, frozenset())
        return log_p(self._model.split(self._point(x)), self._data).total()

    def ravel(self, z: Any) -> Array:
        """Return the point (D,) of a tree of constrained values, shaped like the latents.

        It is NaN where a value lies outside of its latent's support.
        """
        values = self._model.from_tree(z)
        for name, shape in self._model.shapes.items():
            if jnp.shape(values[name]) != shape:
                raise ValueError(
                    f"latent {name!r}: got shape {jnp.shape(values[name])}; expected "
                    f"{shape}. jax.vmap(log_density.ravel) takes several points at once."
                )
        return self._model.ravel(values)

    def unravel(self, x: Array) -> Any:
        """Return the tree of constrained values at a point x (D,)."""
        return self._model.to_tree(self._model.unravel(self._point(x))[0])

    def _point(self, x: Any) -> Array:
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"x: got {describe(x)}; expected an array of floats, ({self.dim},).")
        if jnp.shape(x) != (self.dim,):
            raise ValueError(
                f"x: got shape {jnp.shape(x)}; expected ({self.dim},). jax.vmap(log_density) takes "
                "several points at once."
            )
        return jnp.asarray(x, self.init.dtype)

    def __repr__(self) -> str:
        return f"LogDensity of {self._model!r}"


def log_density(
    model: Model | ModelFactory, data: Any = None, *, num_rows: int | None = None
) -> LogDensity:
    """Return the log density of a model and data as a pure function of a vector.

    For an MCMC sampler, an optimiser of your own, or a test. Its float type is JAX's setting at
    this call; points of another are converted.

    Parameters
    ----------
    model
        The model, or what `from_numpyro` returns.
    data
        Pytree of arrays, as in `fit`. It is a constant of the function.
    num_rows
        Rows in the data that local latents have values for, as in `fit`.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `fit`.

    Examples
    --------
    >>> import advi, jax, jax.numpy as jnp
    >>> model = advi.Model(lambda z, data: -z["rate"], {"rate": advi.positive()})
    >>> log_p = advi.log_density(model)
    >>> log_p.dim, float(log_p(jnp.zeros(1))), float(log_p.unravel(log_p.init)["rate"])
    (1, -1.0, 1.0)
    >>> jax.grad(log_p)(jnp.zeros(1)).tolist()
    [0.0]
    """
    check_model(model)
    check_on_host(data)
    float_dtype = default_float(None)
    with precision(float_dtype):
        source = open_source(data, num_rows, None, float_dtype)
        if source.streamed:
            raise TypeError("data: got a stream of batches; expected all rows, in memory.")
        of_rows, log_joint = traced_model(resolve_model(model, source), source)
        start = jax.device_put(initial(of_rows, None)[0].loc.astype(float_dtype))
    return LogDensity(of_rows, log_joint, source.example, start)
