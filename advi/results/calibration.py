"""Simulation-based calibration: ranks of simulated values among posterior draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import check_names, unknown
from advi.core.types import Floats
from advi.diagnostics.uniformity import p_value
from advi.results.plots.calibration import plot_calibration

LEVEL = 0.99  # of the bands of all latents together
MEAN, VARIANCE = 0.5, 1 / 12  # of uniform ranks
ERRORS = 3.0  # standard errors of a mean or a variance that is named
NAMED, MOST = 10, 8  # coordinates in the text, and in a plot


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Ranks of simulated values in their posteriors, which are uniform if all is right.

    Attributes
    ----------
    names
        Names of the scalar coordinates, (K,).
    ranks
        (n, K) share of the posterior below the simulated value, between 0 and 1.
    failed
        Numbers of the data sets that are left out, since no fit of theirs is reliable.
    """

    names: tuple[str, ...]
    ranks: Floats
    failed: tuple[int, ...] = ()

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Name to the probability of ranks as uneven as these if all is right, of each alone."""
        return {name: p_value(self.ranks[:, k]) for k, name in enumerate(self.names)}

    @property
    def verdict(self) -> dict[str, str]:
        """Name to "calibrated", or how the posterior is wrong.

        One in a hundred sets of latents that are all calibrated has one that is not called so.
        """
        return {name: self._word(k) for k, name in enumerate(self.names)}

    @property
    def ok(self) -> bool:
        """Whether every coordinate is calibrated."""
        return all(word == "calibrated" for word in self.verdict.values())

    def _word(self, column: int) -> str:
        if self.p_values[self.names[column]] > (1 - LEVEL) / len(self.names):
            return "calibrated"
        u = self.ranks[:, column]
        shift = (u.mean() - MEAN) / np.sqrt(VARIANCE / len(u))
        excess = (u.var() - VARIANCE) / np.sqrt(1 / 180 / len(u))  # the variance of (u - 1/2)^2
        words = []
        if abs(shift) > ERRORS:
            words.append("too low" if shift > 0 else "too high")
        if abs(excess) > ERRORS:
            words.append("too narrow" if excess > 0 else "too wide")
        return ", ".join(words) or "uneven"

    def plot(self, names: Sequence[str] | str | None = None, axes: Any = None) -> NDArray[Any]:
        """Draw for each coordinate the histogram of ranks, and their distribution function.

        The function is drawn less the uniform one. All of it is within the grey band in 99 of 100
        sets of calibrated ranks, and a bar of the histogram within its own.

        Parameters
        ----------
        names
            Names of coordinates; by default the first 8.
        axes
            Matplotlib axes to draw on, two for each coordinate; a new figure by default.

        Returns
        -------
        NDArray
            The axes (2, K).

        Raises
        ------
        ImportError
            If Matplotlib is not installed, which comes with ``advi-engine[plots]``.
        TypeError, ValueError
            If a name is unknown, or `axes` are too many or too few.
        """
        chosen, note = self.names[:MOST], ""
        if names is not None:
            chosen = tuple(check_names("names", names))
            for name in chosen:
                if name not in self.names:
                    raise ValueError(f"names: {unknown('coordinate', name, self.names)}")
        elif len(self.names) > MOST:
            note = f"{MOST} of {len(self.names)} coordinates; choose with names=[...]"
        columns = [self.names.index(name) for name in chosen]
        return plot_calibration(chosen, self.ranks[:, columns], LEVEL, note, axes)

    def __repr__(self) -> str:
        words = self.verdict
        wrong = {name: word for name, word in words.items() if word != "calibrated"}
        lines = [
            f"Calibration: {len(self.ranks)} simulated data sets, {len(self.names)} coordinates"
        ]
        if self.failed:
            lines.append(f"left out: {len(self.failed)} without a reliable fit")
        if not wrong:
            lines.append(f"calibrated: all; smallest p-value {min(self.p_values.values()):.2g}")
        for name, word in list(wrong.items())[:NAMED]:
            lines.append(f"{name}: {word}, p-value {self.p_values[name]:.2g}")
        return "\n".join(lines)
