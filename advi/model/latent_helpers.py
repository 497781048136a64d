"""Functions for latents, named by support: `real`, `positive` and the others."""

from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from advi.core.params import check_params
from advi.model.latent_tree import Empty
from advi.model.latents import Latent
from advi.transforms import constraints
from advi.transforms.constraints import NamedConstraint

Bound = float | NDArray[Any] | Array
Init = ArrayLike | None


def _latent(support: Any, shape: Any, local: bool, transform: Any, init: Any) -> Latent:
    return Latent(support, shape, local=local, transform=transform, init=init)


def real(*shape: int, local: bool = False, transform: Any = None, init: Init = None) -> Latent:
    """Real numbers.

    Examples
    --------
    >>> real(8).size
    8
    """
    return _latent(constraints.REAL, shape, local, transform, init)


def positive(*shape: int, local: bool = False, transform: Any = None, init: Init = None) -> Latent:
    """Positive numbers, by ``exp``; ``transform="softplus"`` is the other choice."""
    return _latent(constraints.POSITIVE, shape, local, transform, init)


def interval(
    low: Bound,
    high: Bound,
    *shape: int,
    local: bool = False,
    transform: Any = None,
    init: Init = None,
) -> Latent:
    """Numbers between `low` and `high`."""
    return _latent(constraints.interval(low, high), shape, local, transform, init)


def greater_than(
    low: Bound, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Numbers above `low`."""
    return _latent(constraints.greater_than(low), shape, local, transform, init)


def less_than(
    high: Bound, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Numbers below `high`."""
    return _latent(constraints.less_than(high), shape, local, transform, init)


def unit_interval(
    *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Numbers between 0 and 1."""
    return _latent(constraints.UNIT_INTERVAL, shape, local, transform, init)


def simplex(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """`k` positive numbers that sum to one; value of shape ``(*shape, k)``.

    Examples
    --------
    >>> latent = simplex(3, 5)
    >>> latent.shape, latent.size
    ((5, 3), 10)
    """
    return _latent(NamedConstraint("simplex"), (*shape, k), local, transform, init)


def ordered(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """`k` increasing numbers; value of shape ``(*shape, k)``."""
    return _latent(NamedConstraint("ordered_vector"), (*shape, k), local, transform, init)


def positive_ordered(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """`k` increasing positive numbers; value of shape ``(*shape, k)``."""
    support = NamedConstraint("positive_ordered_vector")
    return _latent(support, (*shape, k), local, transform, init)


def corr_cholesky(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Lower Cholesky factor of a correlation matrix; value of shape ``(*shape, k, k)``."""
    return _latent(NamedConstraint("corr_cholesky"), (*shape, k, k), local, transform, init)


def corr_matrix(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Correlation matrix; value of shape ``(*shape, k, k)``."""
    return _latent(NamedConstraint("corr_matrix"), (*shape, k, k), local, transform, init)


def cov_matrix(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Positive definite matrix; value of shape ``(*shape, k, k)``."""
    return _latent(NamedConstraint("positive_definite"), (*shape, k, k), local, transform, init)


def scale_tril(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Lower triangular matrix with positive diagonal; value of shape ``(*shape, k, k)``."""
    return _latent(NamedConstraint("lower_cholesky"), (*shape, k, k), local, transform, init)


def zero_sum(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """`k` numbers that sum to zero; value of shape ``(*shape, k)``."""
    return _latent(constraints.ZERO_SUM, (*shape, k), local, transform, init)


def unit_vector(
    k: int, *shape: int, local: bool = False, transform: Any = None, init: Init = None
) -> Latent:
    """Point on the unit sphere in `k` dimensions; value of shape ``(*shape, k)``."""
    return _latent(NamedConstraint("sphere"), (*shape, k), local, transform, init)


def circular(*shape: int, local: bool = False, transform: Any = None, init: Init = None) -> Latent:
    """Angles in [-pi, pi) that wrap around."""
    return _latent(constraints.CIRCULAR, shape, local, transform, init)


def tree(pytree: Any) -> Any:
    """Real latents shaped like the leaves of a pytree, which are also their initial values.

    Parameters
    ----------
    pytree
        Pytree of arrays of floats, for example the parameters of a network. A None in it stays
        a None in the values.

    Returns
    -------
    pytree
        The same tree with a `Latent` for every array.

    Raises
    ------
    TypeError
        If a leaf is something else.

    Examples
    --------
    >>> tree({"w": np.zeros((2, 3))})["w"].shape
    (2, 3)
    """
    check_params("tree", pytree)
    return jax.tree.map(
        lambda leaf: Empty() if leaf is None else real(*np.shape(leaf), init=leaf),
        pytree,
        is_leaf=lambda node: node is None,
    )
