"""What the plots share: coordinates by name, the fits laid over one another, figures and axes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.draw_set import entry_names
from advi.core.errors import check_names, describe, unknown
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord

MARGIN = 0.04  # of a range, beside it
INTERVALS = 3  # between ticks, at most
LEGEND_ENTRY = 1.7  # inches


class Coordinate(NamedTuple):
    """A scalar coordinate of a latent, or of what a model derives from its latents."""

    label: str
    name: str
    entry: int  # of the flattened value

    def column(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return this entry of values (S, *shape) of the whole, (S,)."""
        return values.reshape(len(values), -1)[:, self.entry].astype(np.float64)


class Layer(NamedTuple):
    """A posterior approximation in a plot."""

    label: str
    posterior: GlobalPosterior
    color: str


def pyplot() -> Any:
    """Return matplotlib.pyplot, or raise ImportError with what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plots need Matplotlib: pip install "advi-engine[plots]"') from error
    return pyplot


def choose(
    posterior: GlobalPosterior, names: Sequence[str] | str | None, most: int
) -> tuple[list[Coordinate], str]:
    """Return the coordinates that names stand for, `most` at most, and a note if they are more.

    Without names they are those of the summary, in its order.

    Raises
    ------
    ValueError
        If a name is neither a latent, nor derived from them, nor one of their entries.
    """
    everything = {
        name: [
            Coordinate(label, name, entry)
            for entry, label in enumerate(entry_names(name, values.shape[1:]))
        ]
        for name, values in posterior.shown_draws.values.items()
    }
    by_label = {c.label: c for found in everything.values() for c in found}
    found: list[Coordinate] = []
    for name in everything if names is None else check_names("names", names):
        if name in by_label:
            found.append(by_label[name])
            continue
        below = [known for known in everything if f"{known}.".startswith(f"{name}.")]
        if not below:
            raise ValueError(f"names: {unknown('latent', name, everything)}")
        found += [c for known in below for c in everything[known]]
    if not found:
        raise ValueError("names: got none; expected at least one latent with an entry.")
    if len(found) <= most:
        return found, ""
    last = found[-1].label
    return found[:most], f'{most} of {len(found)} coordinates; choose with names=["{last}", ...]'


def check_is_fit(is_fit: bool, other: Any) -> None:
    """Raise TypeError unless what is laid over a fit is one."""
    if not is_fit:
        raise TypeError(
            f"against: got {describe(other)}; expected a Fit, or a dict from names to fits."
        )


def lay_over(
    record: FitRecord,
    corrections: Mapping[str, Callable[[], FitRecord]],
    others: Mapping[str, FitRecord],
) -> list[Layer]:
    """Return the fits to show: the fit, its corrections, and others.

    Parameters
    ----------
    record
        The fit.
    corrections
        What makes its corrections, by name; a linear response is that of a mean field only.
    others
        Other fits by name.

    Raises
    ------
    ValueError
        If another fit has other latents, or there are too many for a correction.
    """
    posterior = record.global_posterior
    shown = [(posterior.guide.description, posterior)]
    if posterior.weighted is None:
        rich = posterior.structure.coupled or posterior.structure.rank > 0
        for name, make in corrections.items():
            if name == "corrected":
                shown.append((name, make().global_posterior))
            elif not rich:
                try:
                    shown.append((name, make().global_posterior))
                except (ValueError, np.linalg.LinAlgError) as error:
                    warnings.warn(f"no linear response in the plot: {error}", stacklevel=5)
    for name, other in others.items():
        model = other.posterior.model
        if model.coordinates != posterior.model.coordinates:
            raise ValueError(
                f"against: {name!r} has the latents {', '.join(model.latents)}; expected "
                f"{', '.join(posterior.model.latents)}, of the same shapes."
            )
        shown.append((str(name), other.global_posterior))
    return [Layer(label, q, f"C{k}") for k, (label, q) in enumerate(shown)]


def given_panels(axes: Any, shape: tuple[int, ...], note: str) -> NDArray[Any] | None:
    """Return the user's axes in a shape, or None where a new figure is wanted.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If there are more or fewer axes.
    """
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
    figure, axes = pyplot().subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained"
    )
    if note:
        figure.supxlabel(note, fontsize="small")
    return axes


def legend(figure: Any, layers: Sequence[Layer]) -> None:
    """Name the fits, if there are several."""
    from matplotlib.lines import Line2D

    if len(layers) > 1:
        handles = [Line2D([], [], color=layer.color, label=layer.label) for layer in layers]
        fitting = max(int(figure.get_figwidth() / LEGEND_ENTRY), 1)
        figure.legend(handles=handles, loc="outside upper center", ncols=fitting)


def view(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return one range that holds several, with a margin; never empty."""
    lows, highs = zip(*limits or [(0.0, 1.0)], strict=True)
    low, high = min(lows), max(highs)
    margin = MARGIN * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


def few_ticks(axis: Any) -> None:
    """Set so few ticks that long numbers do not run into one another."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(INTERVALS))
