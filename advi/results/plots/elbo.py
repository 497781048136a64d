"""Plot of the ELBO over the course of a fit."""

from typing import Any

import numpy as np

from advi.core.errors import describe
from advi.core.types import Floats
from advi.posterior.record import Outcome
from advi.results.plots.panels import pyplot, view

MANY = 200  # at least so many steps have no markers, but a running mean
WINDOWS = 50  # of the running mean, in a whole trace
LOW, HIGH = 0.1, 0.995  # quantiles of the ELBO that determine the view
ROOM, LEAST = 0.3, 0.1  # margin as a fraction of that range, and its minimum in nats


def plot_elbo(outcome: Outcome, ax: Any) -> Any:
    """Draw the ELBO at every step of a fit, the held-out one, and its final value; return the axes.

    Where there are rows, a second scale has both per row.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(7, 3.5), layout="constrained")[1]
    elif not hasattr(ax, "plot"):
        raise TypeError(f"ax: got {describe(ax)}; expected Matplotlib axes.")
    step = np.array([progress.step for progress in outcome.trace])
    stage = np.array([progress.stage for progress in outcome.trace], dtype=str)
    elbo = np.array([progress.elbo for progress in outcome.trace])
    many = len(elbo) >= MANY
    style = {"lw": 0.5, "alpha": 0.4} if many else {"marker": ".", "lw": 1.2}
    for k, name in enumerate(dict.fromkeys(stage)):
        here = stage == name
        ax.plot(step[here], elbo[here], color=f"C{k}", label=name.replace("_", " "), **style)
    if many:
        width = len(elbo) // WINDOWS
        mean = running_mean(elbo, width)
        ax.plot(step[width - 1 :], mean, color="C1", label=f"mean of {width} steps")
    held_out = np.array([progress.eval_elbo for progress in outcome.trace])
    known = np.isfinite(held_out)
    if known.any():
        marker = "." if known.sum() < MANY else ""
        ax.plot(step[known], held_out[known], color="C2", marker=marker, lw=1.2, label="held out")
    value, error = outcome.elbo
    ax.axhline(value, color="0.5", lw=1, ls="--", label=f"fresh draws: {outcome.elbo}")
    if np.isfinite(error):
        ax.axhspan(value - error, value + error, color="0.5", alpha=0.2, lw=0)
    limits = _view(np.append(elbo, value))
    ax.set_ylim(*(view([limits, _view(held_out)]) if known.any() else limits))
    steps = set(stage) == {"optimize"}
    ax.set(xlabel="step" if steps else "evaluation", ylabel="ELBO (nats)")
    ax.ticklabel_format(axis="y", useOffset=False)
    if outcome.num_rows > 1:
        num = outcome.num_rows
        per_row = ax.secondary_yaxis("right", functions=(lambda y: y / num, lambda y: y * num))
        per_row.set_ylabel("per row (nats)")
        per_row.ticklabel_format(axis="y", useOffset=False)
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def running_mean(values: Floats, width: int) -> Floats:
    """Return the running mean over `width` values, (n - width + 1,), without non-finite ones.

    Examples
    --------
    >>> running_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2).tolist()
    [2.0, 3.0, 5.0]
    """
    finite = np.isfinite(values)
    box = np.ones(width)
    counts = np.convolve(finite, box, "valid")
    sums = np.convolve(np.where(finite, values, 0.0), box, "valid")
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _view(elbo: Floats) -> tuple[float, float]:
    """Return the range of the ELBO to show, without a start far below."""
    finite = elbo[np.isfinite(elbo)]
    if not len(finite):
        return -1.0, 1.0
    low, high = np.quantile(finite, [LOW, HIGH])
    room = max(ROOM * (high - low), LEAST)
    return float(low - room), float(high + room)
