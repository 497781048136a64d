"""The posterior and its fit, as comparisons and corrections take them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.many_columns import ManyColumns
from advi.model.density import Density
from advi.model.sparse_hessian import SparseHessian
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.hub_response import PROBES, HubProbe
from advi.variational.transport import Drawn, Transport, log_normal


class Moments(NamedTuple):
    """Means and sds of the columns, (K,)."""

    mean: Floats
    sd: Floats


@dataclass(frozen=True)
class Target:
    """The posterior, its fit, and the columns, scalar quantities on the constrained scale.

    Importance draws and chains have coordinates Z (n, dim): the random ones of R^D for a Gaussian
    fit, and for any other the noise of its draws. There the posterior has the density
    N(e) p(x(e)) / q(x(e)), which is nearly standard normal where q is nearly the posterior
    (Hoffman et al. 2019, NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo).
    """

    density: Density
    gaussian: Gaussian  # the fit, or its mean and scale if it is no Gaussian
    structure: Structure
    columns: Callable[[Floats], Floats]  # of points (n, D): (n, K)
    own_columns: Callable[[], Floats]  # of the fit's own draws: (n, K)
    transport: Transport | None = None  # the fit, if it is no Gaussian
    # of a Gaussian with a sparse precision: how to find its Hessian, and which columns are many
    hessian: SparseHessian | None = None
    many: ManyColumns | None = None
    columns_of: Callable[[Gaussian], Floats] | None = None  # of another Gaussian, by equal noise

    @cached_property
    def moments(self) -> Moments:
        """Moments of the fit's columns."""
        with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
            columns = self.own_columns()
            return Moments(columns.mean(0), columns.std(0))

    def moments_of(self, other: Gaussian) -> Moments:
        """Return moments of another Gaussian's columns, by the noise of `own_columns`."""
        assert self.columns_of is not None
        with np.errstate(over="ignore", invalid="ignore"):
            columns = self.columns_of(other)
            return Moments(columns.mean(0), columns.std(0))

    @cached_property
    def marginal(self) -> Gaussian:
        """The fit of the random coordinates."""
        random = np.flatnonzero(self.structure.random)
        return Gaussian(self.gaussian.loc[random], self.gaussian.scale.take(random))

    @cached_property
    def widened(self) -> Gaussian:
        """The fit with a sparse precision, and the sds of hubs that allow for its response to them.

        The one precision of effects of the fit makes hubs such as their sd too narrow.
        """
        assert self.hessian is not None
        if not len(self.hessian.hubs):
            return self.gaussian
        noise = np.random.default_rng(0).standard_normal((PROBES, len(self.gaussian.loc)))
        probe = HubProbe(self.gaussian, self.hessian.hubs, noise)
        return probe.widened(probe.response(self.density.value_and_grad(probe.points())[1]))

    @cached_property
    def first(self) -> Gaussian:
        """The fit in the coordinates of the chains: a standard normal in those of its noise.

        With a sparse precision its hubs are wider.
        """
        if self.hessian is not None:
            return self.widened
        if self.transport is None:
            return self.marginal
        return Gaussian.diagonal(np.zeros(self.transport.noise_dim), 1.0)

    def points(self, Z: Floats) -> Floats:
        """Return points (n, D) of R^D; coordinates that are not random are at the fit."""
        if self.transport is not None:
            return self.transport.draw(Z).points
        if self._all_random:
            return Z
        X = np.tile(self.gaussian.loc, (len(Z), 1))
        X[:, self.structure.random] = Z
        return X

    def value(self, Z: Floats) -> Floats:
        """Return log densities (n,)."""
        if self.transport is None:
            return self.density.value(self.points(Z))
        drawn = self.transport.draw(Z)
        values = self.density.value(_finite(drawn.points))
        return values + _log_weight(drawn)

    def value_and_grad(self, Z: Floats, *, repeated: bool = False) -> tuple[Floats, Floats]:
        """Return log densities (n,) and gradients (n, dim); see `Density` for `repeated`."""
        if self.transport is not None:
            drawn = self.transport.draw(Z)
            X = _finite(drawn.points)
            values, gradients = self.density.value_and_grad(X, repeated=repeated)
            return values + _log_weight(drawn), self.transport.pull_back(drawn, gradients)
        values, gradients = self.density.value_and_grad(self.points(Z), repeated=repeated)
        return values, gradients if self._all_random else gradients[:, self.structure.random]

    @cached_property
    def _all_random(self) -> bool:
        return bool(self.structure.random.all())


def _log_weight(drawn: Drawn) -> Floats:
    """Return the log density of the noise less log q, -inf where the map overflows."""
    found = log_normal(drawn.noise) - drawn.log_q
    return np.where(np.isfinite(drawn.points).all(1) & np.isfinite(found), found, -np.inf)


def _finite(X: Floats) -> Floats:
    return np.where(np.isfinite(X), X, 0.0)
