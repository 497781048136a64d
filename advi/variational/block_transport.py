"""The distribution of one block on the host, by its family."""

from typing import Any

import jax
import numpy as np

from advi.variational import draws
from advi.variational.compiled_transport import CompiledTransport
from advi.variational.family import Family, GaussianFamily
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.mixture_transport import MixtureTransport
from advi.variational.scale import DiagonalScale, Scale, TriangularScale
from advi.variational.transport import GaussianTransport, Transport
from advi.variational.triangular import Triangular
from advi.variational.triangular_transport import TriangularTransport

MOMENT_DRAWS = 4000
MAX_FULL_RANK = 1024  # coordinates of a Gaussian of full rank from which another family starts


def block_transport(family: Family, params: Any, dim: int, float_dtype: str) -> Transport:
    """Return the distribution of a family of `dim` coordinates as a transport."""
    if isinstance(family, GaussianFamily):
        gaussian = Gaussian(*family.to_gaussian(params))
        return GaussianTransport(gaussian, np.full(dim, family.noise_dim(dim) > 0))
    if isinstance(family, Triangular):
        return TriangularTransport(family, params)
    if isinstance(family, Mixture):
        return MixtureTransport(params)
    return CompiledTransport(family, params, dim, float_dtype)


def gaussian_family(family: Family, dim: int) -> GaussianFamily:
    """Return the family itself if it is a Gaussian, or that of the Gaussian it starts from."""
    if isinstance(family, GaussianFamily):
        return family
    return FullRank() if dim <= MAX_FULL_RANK else MeanField()


def block_gaussian(family: Family, params: Any, dim: int) -> tuple[np.ndarray, Scale]:
    """Return the mean and scale of a family's distribution; by draws if it is no Gaussian."""
    if isinstance(family, GaussianFamily):
        return family.to_gaussian(params)
    dtype = np.result_type(*jax.tree.leaves(params)).name
    transport = block_transport(family, params, dim, dtype)
    E = draws.antithetic(np.random.default_rng(0), MOMENT_DRAWS, transport.noise_dim)
    with np.errstate(all="ignore"):
        X = transport.draw(E).points
        X = X[np.isfinite(X).all(1)]
        loc, centred = X.mean(0), X - X.mean(0)
        if isinstance(gaussian_family(family, dim), MeanField) or len(X) <= dim:
            return loc, DiagonalScale(centred.std(0))
        R = np.linalg.qr(centred, mode="r") / np.sqrt(len(X))
    return loc, TriangularScale(R.T * np.sign(np.diag(R)))
