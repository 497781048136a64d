"""A fit for pickle: the content of its file, and the classes of the user's that it needs."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advi.posterior.record import FitRecord
from advi.results.codec import is_known, is_of_numpyro
from advi.results.storage import save
from advi.results.stored_fit import read_record

# the content of the file, classes, and the latents' tree of names if a file cannot hold its nodes
State = tuple[bytes, tuple[type, ...], Any]


def to_state(record: FitRecord) -> State:
    """Return what `of_state` makes the fit of; errors are those of `Fit.save`."""
    posterior = record.posterior
    parts = [latent.bijection for latent in posterior.model.latents.values()]
    parts += [latent.constraint for latent in posterior.model.latents.values()]
    classes = set(_own_classes([*parts, *(block.family for block in posterior.guide.blocks)]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fit")
        save(record, path)
        found = tuple(sorted(classes, key=lambda cls: cls.__qualname__))
        return path.read_bytes(), found, posterior.model.own_nodes


def of_state(state: State) -> FitRecord:
    """Return the record of a fit, without its model and data."""
    content, classes, *like = state  # the third was not there at first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fit")
        path.write_bytes(content)
        return read_record(path, classes, "a pickle", *like)


def _own_classes(value: Any) -> Iterator[type]:
    """Yield the classes outside of the vocabulary of files, of a value and its parts."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _own_classes(item)
    elif isinstance(value, dict):
        yield from _own_classes(list(value.values()))
    elif is_of_numpyro(value) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        if not is_known(type(value)):
            yield type(value)
        yield from _own_classes(list(vars(value).values()))
