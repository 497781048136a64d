"""Models of applied statistics with real data, and references for their means and sds.

``python -m benchmarks.real_models`` fits them by default and judges the verdicts. Some need a
folder of shared data, which ``--data`` or the environment variable ``SHARED_DATA`` names; without
it they are left out, with a word on it.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from benchmarks.problem import Problem
from benchmarks.real_models import (
    binary,
    binomial,
    counts,
    curves,
    items,
    normal_responses,
    programs,
    regressions,
    series,
)
from models.shared_data import find_data

FILE = Path(__file__).parents[1] / "real_models.json"
MODULES: tuple[Any, ...] = (
    normal_responses,
    binary,
    binomial,
    items,
    counts,
    regressions,
    curves,
    series,
    programs,
)
SHARED: dict[str, Callable[[Path | None], Problem]] = {
    make.__name__: make for module in MODULES for make in module.SHARED
}
OWN: dict[str, Callable[[], Problem]] = {
    make.__name__: make for module in MODULES for make in module.OWN
}
NAMES = (*SHARED, *OWN)


def load(
    data: str | os.PathLike[str] | None = None, names: Collection[str] = NAMES
) -> list[Problem]:
    """Return the models, without those whose data are not there.

    Parameters
    ----------
    data
        The folder of shared data; by default what the environment variable names.
    names
        Which models.

    Raises
    ------
    ValueError
        If a name is none of `NAMES`.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"unknown model {unknown[0]!r}; expected some of {', '.join(NAMES)}")
    wanted = [name for name in NAMES if name in names]
    try:
        root = find_data(data)
    except FileNotFoundError as error:
        root = None
        if skipped := [name for name in wanted if name in SHARED]:
            print(f"skipped: {', '.join(skipped)}, {error}")
    found = [SHARED[name](root) for name in wanted if name in SHARED and root is not None]
    return found + [OWN[name]() for name in wanted if name in OWN]
