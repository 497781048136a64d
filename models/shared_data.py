"""Reading the folder of shared data: tables as CSV files, gzipped or not, with NumPy alone."""

import csv
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "SHARED_DATA"
FOLDERS = ("rdata", "election88")

Columns = dict[str, NDArray[Any]]


def find_data(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of shared data.

    Parameters
    ----------
    root
        The folder; by default what the environment variable ``SHARED_DATA`` names.

    Raises
    ------
    FileNotFoundError
        If neither names such a folder.
    """
    given = root if root is not None else os.environ.get(VARIABLE)
    if given and all((Path(given) / folder).is_dir() for folder in FOLDERS):
        return Path(given)
    raise FileNotFoundError(
        f"shared data: got {given or 'no folder'}; expected one with {' and '.join(FOLDERS)}. "
        f"Name it with --data or the environment variable {VARIABLE}."
    )


def find_named_data(root: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of shared data, or None where nothing names one.

    Raises
    ------
    FileNotFoundError
        If `root` or the environment variable names what is no such folder.
    """
    if root is None and not os.environ.get(VARIABLE):
        return None
    return find_data(root)


def read(root: Path | None, table: str) -> Columns:
    """Return a table's columns, as text.

    Parameters
    ----------
    root
        The folder of shared data.
    table
        A path in it without the suffix.

    Raises
    ------
    FileNotFoundError
        If there is no folder, or it lacks the table.
    """
    if root is None:
        raise FileNotFoundError("no folder of shared data")
    zipped, plain = (root / f"{table}.csv{suffix}" for suffix in (".gz", ""))
    with gzip.open(zipped, "rt") if zipped.exists() else plain.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def keep(columns: Columns, rows: NDArray[np.bool_]) -> Columns:
    """Return the rows that are marked."""
    return {name: column[rows] for name, column in columns.items()}


def codes(column: NDArray[Any]) -> tuple[NDArray[np.intp], int]:
    """Return every row's level, from zero in the order of first appearance, and their number."""
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse], len(first)


def scale(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return columns of mean zero and sd one."""
    x = np.asarray(x, float)
    return (x - x.mean(0)) / x.std(0)
