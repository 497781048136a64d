"""The data sets that come with scikit-learn, split and standardised for the regressions here."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.2


class Split(NamedTuple):
    """Training and held-out rows of one data set."""

    train: dict[str, NDArray[Any]]  # "x" (N, P) standardised predictors, "y" (N,) responses
    test: dict[str, NDArray[Any]]  # the same, by the training rows' means and sds
    names: tuple[str, ...]  # of the P predictors
    description: str  # what was loaded, one line


def datasets() -> ModuleType:
    """Return `sklearn.datasets`.

    Raises
    ------
    ImportError
        If scikit-learn is not installed; the message says how to install it.
    """
    try:
        import sklearn.datasets  # only these models need it
    except ImportError:
        raise ImportError(
            'This model reads data that scikit-learn brings: pip install "advi-engine[test]".'
        ) from None
    return sklearn.datasets


def split(bunch: Any, title: str, seed: int = 0) -> Split:
    """Hold out a fifth of the rows, and standardise the predictors by the training rows.

    Parameters
    ----------
    bunch
        What one of `sklearn.datasets`' loaders returned.
    title
        The data set in words.
    seed
        Seed of the permutation that picks the rows held out.
    """
    x, y = np.asarray(bunch.data, float), np.asarray(bunch.target)
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, kept = np.split(order, [round(HELD_OUT * len(x))])
    mean, sd = x[kept].mean(0), x[kept].std(0)
    x = (x - mean) / sd
    return Split(
        train={"x": x[kept], "y": y[kept]},
        test={"x": x[held_out], "y": y[held_out]},
        names=tuple(bunch.feature_names),
        description=f"{title}, from scikit-learn: {len(x)} rows, {x.shape[1]} predictors; "
        f"{len(kept)} rows to fit, {len(held_out)} held out",
    )
