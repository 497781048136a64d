"""The coordinates in which chains move: the random ones of R^D, or the noise of a fitted map."""

from typing import NamedTuple, Protocol

import numpy as np

from advi.core.types import Floats
from advi.diagnostics.proposals import MapProposal
from advi.diagnostics.target import Target
from advi.variational.gaussian import Gaussian


class Frame(Protocol):
    """Coordinates in which chains move, whitened by a Gaussian."""

    @property
    def whitening(self) -> Gaussian: ...

    def start(self, Y: Floats) -> Floats:
        """Return the coordinates of points (n, dim) of the random coordinates of R^D."""
        ...

    def points(self, Z: Floats) -> Floats:
        """Return points (n, D) of R^D."""
        ...

    def value_and_grad(self, Z: Floats) -> tuple[Floats, Floats]:
        """Return the log density (n,) in these coordinates, and its gradient."""
        ...


class RealFrame(NamedTuple):
    """The random coordinates of R^D themselves."""

    target: Target
    whitening: Gaussian

    def start(self, Y: Floats) -> Floats:
        return Y

    def points(self, Z: Floats) -> Floats:
        return self.target.points(Z)

    def value_and_grad(self, Z: Floats) -> tuple[Floats, Floats]:
        return self.target.value_and_grad(Z)


class NoiseFrame(NamedTuple):
    """The noise of a fitted map, where the posterior is nearly standard normal.

    Hoffman et al. (2019), NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural
    Transport.
    """

    target: Target
    proposal: MapProposal

    @property
    def whitening(self) -> Gaussian:
        return Gaussian.diagonal(np.zeros(self.proposal.noise_dim), 1.0)

    def start(self, Y: Floats) -> Floats:
        E = self.proposal.noise_of(Y)
        assert E is not None
        return E

    def points(self, Z: Floats) -> Floats:
        return self.proposal.transport.draw(Z).points

    def value_and_grad(self, Z: Floats) -> tuple[Floats, Floats]:
        return self.proposal.value_and_grad(self.target.density.value_and_grad, Z)


def frame_of(target: Target, gaussian: Gaussian) -> Frame:
    """Return the frame of chains: the noise of the fit if it is a map that can be inverted.

    Or else the real scale, whitened by a Gaussian.
    """
    proposal = target.proposal(gaussian)
    if (
        isinstance(proposal, MapProposal)
        and proposal.noise_of(target.marginal.loc[None]) is not None
    ):
        return NoiseFrame(target, proposal)
    return RealFrame(target, gaussian)
