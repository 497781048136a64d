"""The numbers behind a verdict, by name."""

from typing import Any

import numpy as np

from advi.diagnostics.alarms import mode_figures
from advi.diagnostics.quantities import quantity_names
from advi.posterior.base import density_of
from advi.posterior.record import FitRecord


def figures(record: FitRecord) -> dict[str, Any]:
    """Return the numbers behind the verdict on a fit, by name."""
    outcome = record.outcome
    found: dict[str, Any] = {
        "elbo": outcome.elbo,
        "held_out_gap": outcome.held_out_gap,
        "drift": outcome.drift,
        "khat": record.khat,
        "num_gradients": outcome.num_gradients,
        "num_values": density_of(record.posterior).num_values,
        "restarts": [mode_figures(record, mode) for mode in outcome.other_modes],
    }
    if record.examination is not None and record.examination.comparison is not None:
        comparison = record.examination.comparison
        names = quantity_names(record.global_posterior)
        found["method"] = comparison.method
        found["mean_shift"] = dict(zip(names, comparison.shift.tolist(), strict=True))
        found["sd_ratio"] = dict(zip(names, np.exp(comparison.log_ratio).tolist(), strict=True))
    return found
