"""A normalizing flow of flowjax as a family of one's own: affine couplings, as in real NVP.

It needs flowjax, ``pip install "advi-engine[flows]"``. Any other bijection of R^D whose parameters
are a pytree of arrays can stand in `CouplingFlow._flow`, of flowjax or of another library.

References
----------
Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, ICLR.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import Affine, Chain, Coupling, Flip, TriangularAffine
from jax import Array
from jax.scipy.stats import norm

import advi


@dataclass(frozen=True)
class CouplingFlow(advi.Family):
    """Affine couplings of two halves of the coordinates, in the frame of the fitted Gaussian.

    x = m + L u(e), with mean and scale of the Gaussian held: steps move the flow u alone, whose
    parameters are of one size whatever the units of the latents. It starts at the Gaussian.

    Attributes
    ----------
    layers
        Number of couplings. Each scales and shifts one half, given the other; they take turns.
    width
        Hidden units of the network that computes scales and shifts.
    """

    layers: int = 4
    width: int = 32

    def noise_dim(self, dim: int) -> int:
        return dim

    def init(self, gaussian: Any, key: Array) -> dict[str, Any]:
        frame = {"loc": gaussian.loc, "scale": gaussian.scale.tril()}
        return {"frame": frame, "flow": self._start(len(gaussian.loc), key)}

    def draw(self, params: dict[str, Any], eps: Array) -> tuple[Array, Array]:
        arrays, rest = self._flow(eps.size, jax.random.key(0))
        arrays = jax.tree.unflatten(jax.tree.structure(arrays), params["flow"])
        u, log_det = paramax.unwrap(eqx.combine(arrays, rest)).transform_and_log_det(eps)
        frame = jax.lax.stop_gradient(params["frame"])
        scale = jnp.tril(frame["scale"])
        log_det += jnp.log(jnp.abs(jnp.diag(scale))).sum()
        return frame["loc"] + scale @ u, norm.logpdf(eps).sum() - log_det

    @partial(jax.jit, static_argnums=(0, 1))
    def _start(self, dim: int, key: Array) -> list[Array]:
        return jax.tree.leaves(self._flow(dim, key)[0])

    def _flow(self, dim: int, key: Array) -> tuple[Any, Any]:
        """Return the flow's arrays, and all else of it."""

        def layer(key: Array) -> Chain:
            coupling = Coupling(
                key,
                transformer=Affine(),
                untransformed_dim=dim // 2,
                dim=dim,
                nn_width=self.width,
                nn_depth=1,
            )
            last = coupling.conditioner.layers[-1]  # of zeros, so that the layer does nothing yet
            zeros = jax.tree.map(jnp.zeros_like, last)
            coupling = eqx.tree_at(lambda c: c.conditioner.layers[-1], coupling, zeros)
            return Chain([coupling, Flip((dim,))])

        layers = [layer(k) for k in jax.random.split(key, self.layers)]
        affine = TriangularAffine(jnp.zeros(dim), jnp.eye(dim))
        return eqx.partition(Chain([*layers, affine]), eqx.is_inexact_array)
