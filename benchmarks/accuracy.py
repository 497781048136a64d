"""How near draws are to a reference: worst difference of means, least and greatest ratio of sds."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import advi

Columns = Mapping[str, NDArray[Any]]  # scalar's name to draws (n,)
Reference = Mapping[str, tuple[float, float]]  # scalar's name to its mean and sd

DRAWS = 20_000  # draws of a fit whose moments are compared
TIGHT_SHIFT, TIGHT_RATIO = 0.1, 0.1
GOOD_SHIFT, GOOD_RATIOS = 0.25, (0.8, 1.25)  # what a verdict of "good" promises


class Errors(NamedTuple):
    """The worst of all scalars, and which they are."""

    shift: float  # |mean - reference mean| in reference sds
    shift_column: str
    least: float  # ratio of sds, the fit's over the reference's
    least_column: str
    greatest: float
    greatest_column: str

    @property
    def tight(self) -> bool:
        """Whether all means are within a tenth of an sd, and all sds within 10 %."""
        return self.shift <= TIGHT_SHIFT and (
            self.least >= 1 - TIGHT_RATIO and self.greatest <= 1 + TIGHT_RATIO
        )

    @property
    def level(self) -> str:
        """The verdict that would be right."""
        if not self.shift <= GOOD_SHIFT:
            return "poor"
        in_range = GOOD_RATIOS[0] <= self.least and self.greatest <= GOOD_RATIOS[1]
        return "good" if in_range else "means_only"

    @property
    def tolerances(self) -> float:
        """The worst error as a multiple of a tenth of an sd, or of 10 %."""
        ratio = max(1 - self.least, self.greatest - 1) / TIGHT_RATIO
        return max(self.shift / TIGHT_SHIFT, ratio)

    def __str__(self) -> str:
        return (
            f"mean of {self.shift_column} off by {self.shift:.2f} sd; sd ratios from "
            f"{self.least:.2f} ({self.least_column}) to {self.greatest:.2f} "
            f"({self.greatest_column})"
        )


def moments(columns: Columns) -> dict[str, tuple[float, float]]:
    """Return every scalar's mean and sd."""
    return {name: (float(x.mean()), float(x.std())) for name, x in columns.items()}


def read_references(file: Path) -> dict[str, Reference]:
    """Return every problem's means and sds, of a file that `benchmarks.make_references` wrote."""
    kept = json.loads(file.read_text())
    return {
        name: {k: (mean, sd) for k, (mean, sd) in made["of"].items()} for name, made in kept.items()
    }


def errors(columns: Columns, reference: Reference) -> Errors:
    """Compare draws with the reference's means and sds; moments that are not finite are infinite.

    Parameters
    ----------
    columns
        Draws of at least the reference's scalars.
    reference
        Means and sds.
    """
    names = list(reference)
    with np.errstate(over="ignore", invalid="ignore"):
        ours = np.array([moments({name: columns[name]})[name] for name in names])
    theirs = np.array([reference[name] for name in names])
    shifts = np.abs(ours[:, 0] - theirs[:, 0]) / theirs[:, 1]
    ratios = ours[:, 1] / theirs[:, 1]
    shifts, ratios = (np.where(np.isfinite(x), x, np.inf) for x in (shifts, ratios))
    at = [int(shifts.argmax()), int(ratios.argmin()), int(ratios.argmax())]
    return Errors(
        float(shifts[at[0]]), names[at[0]],
        float(ratios[at[1]]), names[at[1]],
        float(ratios[at[2]]), names[at[2]],
    )  # fmt: skip


def errors_of(
    fit: advi.Fit, columns: Callable[[Any], Columns], reference: Reference
) -> tuple[Errors, Errors, str]:
    """Return a fit's errors, those of its corrected moments, and the verdict on the latter.

    Parameters
    ----------
    fit
        The fit.
    columns
        From draws of the latents to draws of the reference's scalars.
    reference
        Means and sds.
    """
    corrected = fit.corrected()
    plain, better = (errors(columns(f.sample(DRAWS)), reference) for f in (fit, corrected))
    return plain, better, corrected.verdict.level
