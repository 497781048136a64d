"""Reading a checkout of posteriordb, with NumPy alone."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from models.posteriordb.definition import Arrays

VARIABLE = "POSTERIORDB"
FOLDER = "posterior_database"


def find_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the ``posterior_database`` folder of a checkout.

    Parameters
    ----------
    root
        The checkout, or its ``posterior_database`` folder; by default what the environment
        variable ``POSTERIORDB`` names.

    Raises
    ------
    FileNotFoundError
        If neither names a checkout.
    """
    given = root if root is not None else os.environ.get(VARIABLE)
    if given:
        for folder in (Path(given) / FOLDER, Path(given)):
            if (folder / "posteriors").is_dir():
                return folder
    raise FileNotFoundError(
        f"posteriordb: got {given or 'no folder'}; expected a checkout of it. "
        "Run `git clone https://github.com/stan-dev/posteriordb` and name that folder with "
        f"--posteriordb or the environment variable {VARIABLE}."
    )


def read_data(root: Path, posterior: str) -> Arrays:
    """Return a posterior's data, every entry a float64 array."""
    name = _read(root / "posteriors" / posterior)["data_name"]
    raw = _read(root / "data" / "data" / name)
    return {key: np.asarray(value, np.float64) for key, value in raw.items()}


def read_draws(root: Path, posterior: str) -> Arrays:
    """Return a posterior's reference draws, scalar's name to (n,), all chains one after another."""
    name = _read(root / "posteriors" / posterior)["reference_posterior_name"]
    chains = _read(root / "reference_posteriors" / "draws" / "draws" / name)
    return {key: np.concatenate([chain[key] for chain in chains]) for key in chains[0]}


def _read(stem: Path) -> Any:
    """Return what ``stem.json`` holds, or ``stem.json.zip`` where the file is compressed."""
    plain, zipped = (stem.with_name(stem.name + suffix) for suffix in (".json", ".json.zip"))
    if plain.exists():
        return json.loads(plain.read_text("utf-8"))
    with zipfile.ZipFile(zipped) as archive:
        return json.loads(archive.read(archive.namelist()[0]))
