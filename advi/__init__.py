"""Automatic differentiation variational inference in JAX.

Write a log-joint over constrained latents, call `fit`, and get a posterior approximation with no
learning rate and no step count to choose.
"""

from advi.amortisation import AmortisationGap, amortisation_gap
from advi.check import check
from advi.compare import compare
from advi.diagnostics.verdict import Verdict
from advi.families import Amortised, FullRank, LowRank, MeanField, PerRow, Point
from advi.fit import fit
from advi.interop.numpyro import from_numpyro
from advi.latents import (
    Latent,
    circular,
    corr_cholesky,
    corr_matrix,
    cov_matrix,
    greater_than,
    interval,
    less_than,
    ordered,
    positive,
    positive_ordered,
    real,
    scale_tril,
    simplex,
    tree,
    unit_interval,
    unit_vector,
    zero_sum,
)
from advi.load import load
from advi.model import Model, Terms
from advi.objective import Elbo, Iwae
from advi.result import Fit
from advi.status import Estimate, Progress, Status
from advi.transforms import register_transform

__all__ = [
    "AmortisationGap",
    "Amortised",
    "Elbo",
    "Estimate",
    "Fit",
    "FullRank",
    "Iwae",
    "Latent",
    "LowRank",
    "MeanField",
    "Model",
    "PerRow",
    "Point",
    "Progress",
    "Status",
    "Terms",
    "Verdict",
    "amortisation_gap",
    "check",
    "circular",
    "compare",
    "corr_cholesky",
    "corr_matrix",
    "cov_matrix",
    "fit",
    "from_numpyro",
    "greater_than",
    "interval",
    "less_than",
    "load",
    "ordered",
    "positive",
    "positive_ordered",
    "real",
    "register_transform",
    "scale_tril",
    "simplex",
    "tree",
    "unit_interval",
    "unit_vector",
    "zero_sum",
]
__version__ = "0.1.0"
