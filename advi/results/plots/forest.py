"""A forest, or caterpillar, plot: means and intervals of many coordinates on one axis."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from advi.core.draw_set import Coordinate, DrawSet, Names, quietly
from advi.core.types import Floats
from advi.results.plots.panels import Layer, check_axes, choose, legend, new_panels, view

LEVELS = (0.05, 0.25, 0.75, 0.95)  # ends of the thin and the thick line
MAX_LABELS = 60
WIDTH, LINE, EDGES, LEGEND = 6.0, 0.2, 0.9, 0.4  # inches
UNNAMED = 7.0  # inches of all lines together, where they have no names
SPREAD = 0.6  # of the distance of coordinates, between the outer fits of one


def plot_forest(
    layers: Sequence[Layer], names: Names, sort: str | None, top: int | None, ax: Any
) -> Any:
    """Draw mean, 50 % and 90 % intervals of every coordinate in a line; return the axes."""
    chosen, _ = choose(layers[0].posterior, names, None, sort, top)
    num = len(chosen)
    named = num <= MAX_LABELS
    if ax is None:
        height = LINE * max(num * (1 + len(layers)) / 2, 3) if named else UNNAMED
        height += EDGES + (LEGEND if len(layers) > 1 else 0)
        ax = new_panels(1, 1, (WIDTH, height), "")[0, 0]
        legend(ax.figure, layers)
    else:
        check_axes(ax)
    away = SPREAD * (np.arange(len(layers)) / max(len(layers) - 1, 1) - 0.5) * (len(layers) > 1)
    thin, thick, dot = (1.0, 3.0, 4.5) if named else (0.4, 1.2, 2.0)  # points
    seen = []
    for layer, shift in zip(layers, away, strict=True):
        line = {"color": layer.color, "capstyle": "butt"}
        mean, low, lower, upper, high = statistics(layer.posterior.shown_draws, chosen)
        rows = np.arange(num) + shift
        ax.hlines(rows, low, high, lw=thin, **line)
        ax.hlines(rows, lower, upper, lw=thick, **line)
        face = "white" if named else layer.color
        ax.plot(mean, rows, "o", ms=dot, mfc=face, c=layer.color, label=layer.label)
        seen += [low, high]
    within = np.concatenate(seen)
    within = within[np.isfinite(within)]
    left, right = view([(within.min(), within.max())] if len(within) else [])
    if left < 0 < right:
        ax.axvline(0, color="0.5", lw=0.8, zorder=0)
    ax.set(xlim=(left, right), ylim=(num - 0.5, -0.5), xlabel="mean, 50 % and 90 % intervals")
    if named:
        ax.set_yticks(range(num), [coordinate.label for coordinate in chosen])
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{num} coordinates" + (f", by {sort}" if sort else ""))
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)
    return ax


@quietly
def statistics(draws: DrawSet, coordinates: Sequence[Coordinate]) -> Floats:
    """Return mean and quantiles (5, K); NaN where the draws have no such coordinate."""
    found = np.full((1 + len(LEVELS), len(coordinates)), np.nan)
    known = [k for k, coordinate in enumerate(coordinates) if coordinate.name in draws.values]
    if known:
        columns = draws.columns([coordinates[k] for k in known])
        chosen = DrawSet({"": columns}, draws.weights)
        found[:, known] = [chosen.mean()[""], *chosen.quantile(LEVELS)[""]]
    return found
