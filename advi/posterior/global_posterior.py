"""A posterior approximation of latents that all rows of the data share."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.draw_set import PROBS, DrawSet, Names, WeightedDraws
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.table import Table
from advi.core.types import Floats
from advi.model.density import Density
from advi.model.model import Model
from advi.posterior.constrained import constrain, deterministic
from advi.posterior.log_prob import log_prob
from advi.variational import draws
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.guide import Guide
from advi.variational.sparse_precision import is_sparse
from advi.variational.transport import Transport

MOMENT_DRAWS, FEW_DRAWS = 4000, 100
MOMENT_ELEMENTS = 2**27  # of all draws that moments come from
SPARSE_ELEMENTS = 2**24  # of those whose sds are made exact,
STRATIFIED_ELEMENTS = 2**22  # and of those whose quantiles are exact as well
ELBO_DRAWS = 256
ORTHOGONAL_DIM = 512  # above it orthogonal draws cost more than they save


@dataclass(frozen=True, eq=False)
class GlobalPosterior:
    """A posterior approximation without local latents, on the constrained scale.

    Moments come from the weighted draws, if any, or else from 4,000 orthogonal antithetic draws
    (fewer above 1,000 coordinates), the same at every call.
    """

    guide: Guide  # q
    params: Any  # host arrays
    density: Density
    weighted: WeightedDraws | None = None  # corrected draws, the source of all draws if not None

    @property
    def model(self) -> Model:
        return self.guide.model

    @property
    def float_dtype(self) -> str:
        return self.density.spec.float_dtype

    @property
    def structure(self) -> Structure:
        return self.guide.structure

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and scale of q on R^D; by draws if q is no Gaussian."""
        return self.guide.to_gaussian(self.params)

    @cached_property
    def transport(self) -> Transport:
        """The map from noise (noise_dim,) to points of R^D whose draws are q's."""
        return self.guide.transport(self.params, self.float_dtype)

    def on(self, data: Any) -> "GlobalPosterior":
        """Return the approximation at other data of the same form; None: at those of the fit."""
        density = self.density.on(data)
        return self if density is self.density else dataclasses.replace(self, density=density)

    def log_prob(self, z: Any) -> Array:
        """Return log q of constrained values, () or (n,), nats."""
        self.guide.require_log_prob("log_prob")
        return log_prob(self.guide, self.params, z, self.float_dtype)

    def elbos(self, E: Floats) -> Floats:
        """Return log p - log q of antithetic noise E (n, noise_dim), averaged over pairs (n / 2,).

        In nats.
        """
        drawn = self.transport.draw(E)
        return (self.density.value(drawn.points) - drawn.log_q).reshape(2, -1).mean(0)

    def elbo(self, seed: int) -> Estimate:
        E = draws.antithetic(np.random.default_rng(seed), ELBO_DRAWS, self.guide.noise_dim)
        return Estimate.of(self.elbos(E))

    def sample(self, num: int, key: Any) -> dict[str, NDArray]:
        """Return constrained draws and deterministic quantities by name, ``(num, *shape)``."""
        values = self.constrain(self.sample_points(num, key)[0])
        return values | deterministic(self.density, values)

    def traced_sample(self, num: int, key: Array) -> dict[str, Array]:
        """Return draws of the latents by name, ``(num, *shape)``, from a typed and traced key."""
        model = self.model
        if self.weighted is None:
            eps = jax.random.normal(key, (num, self.guide.noise_dim), self.float_dtype)
            return jax.vmap(lambda e: model.constrain(self.guide.draw(self.params, e))[0])(eps)
        points = self.weighted.points.astype(self.float_dtype)
        index = jax.random.choice(key, len(points), (num,), p=self.weighted.weights)
        return jax.vmap(lambda x: model.unravel(x)[0])(jax.numpy.asarray(points)[index])

    def sample_points(self, num: int, key: Any) -> tuple[Floats, Floats | None]:
        """Return the draws of `sample` on R^D, (num, D), and their log q (num,), nats.

        Weighted draws are none of q, and have no log q.
        """
        rng = host_rng(key, Stream.SAMPLE)
        if self.weighted is not None:
            return self.weighted.resample(num, rng), None
        drawn = self.transport.draw(rng.standard_normal((num, self.guide.noise_dim)))
        return drawn.points, drawn.log_q

    def moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        """Return `reduce` of the draws behind the moments, by name."""
        return reduce(self.shown_draws)

    def summary(
        self,
        names: Names = None,
        sort: str | None = None,
        top: int | None = None,
        probs: Any = PROBS,
    ) -> Table:
        return self.shown_draws.summary(names, sort, top, probs)

    def cov(self, names: Names = None) -> Floats:
        """Return the covariance (K, K) of scalar coordinates."""
        return self.moment_draws.unwrapped(self.guide.angles).cov(names)

    def moment_points(self, q: Gaussian) -> Floats:
        """Return draws (n, D) of a Gaussian with its exact means and sds, of the same noise."""
        num = int(np.clip(SPARSE_ELEMENTS // len(q.loc), FEW_DRAWS, MOMENT_DRAWS)) // 2 * 2
        away = q.scale.mv(draws.antithetic(np.random.default_rng(0), num, len(q.loc)))
        away *= q.sds / away.std(0)
        away += q.loc
        return away

    def _stratified_points(self) -> Floats:
        """Return draws (n, D) of a Gaussian of many coordinates, with exact means and sds."""
        q, random = self.gaussian, self.structure.random
        num = int(np.clip(STRATIFIED_ELEMENTS // len(random), FEW_DRAWS, MOMENT_DRAWS)) // 2 * 2
        E = draws.stratified(np.random.default_rng(0), num, self.structure.dim)
        away = q.scale.mv(E if random.all() else self.structure.embed(E))
        if q.scale.coupling != "none":
            sds = np.sqrt(np.einsum("ij,ij->j", away, away) / num)
            away *= np.where(random, q.sds / np.where(random, sds, 1), 0)
        away += q.loc
        return away

    def _moment_points(self) -> Floats:
        dim = self.guide.noise_dim
        if dim > ORTHOGONAL_DIM and self.guide.is_gaussian:
            return self._stratified_points()
        make = draws.fixed if 0 < dim <= ORTHOGONAL_DIM else draws.antithetic
        num = int(np.clip(MOMENT_ELEMENTS // max(dim, 1), FEW_DRAWS, MOMENT_DRAWS)) // 2 * 2
        return self.transport.draw(make(np.random.default_rng(0), num, dim)).points

    @cached_property
    def moment_draws(self) -> DrawSet:
        """The draws behind the moments, double precision."""
        weights = None
        if self.weighted is not None:
            X, weights = self.weighted
        else:
            X = (
                self.moment_points(self.gaussian)
                if is_sparse(self.guide)
                else self._moment_points()
            )
        values = self.constrain(X)
        exact = {name: v.astype(np.float64) for name, v in values.items()}
        return DrawSet(exact, weights, self.model.axes)

    @cached_property
    def shown_draws(self) -> DrawSet:
        """`moment_draws` with angles around their mean direction, and deterministic quantities."""
        values, weights, axes = self.moment_draws
        sites = deterministic(self.density, values).items()
        found = {**values, **{name: v.astype(np.float64) for name, v in sites}}
        return DrawSet(found, weights, axes).unwrapped(self.guide.angles)

    def constrain(self, X: Floats) -> dict[str, NDArray]:
        """Return points (n, D) on the constrained scale, by name, host arrays ``(n, *shape)``."""
        return constrain(self.model, X, self.float_dtype)
