"""Predictive checks: replicated data drawn over the observed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.types import Floats
from advi.posterior.replicated import Replicated
from advi.results.plots.panels import few_ticks, given_panels, new_panels, view

COLUMNS = 3
WIDTH, HEIGHT, LEGEND = 3.4, 2.6, 0.4  # inches of a panel, and of the legend
LEGEND_ENTRY = 1.7  # inches
GRID, REACH = 256, 4  # points of a density, and bandwidths on either side of its kernel
TAIL = 0.005  # share of the values beyond the view on either side
INTERVAL = (0.05, 0.95)
MAX_BARS = 40
DRAWN, MEAN, OBSERVED = "C0", "C1", "black"


def plot_ppc(sites: Sequence[Replicated], source: str, axes: Any) -> NDArray[Any]:
    """Draw every site or data leaf in a panel; return the axes (K,)."""
    panels = given_panels(axes, (len(sites),), "")
    is_new = panels is None
    if panels is None:
        columns = min(COLUMNS, len(sites))
        rows = math.ceil(len(sites) / columns)
        size = WIDTH * max(columns, 1.5), HEIGHT * rows + LEGEND
        panels = new_panels(rows, columns, size, "").ravel()
        for spare in panels[len(sites) :]:
            spare.remove()
        panels = panels[: len(sites)]
    for panel, site in zip(panels, sites, strict=True):
        integer = is_integer(site)
        draw = draw_counts if integer else draw_densities
        draw(panel, site, f"{len(site.draws)} {source} predictive draws")
        panel.set_title(site.name, fontsize="medium")
        if site.chosen:
            few, many = site.chosen
            panel.set_xlabel(f"{few:,} of {many:,} values, at random", fontsize="small")
        panel.spines[["left", "top", "right"]].set_visible(False)
        few_ticks(panel.xaxis, integer=integer)
    if is_new:
        _legend(panels)
    return panels


def _legend(panels: NDArray[Any]) -> None:
    """Name what is drawn, each thing once, above all panels."""
    named = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure = panels[0].figure
    columns = max(int(figure.get_figwidth() / LEGEND_ENTRY), 1)
    place = {"loc": "outside upper center", "ncols": columns, "fontsize": "small"}
    figure.legend(named.values(), named, frameon=False, **place)


def is_integer(site: Replicated) -> bool:
    """Return whether all observed and replicated values are integers."""
    values = np.append(site.observed, site.draws)
    return bool(np.all(values == np.round(values)))


def draw_densities(panel: Any, site: Replicated, label: str) -> None:
    """Draw the density of every replication, that of all of them, and that of the observed."""
    low, high = view([_bulk(site.observed), _bulk(site.draws)])
    values = np.append(site.observed, site.draws)
    values = values[np.isfinite(values)]
    ends = max(low, values.min()), min(high, values.max())
    if not ends[0] < ends[1]:
        ends = low, high
    for k, draw in enumerate(site.draws):
        style = {"color": DRAWN, "lw": 0.6, "alpha": 0.4, "label": "" if k else label}
        panel.plot(*density(draw, *ends), **style)
    panel.plot(*density(site.draws, *ends), color=MEAN, ls="--", label="all draws pooled")
    panel.plot(*density(site.observed, *ends), color=OBSERVED, label="observed")
    panel.set_xlim(low, high)
    panel.set_ylim(bottom=0)
    panel.set_yticks([])


def draw_counts(panel: Any, site: Replicated, label: str) -> None:
    """Draw how often every integer, or range of them, is observed and replicated, as a rootogram.

    On the scale of square roots counts differ by as much by chance, whether they are large or not.
    """
    lows, highs = zip(_bulk(site.observed), _bulk(site.draws), strict=True)
    low, high = math.floor(min(lows)), math.ceil(max(highs))
    step = math.ceil((high - low + 1) / MAX_BARS)
    edges = np.arange(low, high + step + 1, step) - 0.5
    centers = edges[:-1] + step / 2
    counts = np.array([np.histogram(draw, edges)[0] for draw in site.draws])
    observed = np.histogram(site.observed, edges)[0]
    panel.bar(centers, observed, 0.9 * step, color="0.85", ec="0.5", label="observed counts")
    panel.vlines(centers, *np.quantile(counts, INTERVAL, axis=0), color=DRAWN, lw=2)
    panel.plot(centers, counts.mean(0), "o", ms=4, color=DRAWN, label=f"{label}: mean, 90 %")
    panel.set_yscale("function", functions=(_root, np.square))
    panel.set_ylim(bottom=0)
    panel.set_ylabel("count, root scale", fontsize="small")


def density(values: Floats, first: float, last: float) -> tuple[Floats, Floats]:
    """Return points (G,) between two ends, and a kernel estimate of the density of values there.

    The kernel is Gaussian, with Silverman's bandwidth, reflected at the ends: where these are the
    smallest and the largest value, bounded values have no density beyond them.

    References
    ----------
    Silverman (1986), Density Estimation, sections 2.10 and 3.4.2.

    Examples
    --------
    >>> x, found = density(np.random.default_rng(0).exponential(size=100_000), 0.0, 15.0)
    >>> bool(abs(np.trapezoid(found, x) - 1) < 0.05), bool(abs(found[0] - 1) < 0.1)
    (True, True)
    """
    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values, GRID, (first, last))
    if not len(values):
        return np.empty(0), np.empty(0)
    width = edges[1] - edges[0]
    lower, upper = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(), (upper - lower) / 1.34) or values.std()
    bandwidth = max(0.9 * spread * len(values) ** -0.2 / width, 0.5)  # in bins
    reach = min(math.ceil(REACH * bandwidth), GRID)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / bandwidth) ** 2)
    smooth = np.convolve(np.pad(counts, reach, mode="symmetric"), kernel / kernel.sum(), "valid")
    return (edges[:-1] + edges[1:]) / 2, smooth / (len(values) * width)


def _bulk(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 0.0
    low, high = np.quantile(finite, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _root(counts: Floats) -> Floats:
    return np.sqrt(np.maximum(counts, 0))
