"""Latents, supports, transforms and families as JSON, without code.

A file names a class by a word of a closed vocabulary, with its fields. Reading imports nothing:
the caller passes its own classes.
"""

import dataclasses
import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions import transforms as numpyro_transforms

from advi import transforms
from advi.core.arrays import on_host
from advi.core.errors import describe
from advi.model.latents import Latent
from advi.variational.block import Block
from advi.variational.full_rank import FullRank
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.per_row import PerRow
from advi.variational.point import Point
from advi.variational.sparse_precision import SparsePrecision
from advi.variational.triangular import Triangular

NUMPYRO = (constraints.Constraint, numpyro_transforms.Transform)


def _classes() -> dict[str, type]:
    own = (*(getattr(transforms, name) for name in transforms.__all__),
           FullRank, LowRank, MeanField, Mixture, Point, SparsePrecision, Triangular, PerRow,
           Block,
           Latent)  # fmt: skip
    theirs = (c for module in (constraints, numpyro_transforms) for c in vars(module).values())
    return {c.__name__: c for c in own if dataclasses.is_dataclass(c)} | {
        f"numpyro.{c.__name__}": c for c in theirs if isinstance(c, type) and issubclass(c, NUMPYRO)
    }


CLASSES: Mapping[str, type] = _classes()
WORDS = {cls: word for word, cls in CLASSES.items()}


def word_of(cls: type) -> str:
    """Return the word for a class, or the module and name of a class outside the vocabulary."""
    return WORDS.get(cls, f"{cls.__module__}.{cls.__qualname__}")


def to_data(value: Any) -> Any:
    """Return a value as JSON can express it; TypeError if a part, such as a function, has no form.

    Parts are numbers, text, arrays, dicts, lists, tuples, NumPyro constraints and transforms, and
    frozen dataclasses.

    Examples
    --------
    >>> to_data(transforms.HalfLine(2.0))["fields"]
    {'bound': 2.0, 'below': False, 'link': 'exp'}
    >>> from_data(to_data(transforms.HalfLine(2.0)))
    HalfLine(bound=2.0, below=False, link='exp')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return {type(value).__name__: [to_data(item) for item in value]}
    if type(value) is dict and all(isinstance(key, (str, int)) for key in value):
        return {"dict": [[key, to_data(item)] for key, item in value.items()]}
    if isinstance(value, (np.ndarray, jax.Array)):
        array = on_host(value)
        if array.dtype.kind in "biuf" and np.isfinite(array).all():
            return {"array": array.tolist(), "dtype": array.dtype.name}
    if isinstance(value, NUMPYRO):
        # a transform caches its inverse by a weak reference
        fields = {k: v for k, v in vars(value).items() if not isinstance(v, weakref.ref)}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    else:
        raise TypeError(
            f"got {describe(value)}, which a file cannot hold: it holds finite numbers, text, "
            "dicts, lists, tuples, and the settings of supports, transforms and families, no code."
        )
    fields = {name: to_data(item) for name, item in fields.items()}
    return {"class": word_of(type(value)), "fields": fields}


def from_data(data: Any, known: Iterable[type] = ()) -> Any:
    """Return the value of `to_data`; `known` are classes outside the vocabulary.

    Raises TypeError, ValueError, KeyError or AttributeError for other data and unknown classes.
    """
    value = _value(data, {**CLASSES, **{word_of(cls): cls for cls in known}})
    if to_data(value) != data:
        raise ValueError(f"{describe(data)} is not how {describe(value)} is written")
    return value


def _value(data: Any, classes: Mapping[str, type]) -> Any:
    match data:
        case {"tuple": list(items)}:
            return tuple(_value(item, classes) for item in items)
        case {"list": list(items)}:
            return [_value(item, classes) for item in items]
        case {"dict": list(pairs)}:
            return {key: _value(item, classes) for key, item in pairs}
        case {"array": items, "dtype": "bool" | "int32" | "int64" | "float32" | "float64" as dtype}:
            return np.array(items, dtype)
        case {"class": str(word), "fields": dict(written)}:
            if word not in classes:
                raise ValueError(
                    f"it names the class {word}, which is not part of advi, and a file brings no "
                    f"code. Pass the class: advi.load(path, known=[{word.rpartition('.')[2]}])."
                )
            cls = classes[word]
            fields = {name: _value(item, classes) for name, item in written.items()}
            if issubclass(cls, NUMPYRO):
                # classes without fields are singletons
                made = object.__new__(cls) if fields else cls.__new__(cls)
                vars(made).update(fields)
                return made
            return cls(**fields)
    if isinstance(data, (dict, list)):
        raise ValueError(f"{describe(data)} is no value")
    return data
