"""Variational distributions on the host: maps from standard normal noise to points of R^d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from advi.core.types import LOG_2PI, Bools, Floats
from advi.variational.gaussian import Gaussian
from advi.variational.precision_scale import PrecisionScale
from advi.variational.scale import DiagonalScale, TriangularScale

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


class Drawn(NamedTuple):
    """Draws of a transport."""

    points: Float[ndarray, "M d"]
    log_q: Float[ndarray, " M"]  # nats
    noise: Float[ndarray, "M noise"]
    kept: Any = None  # for derivatives


class Transport(Protocol):
    """A distribution of x in R^d, as a map of standard normal noise, with parameters that move.

    The gradients G (M, d) that its methods take are those of a log density at the points of draws.
    """

    @property
    def noise_dim(self) -> int: ...

    @property
    def vector(self) -> Floats: ...  # the parameters that move

    def at(self, vector: Floats) -> Transport:
        """Return the transport with other parameters."""
        ...

    def draw(self, E: Float[ndarray, "M noise"]) -> Drawn:
        """Return the points of noise, and their log q."""
        ...

    def gradient(self, drawn: Drawn, G: Float[ndarray, "M d"]) -> Floats:
        """Return the gradient of the ELBO by the parameters, estimated from draws."""
        ...

    def pull_back(self, drawn: Drawn, G: Float[ndarray, "M d"]) -> Float[ndarray, "M noise"]:
        """Return the gradient by the noise of log p(x(e)) + log |det dx/de|; noise_dim = d."""
        ...

    def noise_of(self, X: Float[ndarray, "M d"]) -> Float[ndarray, "M noise"] | None:
        """Return the noise of points, or None if the inverse of the map is not known."""
        ...

    def params(self, family: Any) -> Any:
        """Return the parameters as the family has them."""
        ...


def log_normal(E: Float[ndarray, "M d"]) -> Float[ndarray, " M"]:
    """Return the log density of standard normal draws, nats."""
    return -0.5 * (E**2 + LOG_2PI).sum(1)


class GaussianTransport(NamedTuple):
    """A Gaussian; `random` are its coordinates that are not estimated as a point.

    Its parameters that move are the mean, in its scale, and the log scale of its noise; of a scale
    of low rank the mean alone.
    """

    gaussian: Gaussian
    random: Bools  # (d,)

    @property
    def noise_dim(self) -> int:
        return int(self.random.sum())

    @property
    def vector(self) -> Floats:
        return np.zeros(len(self.random) + self._scales * self.noise_dim)

    @property
    def _scales(self) -> bool:
        return isinstance(self.gaussian.scale, (DiagonalScale, TriangularScale))

    def at(self, vector: Floats) -> GaussianTransport:
        loc, scale = self.gaussian
        dim = len(self.random)
        # a point estimate has an sd of zero, and moves in the units of R^d
        shift = scale.mv(vector[None, :dim])[0]
        loc = loc + np.where(self.random, shift, vector[:dim])
        factor = np.ones(dim)
        if self._scales:
            factor[self.random] = np.exp(vector[dim:])
        if isinstance(scale, DiagonalScale):
            scale = DiagonalScale(scale.sd * factor)
        elif isinstance(scale, TriangularScale):
            scale = TriangularScale(scale.matrix * factor)
        return GaussianTransport(Gaussian(loc, scale), self.random)

    def draw(self, E: Floats) -> Drawn:
        full = np.zeros((len(E), len(self.random)))
        full[:, self.random] = E
        standard = log_normal(E)
        with np.errstate(all="ignore"):  # of a fit that has lost its scale, or diverged
            log_q = standard - self.gaussian.scale.log_det(self.random)
            return Drawn(self.gaussian.points(full), log_q, E)

    def gradient(self, drawn: Drawn, G: Floats) -> Floats:
        whitened = self.gaussian.scale.rmv(G)
        # the score of q is -E there: its noise vanishes where q is the posterior
        path = whitened[:, self.random] + drawn.noise
        by_loc = G.mean(0)
        by_loc[self.random] = path.mean(0)
        return np.concatenate([by_loc, *[(path * drawn.noise).mean(0)] * self._scales])

    def pull_back(self, drawn: Drawn, G: Floats) -> Floats:
        return self.gaussian.scale.rmv(G)[:, self.random]

    def noise_of(self, X: Floats) -> Floats:
        loc, scale = self.gaussian
        index = np.flatnonzero(self.random)
        centred = (X - loc)[:, index]
        if isinstance(scale, DiagonalScale):
            return centred / scale.sd[index]
        if isinstance(scale, PrecisionScale):
            return scale.whitened(centred)
        part = scale.take(index)
        matrix = part.mv(np.eye(len(index))).T
        return np.asarray(np.linalg.solve(matrix, centred.T).T, float)

    def params(self, family: Any) -> Any:
        return family.from_gaussian(*self.gaussian)


class JointTransport(NamedTuple):
    """Independent blocks of coordinates, each with a transport of its own."""

    indices: Sequence[NDArray[Any]]  # coordinates of each block
    parts: Sequence[Transport]

    @property
    def noise_dim(self) -> int:
        return sum(part.noise_dim for part in self.parts)

    @property
    def vector(self) -> Floats:
        return np.concatenate([part.vector for part in self.parts])

    def at(self, vector: Floats) -> JointTransport:
        sizes = np.cumsum([len(part.vector) for part in self.parts])[:-1]
        pairs = zip(self.parts, np.split(vector, sizes), strict=True)
        return self._replace(parts=[part.at(v) for part, v in pairs])

    def draw(self, E: Floats) -> Drawn:
        drawn = [part.draw(e) for part, e in zip(self.parts, self._noise(E), strict=True)]
        X = np.zeros((len(E), sum(map(len, self.indices))))
        for index, one in zip(self.indices, drawn, strict=True):
            X[:, index] = one.points
        return Drawn(X, np.sum([one.log_q for one in drawn], axis=0), E, drawn)

    def gradient(self, drawn: Drawn, G: Floats) -> Floats:
        parts = zip(self.parts, drawn.kept, self.indices, strict=True)
        return np.concatenate([part.gradient(one, G[:, index]) for part, one, index in parts])

    def pull_back(self, drawn: Drawn, G: Floats) -> Floats:
        parts = zip(self.parts, drawn.kept, self.indices, strict=True)
        pulled = [part.pull_back(one, G[:, index]) for part, one, index in parts]
        return np.concatenate(pulled, axis=1)

    def noise_of(self, X: Floats) -> Floats | None:
        pairs = zip(self.parts, self.indices, strict=True)
        found = [part.noise_of(X[:, index]) for part, index in pairs]
        known = [E for E in found if E is not None]
        return np.concatenate(known, axis=1) if len(known) == len(found) else None

    def params(self, family: Any) -> Any:
        pairs = zip(self.parts, family, strict=True)
        return tuple(part.params(of_block) for part, of_block in pairs)

    def _noise(self, E: Floats) -> list[Floats]:
        sizes = np.cumsum([part.noise_dim for part in self.parts])[:-1]
        return np.split(E, sizes, axis=1)
