"""A table of parameters: every data row has its own."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from advi.variational.family import GaussianFamily, RowFamily, check_base
from advi.variational.mean_field import MeanField
from advi.variational.scale import DiagonalScale


@dataclass(frozen=True)
class PerRow(RowFamily):
    """A table of parameters: each data row has its own, of a base family.

    The default for local latents where an optimiser takes the steps. A step moves the parameters,
    and the optimiser's state, of the rows in its batch only, so its cost does not grow with the
    number of rows.

    Parameters
    ----------
    base
        Family of one row's latents.

    References
    ----------
    Hoffman, Blei, Wang & Paisley (2013), Stochastic Variational Inference, section 2.

    Examples
    --------
    >>> PerRow().initial(np.zeros((3, 2)), np.ones(2)).log_sd.shape
    (3, 2)
    """

    base: GaussianFamily = field(default_factory=MeanField)

    def __post_init__(self) -> None:
        check_base("PerRow", self.base)

    def initial(self, loc: NDArray, sd: NDArray) -> Any:
        one = self.base.from_gaussian(np.zeros(len(sd)), DiagonalScale(sd))
        table = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(loc), *leaf.shape)), one)
        return table._replace(loc=loc)

    def at_rows(self, params: Any, batch: Any, axes: Any) -> Any:
        return params
