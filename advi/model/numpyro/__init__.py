"""NumPyro models, unchanged: their sites become latents, their rows plate `Terms.rows`."""

from advi.model.numpyro.program import NumPyroModel, from_numpyro

__all__ = ["NumPyroModel", "from_numpyro"]
