"""The posterior approximation: a variational distribution together with its data."""

from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior

Posterior = GlobalPosterior | LocalPosterior


def density_of(posterior: Posterior) -> Density:
    """Return the log density of an approximation at the data of its fit."""
    assert posterior.density is not None
    return posterior.density
