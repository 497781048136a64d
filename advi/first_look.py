"""What the first random points of a fit tell about its log density, before it goes on."""

from collections.abc import Callable

from advi.density import Density
from advi.flat import Floats, flat_entries, sentence, unmoved
from advi.slopes import mismatches, sentences


class FirstLook:
    """A look at a log density that refuses flat entries and remembers other faults.

    Parameters
    ----------
    density
        Log density on R^D.
    all_rows
        The log density of all rows at points (n, D), where `density` is that of some: an entry
        may be used by other rows alone.

    Attributes
    ----------
    alarms
        What speaks against the log density, a sentence each.
    """

    def __init__(
        self, density: Density, all_rows: Callable[[Floats], Floats] | None = None
    ) -> None:
        self._density, self._all_rows = density, all_rows
        self.alarms: tuple[str, ...] = ()

    def __call__(self, X: Floats, values: Floats, gradients: Floats) -> None:
        """Look at points (n, D), with the log densities (n,) and gradients (n, D) there.

        Raises
        ------
        ValueError
            If some entries of latents do not change the log density.
        """
        density = self._density
        flat = flat_entries(density, X, values, gradients)
        if len(flat) and self._all_rows is not None:
            flat = unmoved(self._all_rows, density, X[:1], flat)
        if len(flat):
            raise ValueError(sentence(density.model, flat.tolist()))
        self.alarms = sentences(mismatches(density, X, values, gradients))
