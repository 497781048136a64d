"""What the plots share: coordinates by name, the fits laid over one another, figures and axes."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.draw_set import entry_names
from advi.core.errors import check_names, describe, unknown

if TYPE_CHECKING:
    from advi.results.fit import Fit

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
    """A fit in a plot."""

    label: str
    fit: "Fit"
    color: str


def pyplot() -> Any:
    """Return matplotlib.pyplot, or raise ImportError with what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plots need Matplotlib: pip install "advi[plots]"') from error
    return pyplot


def choose(
    fit: "Fit", names: Sequence[str] | str | None, most: int
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
        for name, values in fit.shown_draws.values.items()
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


def lay_over(fit: "Fit", corrected: bool, against: Any) -> list[Layer]:
    """Return the fits to show: the fit, its corrections if asked for, and others.

    Raises
    ------
    TypeError
        If `against` is neither a fit nor a dict of fits.
    ValueError
        If another fit has other latents, or there are too many for a correction.
    """
    shown = [(fit.guide.description, fit)]
    if corrected and fit.corrected_draws is None:
        if not fit.structure.coupled and not fit.structure.rank:
            try:
                shown.append(("linear response", fit.linear_response()))
            except (ValueError, np.linalg.LinAlgError) as error:
                warnings.warn(f"no linear response in the plot: {error}", stacklevel=4)
        shown.append(("corrected", fit.corrected()))
    if against is not None:
        others = against if isinstance(against, Mapping) else {"another fit": against}
        for name, other in others.items():
            if not isinstance(other, type(fit)):
                raise TypeError(
                    f"against: got {describe(other)}; expected a Fit, or a dict from names to fits."
                )
            if other.model.coordinates != fit.model.coordinates:
                raise ValueError(
                    f"against: {name!r} has the latents {', '.join(other.model.latents)}; expected "
                    f"{', '.join(fit.model.latents)}, of the same shapes."
                )
            shown.append((str(name), other))
    return [Layer(label, f, f"C{k}") for k, (label, f) in enumerate(shown)]


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
