"""What a model file here gives: a function from a posterior's raw data to its `Problem`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import advi

Arrays = dict[str, NDArray[Any]]
Raw = Mapping[str, NDArray[Any]]  # the data as posteriordb has it, every entry a float array
Draws = Mapping[str, Any]  # a parameter's name to its value, or to draws (n, *shape)


def as_sampled(z: Draws) -> Draws:
    """Return the latents: most posteriors' parameters are the latents themselves."""
    return z


class Problem(NamedTuple):
    """A model, its data, and how its latents are called in the reference draws."""

    model: advi.Model
    data: Arrays
    parameters: Callable[[Draws], Draws] = as_sampled  # draws of latents -> of named parameters


def scalar_columns(parameters: Draws) -> Arrays:
    """Split draws of parameters into draws of scalars, named as Stan names them.

    Parameters
    ----------
    parameters
        Name to draws (n, *shape).

    Returns
    -------
    dict
        Name of every scalar, indices from one, to its draws (n,), float64.

    Examples
    --------
    >>> list(scalar_columns({"beta": np.zeros((5, 2)), "sigma": np.ones(5)}))
    ['beta[1]', 'beta[2]', 'sigma']
    """
    columns = {}
    for name, draws in parameters.items():
        draws = np.asarray(draws, np.float64)
        for index in np.ndindex(draws.shape[1:]):
            label = "[" + ",".join(str(i + 1) for i in index) + "]" if index else ""
            columns[name + label] = draws[:, *index]
    return columns
