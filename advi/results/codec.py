"""Latents, supports, transforms and families as JSON, without code.

A file names a class by a word of a closed vocabulary, with its fields. Reading imports nothing:
the caller passes its own classes.
"""

import dataclasses
import math
import weakref
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import jax
import numpy as np

from advi import transforms
from advi.core.arrays import on_host
from advi.core.errors import describe
from advi.core.lazy import known_class
from advi.model.latents import Latent
from advi.transforms.constraints import CONSTRAINT, KINDS, NamedConstraint
from advi.variational.block import Block
from advi.variational.full_rank import FullRank
from advi.variational.low_rank import LowRank
from advi.variational.mean_field import MeanField
from advi.variational.mixture import Mixture
from advi.variational.per_row import PerRow
from advi.variational.point import Point
from advi.variational.sparse_precision import SparsePrecision
from advi.variational.triangular import Triangular

# NumPyro's classes that a file may name
MODULES = ("numpyro.distributions.constraints", "numpyro.distributions.transforms")
BASES = (CONSTRAINT, f"{MODULES[1]}.Transform")


def _own_classes() -> dict[str, type]:
    own = (*(getattr(transforms, name) for name in transforms.__all__),
           FullRank, LowRank, MeanField, Mixture, Point, SparsePrecision, Triangular, PerRow,
           Block,
           Latent)  # fmt: skip
    return {c.__name__: c for c in own if dataclasses.is_dataclass(c)}


CLASSES: Mapping[str, type] = _own_classes()
WORDS = {cls: word for word, cls in CLASSES.items()}
NAMED = {f"numpyro.{NamedConstraint(name).class_name}": name for name in KINDS}


@cache
def _numpyro_classes() -> dict[str, type]:
    """Return NumPyro's constraints and transforms by the words for them."""
    modules = [import_module(name) for name in MODULES]
    bases = tuple(map(known_class, BASES))
    found = (c for module in modules for c in vars(module).values())
    return {
        f"numpyro.{c.__name__}": c for c in found if isinstance(c, type) and issubclass(c, bases)
    }


def is_of_numpyro(value: Any) -> bool:
    """Return whether a value is a constraint or a transform of NumPyro's, or of its kind."""
    return isinstance(value, tuple(map(known_class, BASES)))


def is_known(cls: type) -> bool:
    """Return whether a class is part of the vocabulary."""
    return cls in WORDS or cls is NamedConstraint or cls.__module__ in MODULES


def word_of(cls: type) -> str:
    """Return the word for a class, or the module and name of a class outside the vocabulary."""
    module = "numpyro" if cls.__module__ in MODULES else cls.__module__
    return WORDS.get(cls, f"{module}.{cls.__qualname__}")


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
    word = word_of(type(value))
    if isinstance(value, NamedConstraint):
        word, fields = f"numpyro.{value.class_name}", value.attributes
    elif is_of_numpyro(value):
        # a transform caches its inverse by a weak reference
        fields = {k: v for k, v in vars(value).items() if not isinstance(v, weakref.ref)}
    elif isinstance(value, Latent):
        names = ("shape", "local", "transform", "init")
        fields = {"support": value.constraint, **{name: getattr(value, name) for name in names}}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    else:
        raise TypeError(
            f"got {describe(value)}, which a file cannot hold: it holds finite numbers, text, "
            "dicts, lists, tuples, and the settings of supports, transforms and families, no code."
        )
    fields = {name: to_data(item) for name, item in fields.items()}
    return {"class": word, "fields": fields}


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
            if word.startswith("numpyro."):
                classes = {**_numpyro_classes(), **classes}
            if word not in classes:
                raise ValueError(
                    f"it names the class {word}, which is not part of advi, and a file brings no "
                    f"code. Pass the class: advi.load(path, known=[{word.rpartition('.')[2]}])."
                )
            cls: Any = classes[word]
            part = _of_latent if cls is Latent else _value
            fields = {name: part(item, classes) for name, item in written.items()}
            if issubclass(cls, tuple(map(known_class, BASES))):
                # classes without fields are singletons
                made = object.__new__(cls) if fields else cls.__new__(cls)
                vars(made).update(fields)
                return made
            return cls(**fields)
    if isinstance(data, (dict, list)):
        raise ValueError(f"{describe(data)} is no value")
    return data


def _of_latent(data: Any, classes: Mapping[str, type]) -> Any:
    """Return a field of a latent; its support without an import of NumPyro, where that is known."""
    match data:
        case {"class": str(word), "fields": dict(written)} if word in NAMED:
            if tuple(written) == KINDS[NAMED[word]].attributes:
                fields = {name: _value(item, classes) for name, item in written.items()}
                return NamedConstraint(NAMED[word], fields)
    return _value(data, classes)
