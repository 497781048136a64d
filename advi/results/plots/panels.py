"""Common parts of the plots: coordinates by name, layers of fits, figures and axes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.draw_set import Coordinate, Names
from advi.core.errors import describe
from advi.diagnostics.linear_response import linear_response
from advi.model.axis_labels import differently_labelled
from advi.model.model import Model
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord

MARGIN = 0.04  # of a range, beside it
INTERVALS = 3  # between ticks, at most
LEGEND_ENTRY = 1.7  # inches


class Layer(NamedTuple):
    """A posterior approximation in a plot."""

    label: str
    posterior: GlobalPosterior
    color: str


def pyplot() -> Any:
    """Return matplotlib.pyplot, or raise ImportError with the package to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plots need Matplotlib: pip install "advi-engine[plots]"') from error
    return pyplot


def choose(
    posterior: GlobalPosterior,
    names: Names,
    most: int | None = None,
    sort: str | None = None,
    top: int | None = None,
) -> tuple[list[Coordinate], str]:
    """Return the coordinates of names, at most `most` of them, and a note if there are more.

    Without names they are those of the summary, in its order; `sort` and `top` are its own too.
    """
    draws = posterior.shown_draws
    if sort is not None or top is not None:
        names = draws.summary(names, sort, top).rows
    found = draws.coordinates(names)
    if most is None or len(found) <= most:
        return found, ""
    last = found[-1].label
    return found[:most], f'{most} of {len(found)} coordinates; choose with names=["{last}", ...]'


def check_is_fit(is_fit: bool, other: Any) -> None:
    """Raise TypeError unless an overlay is a fit."""
    if not is_fit:
        raise TypeError(
            f"against: got {describe(other)}; expected a Fit, or a dict from names to fits."
        )


def lay_over(
    record: FitRecord, corrected: Callable[[], FitRecord] | None, others: Mapping[str, FitRecord]
) -> list[Layer]:
    """Return the layers of a plot: the fit, its corrections if they are wanted, and others.

    Only a mean field has a layer of its linear response.
    """
    posterior = record.global_posterior
    shown = [(posterior.guide.description, posterior)]
    if corrected is not None and posterior.weighted is None:
        uncoupled = not posterior.structure.coupled and not posterior.structure.rank
        if posterior.guide.is_gaussian and uncoupled:
            try:
                shown.append(("linear response", linear_response(record).global_posterior))
            except (ValueError, np.linalg.LinAlgError) as error:
                warnings.warn(f"no linear response in the plot: {error}", stacklevel=5)
        shown.append(("corrected", corrected().global_posterior))
    for name, other in others.items():
        _check_latents(name, posterior.model, other.posterior.model)
        shown.append((str(name), other.global_posterior))
    return [Layer(label, q, f"C{k}") for k, (label, q) in enumerate(shown)]


def _check_latents(name: str, model: Model, other: Model) -> None:
    """Raise ValueError unless an overlay has the latents of a fit, and no other labels."""
    shapes = {latent: v.shape for latent, v in model.latents.items()}
    if {latent: v.shape for latent, v in other.latents.items()} != shapes:
        raise ValueError(
            f"against: {name!r} has the latents {', '.join(other.latents)}; expected "
            f"{', '.join(shapes)}, of the same shapes."
        )
    latent = differently_labelled(model, other)
    if latent is not None:
        raise ValueError(
            f"against: {name!r} has other labels along {latent!r}; expected the same ones, in the "
            "same order."
        )


def given_panels(axes: Any, shape: tuple[int, ...], note: str) -> NDArray[Any] | None:
    """Return the user's axes in a shape, or None for a new figure."""
    if axes is None:
        pyplot()
        return None
    panels = np.array(axes, dtype=object)
    if panels.size != np.prod(shape):
        raise ValueError(
            f"axes: got {panels.size}; expected {' x '.join(map(str, shape))}"
            f"{f' ({note})' if note else ''}."
        )
    return panels.reshape(shape)


def new_panels(rows: int, columns: int, size: tuple[float, float], note: str) -> NDArray[Any]:
    """Return the axes (rows, columns) of a new pyplot figure, so that notebooks show it."""
    options = {"figsize": size, "squeeze": False, "layout": "constrained"}
    figure, axes = pyplot().subplots(rows, columns, **options)
    if note:
        figure.supxlabel(note, fontsize="small")
    return axes


def check_axes(ax: Any) -> None:
    """Raise TypeError unless a value has the methods of Matplotlib's axes."""
    if not hasattr(ax, "plot"):
        raise TypeError(f"ax: got {describe(ax)}; expected Matplotlib axes.")


def legend(figure: Any, layers: Sequence[Layer]) -> None:
    """Name the fits, if there are several."""
    from matplotlib.lines import Line2D

    if len(layers) > 1:
        handles = [Line2D([], [], color=layer.color, label=layer.label) for layer in layers]
        fitting = max(int(figure.get_figwidth() / LEGEND_ENTRY), 1)
        place = {"loc": "outside upper center", "ncols": fitting, "frameon": False}
        figure.legend(handles=handles, **place)


def view(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return a range that contains several, with a margin; never empty."""
    lows, highs = zip(*limits or [(0.0, 1.0)], strict=True)
    low, high = min(lows), max(highs)
    margin = MARGIN * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


def few_ticks(axis: Any, *, integer: bool = False) -> None:
    """Limit the number of ticks, so that long labels do not overlap, or to integers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(INTERVALS, integer=integer))
