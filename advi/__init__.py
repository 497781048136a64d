"""Automatic differentiation variational inference in JAX.

Write a log-joint over constrained latents, call `fit`, and get a posterior approximation with no
learning rate and no step count to choose.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advi.api.calibrate import calibrate
from advi.api.check import Checkup, check
from advi.api.compare import Comparison, compare
from advi.api.fit import fit
from advi.api.fit_many import fit_many
from advi.api.log_density import LogDensity, log_density
from advi.core.status import Estimate, EvalTrace, Progress, RowValues, Status
from advi.core.table import Table
from advi.core.verdict import Verdict
from advi.diagnostics.loo import Loo
from advi.model.latent_helpers import (
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
)  # fmt: skip
from advi.model.latents import Latent
from advi.model.model import Model
from advi.model.terms import Terms
from advi.results.calibration import Calibration
from advi.results.fit import Fit
from advi.results.fits import Fits
from advi.results.load import load
from advi.transforms import Transform, register_transform
from advi.variational.amortised import Amortised
from advi.variational.family import Family
from advi.variational.fixed import Fixed
from advi.variational.full_rank import FullRank
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.objective import Elbo, Iwae, Objective
from advi.variational.per_row import PerRow
from advi.variational.point import Point
from advi.variational.sparse_precision import SparsePrecision
from advi.variational.triangular import Triangular

if TYPE_CHECKING:
    from advi.api.svi import SVI, svi
    from advi.diagnostics.amortisation_gap import AmortisationGap, amortisation_gap
    from advi.model.numpyro import from_numpyro

__all__ = [
    "SVI", "AmortisationGap", "Amortised", "Calibration", "Checkup", "Comparison", "Elbo",
    "Estimate", "EvalTrace", "Family", "Fit", "Fits", "Fixed", "FullRank", "Iwae", "Latent",
    "LogDensity", "Loo", "LowRank", "MeanField", "Mixture", "Model", "Objective", "PerRow",
    "Point", "Progress", "RowValues", "SparsePrecision", "Status", "Table", "Terms",
    "Transform", "Triangular", "Verdict", "amortisation_gap", "calibrate", "check", "circular",
    "compare", "corr_cholesky", "corr_matrix", "cov_matrix", "fit", "fit_many", "from_numpyro",
    "greater_than", "interval", "less_than", "load", "log_density", "ordered", "positive",
    "positive_ordered", "real", "register_transform", "scale_tril", "simplex", "svi", "tree",
    "unit_interval", "unit_vector", "zero_sum",
]  # fmt: skip
__version__ = "0.1.0"

# what needs NumPyro or Optax is imported where it is first used
_LATER = {
    "SVI": "advi.api.svi",
    "svi": "advi.api.svi",
    "AmortisationGap": "advi.diagnostics.amortisation_gap",
    "amortisation_gap": "advi.diagnostics.amortisation_gap",
    "from_numpyro": "advi.model.numpyro",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_LATER[name]), name))


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
