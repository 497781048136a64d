"""A family and the latents that it covers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from advi.core.arrays import on_host
from advi.core.identity import is_of_advi
from advi.variational.amortised import Amortised
from advi.variational.family import Family, RowFamily
from advi.variational.full_rank import FullRank
from advi.variational.gaussian import Gaussian
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.per_row import PerRow
from advi.variational.sparse_precision import SparsePrecision
from advi.variational.triangular import Triangular

NAMED_FAMILIES: Mapping[str, Family] = {
    "mean_field": MeanField(),
    "full_rank": FullRank(),
    "low_rank": LowRank(),
    "triangular": Triangular(),
    "mixture": Mixture(),
    "sparse": SparsePrecision(),
}


@dataclass(frozen=True)
class Block:
    """Latents covered by one family, in the model's order."""

    names: tuple[str, ...]
    family: Family | RowFamily  # of all their coordinates; of local latents a `RowFamily`

    @property
    def local(self) -> bool:
        """Whether every data row has its own parameters."""
        return isinstance(self.family, RowFamily)

    @property
    def base(self) -> Family:
        """Family of one vector: of all coordinates, or of one row's in a local block."""
        return self.family.base if isinstance(self.family, RowFamily) else self.family

    def init(self, gaussian: Gaussian, seed: int, number: int) -> Any:
        """Return the parameters of a family that is no Gaussian, near one, by two random words."""
        family: Any = self.family
        if is_of_advi(family):  # none of which draws anything, and a key takes four programs
            return family.init(gaussian)
        return family.init(gaussian, jax.random.fold_in(jax.random.key(seed), number))

    def on_host(self, params: Any, dtype: Any) -> Any:
        """Return parameters as host arrays of a float type; a sparse precision keeps its own."""
        if isinstance(self.base, SparsePrecision):
            return params
        return jax.tree.map(lambda leaf: on_host(leaf, dtype), params)

    def over_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of one vector's parameters, mapped over the rows of a local block."""
        return jax.vmap(function) if self.local else function


def family_name(family: Family | RowFamily) -> str:
    """Return the name of a family as it is printed."""
    if isinstance(family, PerRow):
        return f"{family_name(family.base)} per row"
    if isinstance(family, Amortised):
        return f"amortised {family_name(family.base)}"
    if isinstance(family, LowRank):
        return f"low_rank({family.rank})"
    if isinstance(family, Triangular):
        return "triangular"
    if isinstance(family, Mixture) and family.components:
        return f"mixture({family.components})"
    names = {repr(known): name for name, known in NAMED_FAMILIES.items()}
    return names.get(repr(family), type(family).__name__.lower())
