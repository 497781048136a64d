"""Few columns in place of very many: for chains whose convergence is watched."""

from typing import NamedTuple

import numpy as np

from advi.core.types import Floats

DIRECTIONS = 8  # of every long latent, whose sums of entries are watched


class ManyColumns(NamedTuple):
    """Columns of which some are the entries of long latents.

    Of K quantities the largest R-hat grows with K by chance. Those of a long latent are watched by
    their mean, the mean of their squares, and sums with random signs.
    """

    num: int  # K
    long: tuple[slice, ...]

    @property
    def short(self) -> np.ndarray:
        kept = np.ones(self.num, bool)
        for part in self.long:
            kept[part] = False
        return np.flatnonzero(kept)

    def reduced(self, columns: Floats) -> Floats:
        """Return the columns (n, K) that are watched, (n, K')."""
        parts = [columns[:, self.short]]
        for part, signs in zip(self.long, self._signs(), strict=True):
            entries = columns[:, part]
            parts += [entries @ signs.T, (entries**2).mean(1, keepdims=True)]
        return np.concatenate(parts, axis=1)

    def names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the columns that are watched."""
        found = [names[k] for k in self.short]
        for part in self.long:
            latent = names[part.start].split("[")[0]
            found += [f"the mean of {latent}", *[f"a sum of entries of {latent}"] * DIRECTIONS]
            found.append(f"the mean square of {latent}")
        return tuple(found)

    def _signs(self) -> list[Floats]:
        """Return coefficients (1 + DIRECTIONS, size) for each long latent."""
        rng = np.random.default_rng(0)
        found = []
        for part in self.long:
            size = part.stop - part.start
            signs = rng.choice([-1.0, 1.0], (DIRECTIONS, size)) / np.sqrt(size)
            found.append(np.concatenate([np.full((1, size), 1 / size), signs]))
        return found
