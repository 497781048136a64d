"""What a posterior approximation is: a variational distribution together with its data."""

from collections.abc import Callable
from typing import Any, Protocol, Self

from jax import Array
from numpy.typing import NDArray

from advi.core.draw_set import DrawSet, WeightedDraws
from advi.core.table import Table
from advi.model.density import Density
from advi.model.model import Model
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide


class Posterior(Protocol):
    """A posterior approximation: draws, densities and moments on the constrained scale.

    Attributes
    ----------
    guide
        The variational distribution q.
    params
        Its parameters, host arrays.
    density
        The log density of the model and its data; None at rows other than those of the fit.
    weighted
        Weighted draws that are nearer to the posterior than q, from which draws and moments then
        come; None without.
    """

    guide: Guide
    params: Any
    density: Any
    weighted: WeightedDraws | None

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def float_dtype(self) -> str:
        """Float type of the fit, "float32" or "float64"."""
        ...

    @property
    def gaussian(self) -> Gaussian:
        """Mean and scale of q on R^D, or ValueError where every row has parameters of its own."""
        ...

    def on(self, data: Any) -> Self:
        """Return the approximation at other data of the same form, or with None at its own."""
        ...

    def sample(self, num: int, key: Any) -> dict[str, NDArray]:
        """Return constrained draws by name, ``(num, *shape)``, deterministic quantities beside."""
        ...

    def moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        """Return what `reduce` makes of the draws that moments are computed from, by name."""
        ...

    def summary(self) -> Table:
        """Return moments and quantiles of the scalar coordinates that a table is shown of."""
        ...

    def log_prob(self, z: Any) -> Array:
        """Return log q of constrained values, nats."""
        ...


def density_of(posterior: Posterior) -> Density:
    """Return the log density of an approximation that is at the data of its fit."""
    assert posterior.density is not None
    return posterior.density
