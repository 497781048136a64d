"""Plot of the ranks of simulation-based calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.diagnostics.uniformity import bands, quantile
from advi.results.plots.panels import few_ticks, given_panels, new_panels

BINS = 20
WIDTH, HEIGHT = 2.6, 3.6  # inches, of a column


def plot_calibration(
    names: Sequence[str], ranks: Floats, level: float, note: str, axes: Any
) -> NDArray[Any]:
    """Draw histogram and distribution function of ranks (n, K); return the axes (2, K)."""
    num, shape = len(ranks), (2, len(names))
    panels = given_panels(axes, shape, note)
    if panels is None:
        panels = new_panels(*shape, (max(WIDTH * len(names), 4.0), HEIGHT), note)
    band = bands(num, level)
    low, high = (quantile(p, num, [1 / BINS])[0] for p in ((1 - level) / 2, (1 + level) / 2))
    for k, (name, (top, bottom)) in enumerate(zip(names, panels.T, strict=True)):
        u = np.sort(ranks[:, k])
        top.axhspan(low, high, color="0.9", lw=0)
        top.hist(u, BINS, range=(0, 1), color="C0", alpha=0.8)
        top.set(title=name, xlim=(0, 1))
        of_ranks = np.searchsorted(u, band.at, side="right") / num
        bottom.fill_between(band.at, band.lower - band.at, band.upper - band.at, color="0.9")
        bottom.plot(band.at, of_ranks - band.at, color="C0")
        bottom.set(xlabel="rank", xlim=(0, 1))
        for axis in (top.xaxis, top.yaxis, bottom.xaxis, bottom.yaxis):
            few_ticks(axis)
    panels[0, 0].set_ylabel("data sets")
    panels[1, 0].set_ylabel("ECDF less uniform")
    return panels
