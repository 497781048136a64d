"""One number per row of data."""

from typing import NamedTuple

import numpy as np

from advi.core.status import Estimate
from advi.core.types import Floats


class RowValues(NamedTuple):
    """One number per row, and their mean.

    Examples
    --------
    >>> print(RowValues.of(np.array([1.0, 2.0, 3.0])).mean)
    2.00 ± 0.58
    """

    rows: Floats  # (n,)
    mean: Estimate  # over the rows, with the standard error of a sample of rows

    @classmethod
    def of(cls, rows: Floats) -> "RowValues":
        """Return values with their mean."""
        error = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
        return cls(rows, Estimate(float(rows.mean()), float(error)))
