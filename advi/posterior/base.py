"""The posterior approximation: a variational distribution together with its data."""

from collections.abc import Callable
from typing import Any, Protocol

from jax import Array
from numpy.typing import NDArray

from advi.core.draw_set import PROBS, DrawSet, Names, WeightedDraws
from advi.core.status import Estimate
from advi.core.table import Table
from advi.model.density import Density
from advi.model.model import Model
from advi.variational.guide import Guide


class Posterior(Protocol):
    """Draws, densities, moments and the ELBO of q; `GlobalPosterior` and `LocalPosterior` are."""

    @property
    def guide(self) -> Guide: ...
    @property
    def params(self) -> Any: ...
    @property
    def density(self) -> Any: ...  # of the model and its data; None at rows other than the fit's
    @property
    def weighted(self) -> WeightedDraws | None: ...  # draws nearer to the posterior than q's
    @property
    def model(self) -> Model: ...
    @property
    def float_dtype(self) -> str: ...

    def on(self, data: Any) -> "Posterior":
        """Return the approximation at other data of the same form, or with None at its own."""
        ...

    def sample(self, num: int, key: Any) -> dict[str, NDArray]:
        """Return constrained draws by name, ``(num, *shape)``, deterministic quantities beside."""
        ...

    def moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        """Return what `reduce` makes of the draws that moments are computed from, by name."""
        ...

    def summary(
        self,
        names: Names = None,
        sort: str | None = None,
        top: int | None = None,
        probs: Any = PROBS,
    ) -> Table:
        """Return moments and quantiles of the scalar coordinates that a table shows."""
        ...

    def log_prob(self, z: Any) -> Array:
        """Return log q of constrained values, nats."""
        ...

    def elbo(self, seed: int) -> Estimate:
        """Return the ELBO on fresh draws, nats."""
        ...


def density_of(posterior: Posterior) -> Density:
    """Return the log density of an approximation at the data of its fit."""
    assert posterior.density is not None
    return posterior.density
