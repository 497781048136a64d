"""Marginals on the constrained scale: exact densities where known, histograms elsewhere."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.draw_set import Coordinate, DrawSet, Names
from advi.core.jax_config import compiled, precision
from advi.core.types import Floats
from advi.posterior.global_posterior import GlobalPosterior
from advi.results.plots.panels import (
    Layer,
    choose,
    few_ticks,
    given_panels,
    legend,
    new_panels,
    view,
)
from advi.transforms import Transform

MAX_PANELS, COLUMNS = 24, 4
WIDTH, HEIGHT = 2.4, 1.9  # inches of a panel
MAX_EXACT = 10_000  # entries of a latent with exact densities
GRID, REACH = 401, 5.0  # points of a density, and how many sds of the real scale they span
BINS = 30
TAIL = 0.004  # share of the draws beyond the view on either side
ROUNDINGS = 16  # machine epsilons within which an entry is constant


class Marginal(NamedTuple):
    """The distribution of one coordinate."""

    draws: Floats  # (S,) finite
    weights: Floats | None  # (S,), None if equal
    curve: tuple[Floats, Floats] | None  # values (G,) and the density there, if known
    constant: bool  # a point estimate, or a constant entry

    @property
    def limits(self) -> tuple[float, float]:
        """A range that holds nearly all draws."""
        low, high = DrawSet({"": self.draws}, self.weights).quantile([TAIL, 1 - TAIL])[""]
        return float(low), float(high)


def plot(
    layers: Sequence[Layer], names: Names, sort: str | None, top: int | None, axes: Any
) -> NDArray[Any]:
    """Draw the marginal of every coordinate in its own panel; return the axes (K,)."""
    chosen, note = choose(layers[0].posterior, names, MAX_PANELS, sort, top)
    panels = given_panels(axes, (len(chosen),), note)
    shown = [marginals(layer.posterior, chosen) for layer in layers]
    if panels is None:
        columns = min(COLUMNS, len(chosen))
        rows = math.ceil(len(chosen) / columns)
        size = (WIDTH * max(columns, 2), HEIGHT * rows + (0.4 if len(layers) > 1 else 0))
        panels = new_panels(rows, columns, size, note).ravel()
        for spare in panels[len(chosen) :]:
            spare.remove()
        panels = panels[: len(chosen)]
        legend(panels[0].figure, layers)
    for panel, coordinate, found in zip(panels, chosen, zip(*shown, strict=True), strict=True):
        draw_marginals(panel, layers, found)
        panel.set_title(coordinate.label, fontsize="medium")
    return panels


def draw_marginals(panel: Any, layers: Sequence[Layer], found: Sequence[Marginal | None]) -> None:
    """Draw a coordinate's marginal under every fit that has one."""
    low, high = view([one.limits for one in found if one])
    for layer, one in zip(layers, found, strict=True):
        if one is None:
            continue
        opacity = 0.2 if layer is layers[0] else 0.0  # several fills would mix their colours
        line = {"color": layer.color, "label": layer.label}
        if one.constant:
            panel.axvline(one.draws[0], **line)
        elif one.curve is not None:
            panel.plot(*one.curve, **line)
            panel.fill_between(*one.curve, color=layer.color, alpha=opacity, lw=0)
        else:
            x, weights = one.draws, one.weights
            heights, edges = np.histogram(x, BINS, one.limits, density=True, weights=weights)
            panel.stairs(heights, edges, **line)
            panel.stairs(heights, edges, color=layer.color, alpha=opacity, fill=True)
    panel.set_xlim(low, high)
    panel.set_ylim(bottom=0)
    panel.set_yticks([])
    panel.spines[["left", "top", "right"]].set_visible(False)
    few_ticks(panel.xaxis)


def marginals(
    posterior: GlobalPosterior, coordinates: Sequence[Coordinate]
) -> list[Marginal | None]:
    """Return the distributions of coordinates, None without any finite value in the fit."""
    values, weights, _ = posterior.shown_draws
    curves = _densities(posterior, frozenset(coordinate.name for coordinate in coordinates))
    rounding = ROUNDINGS * np.finfo(posterior.float_dtype).eps
    found: list[Marginal | None] = []
    for coordinate in coordinates:
        curve = curves.get(coordinate.name)
        if curve is not None:
            curve = (coordinate.column(curve[0]), coordinate.column(curve[1]))
        draws = np.empty(0)
        if coordinate.name in values:
            draws = coordinate.column(values[coordinate.name])
        finite = np.isfinite(draws)
        if not finite.any():
            found.append(None)
            continue
        draws = draws[finite]
        constant = bool(np.ptp(draws) <= rounding * np.abs(draws).max())
        kept = None if weights is None else weights[finite]
        found.append(Marginal(draws, kept, curve, constant))
    return found


def _densities(
    posterior: GlobalPosterior, wanted: frozenset[str]
) -> dict[str, tuple[NDArray, Floats]]:
    """Return values and densities of q, (G, *shape), of latents transformed entry by entry.

    A point x of the real scale has the density N(x) / |d value / d x|.
    """
    latents = posterior.model.latents
    names = tuple(
        name
        for name in sorted(wanted & latents.keys() - posterior.guide.estimated)
        if latents[name].bijection.event_dim == 0
        and latents[name].bijection.bijective
        and latents[name].size <= MAX_EXACT
    )
    if posterior.weighted is not None or not posterior.guide.is_gaussian or not names:
        return {}
    t = np.linspace(-REACH, REACH, GRID)
    log_normal = -0.5 * (t**2 + np.log(2 * np.pi))
    curves = {}
    with precision(posterior.float_dtype):
        for name in names:
            span = slice(*posterior.model.spans[name])
            loc, sd = posterior.gaussian.loc[span], posterior.gaussian.sds[span]
            points = (loc + t[:, None] * sd).astype(posterior.float_dtype)
            shape = (GRID, *latents[name].unconstrained_shape)
            found = _forward(latents[name].bijection)(points.reshape(shape))
            value, log_det = jax.device_get(found)
            log_slope = log_det.astype(np.float64).reshape(GRID, -1)
            density = np.exp(log_normal[:, None] - log_slope) / sd
            curve = value, density.reshape(value.shape)
            curves[name] = tuple(posterior.model.rows_in_place(name, part) for part in curve)
    return curves


@lru_cache(maxsize=64)
def _forward(bijection: Transform) -> Any:
    return compiled(bijection.forward)
