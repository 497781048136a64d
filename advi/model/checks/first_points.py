"""Checks of a log density at the first random points of a fit, before it goes on."""

from collections.abc import Callable

from advi.core.types import Floats
from advi.model.checks.flat import flat_by_values, flat_entries, sentence, unmoved
from advi.model.checks.gradients import mismatches, sentences
from advi.model.density import Density


class UsedElsewhereError(Exception):
    """Some entries of latents are used by other rows alone: these have no posterior of theirs."""


class FirstPoints:
    """Checks of a log density at the first points of a fit; flat entries are refused.

    `all_rows` is the log density of all rows at points (n, D), where `density` is that of some: an
    entry may be used by other rows alone.
    """

    def __init__(
        self, density: Density, all_rows: Callable[[Floats], Floats] | None = None
    ) -> None:
        self._density, self._all_rows = density, all_rows
        self.alarms: tuple[str, ...] = ()  # other faults, a sentence each

    def __call__(self, X: Floats, values: Floats, gradients: Floats) -> None:
        """Check points (n, D), with the log densities (n,) and gradients (n, D) there.

        ValueError if some entries of latents do not change the log density; UsedElsewhereError
        if they change that of all rows.
        """
        density = self._density
        some = flat = flat_entries(density, X, values, gradients)
        if len(flat) and self._all_rows is not None:
            flat = unmoved(self._all_rows, density, X[:1], flat)
        if len(flat):
            raise ValueError(sentence(density.model, flat.tolist()))
        if len(some):
            raise UsedElsewhereError
        self.alarms = sentences(mismatches(density, X, values, gradients))


def refuse_unmoved(density: Density, x: Floats) -> None:
    """Raise ValueError if entries do not change a log density, finite at x (D,), by its values."""
    flat = flat_by_values(density, x)
    if len(flat):
        raise ValueError(sentence(density.model, flat.tolist()))
