"""Pairs of coordinates as scatters of draws, with the marginals on the diagonal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.results.plots.marginals import draw_marginals, marginals
from advi.results.plots.panels import (
    Layer,
    choose,
    few_ticks,
    given_panels,
    legend,
    new_panels,
    view,
)

MAX_COORDINATES = 8
SIDE, LEAST = 1.8, 3.0  # inches of a panel, and of a figure at least
SCATTERED = 1000  # draws


def plot_pairs(layers: Sequence[Layer], names: Any, axes: Any) -> NDArray[Any]:
    """Draw every pair of coordinates in a panel; return the axes (K, K)."""
    chosen, note = choose(layers[0].posterior, names, MAX_COORDINATES)
    num = len(chosen)
    panels = given_panels(axes, (num, num), note)
    shown = [marginals(layer.posterior, chosen) for layer in layers]
    draws = [layer.posterior.sample(SCATTERED, 0) for layer in layers]
    if panels is None:
        side = max(SIDE * num, LEAST)
        panels = new_panels(num, num, (side, side), note)
        legend(panels[0, 0].figure, layers)
    limits = [view([m.limits for found in shown if (m := found[k])]) for k in range(num)]
    for i, j in np.ndindex(num, num):
        panel: Any = panels[i, j]
        if j > i:
            panel.set_axis_off()
            continue
        if i == j:
            draw_marginals(panel, layers, [found[i] for found in shown])
        else:
            for layer, values in zip(layers, draws, strict=True):
                if not {chosen[i].name, chosen[j].name} <= values.keys():
                    continue  # a loaded fit derives nothing
                x, y = (chosen[k].column(values[chosen[k].name]) for k in (j, i))
                panel.scatter(x, y, s=5, alpha=0.3, lw=0, color=layer.color)
            panel.set(xlim=limits[j], ylim=limits[i])
            few_ticks(panel.xaxis)
            few_ticks(panel.yaxis)
        panel.tick_params(labelbottom=i == num - 1, labelleft=j == 0 < i)
        if i == num - 1:
            panel.set_xlabel(chosen[j].label)
        if j == 0 < i:
            panel.set_ylabel(chosen[i].label)
    return panels
