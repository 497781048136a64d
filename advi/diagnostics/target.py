"""The posterior and its fit, as comparisons and corrections take them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.proposals import GaussianProposal, MapProposal, Proposal
from advi.model.density import Density
from advi.variational.gaussian import Gaussian, Structure
from advi.variational.transport import Transport


class Moments(NamedTuple):
    """Means and sds of the columns, (K,)."""

    mean: Floats
    sd: Floats


@dataclass(frozen=True)
class Target:
    """The posterior, its fit, and the columns, scalar quantities on the constrained scale."""

    density: Density
    gaussian: Gaussian  # the fit, or its mean and scale if it is no Gaussian
    structure: Structure
    columns: Callable[[Floats], Floats]  # of points (n, D): (n, K)
    own_columns: Callable[[], Floats]  # of the fit's own draws: (n, K)
    transport: Transport | None = None  # the fit, if it is no Gaussian

    @cached_property
    def moments(self) -> Moments:
        """Moments of the fit's columns."""
        with np.errstate(over="ignore", invalid="ignore"):  # of a fit that diverged
            columns = self.own_columns()
            return Moments(columns.mean(0), columns.std(0))

    @cached_property
    def marginal(self) -> Gaussian:
        """The fit of the random coordinates."""
        random = np.flatnonzero(self.structure.random)
        return Gaussian(self.gaussian.loc[random], self.gaussian.scale.take(random))

    def proposal(self, gaussian: Gaussian) -> Proposal:
        """Return the first proposal: the fit if it is no Gaussian, or else a Gaussian."""
        if self.transport is None:
            return GaussianProposal(gaussian)
        random = np.flatnonzero(self.structure.random)
        return MapProposal(self.transport, random, self.points, self.marginal)

    def points(self, Y: Floats) -> Floats:
        """Return points (n, D) of random coordinates (n, dim), with the others at the fit."""
        if self._all_random:
            return Y
        X = np.tile(self.gaussian.loc, (len(Y), 1))
        X[:, self.structure.random] = Y
        return X

    def value(self, Y: Floats) -> Floats:
        """Return log densities (n,)."""
        return self.density.value(self.points(Y))

    def value_and_grad(self, Y: Floats) -> tuple[Floats, Floats]:
        """Return log densities (n,) and gradients (n, dim)."""
        values, gradients = self.density.value_and_grad(self.points(Y))
        return values, gradients if self._all_random else gradients[:, self.structure.random]

    @cached_property
    def _all_random(self) -> bool:
        return bool(self.structure.random.all())
