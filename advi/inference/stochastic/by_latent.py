"""Optimisers of users: they see parameters by latent, and are compared by their traces."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from advi.core.errors import describe_error, unknown
from advi.core.jax_config import mixed_dtypes
from advi.core.jaxprs.traced import traced
from advi.variational.block import Block
from advi.variational.guide import Guide
from advi.variational.mean_field import MeanField
from advi.variational.point import PointParams

# in JAX's error for a dict of labels, its keys
KEYS = re.compile(r"with (?:metadata|\d+ child keys?)\n\s*(.*)\nbut")


class _Keyed:
    """A function that is equal to another if their keys are."""

    def __init__(self, function: Any, key: Any) -> None:
        self.function, self.key = function, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def named(guide: Guide, params: tuple[Any, ...]) -> dict[str, Any]:
    """Return the parameters of a guide as a dict by latent.

    Those of a mean field are split by latent; coupled latents have one entry, named "mu, tau".
    Latents that are held have none.
    """
    found: dict[str, Any] = {}
    for block, p in zip(guide.blocks, params, strict=True):
        if _is_held(guide, block):
            continue
        entries = _entries(block)
        if len(entries) == 1:
            found[entries[0]] = p
        else:
            stops = np.cumsum([guide.model.latents[name].size for name in entries])[:-1]
            parts = zip(*(jnp.split(leaf, stops) for leaf in p), strict=True)
            pairs = zip(entries, parts, strict=True)
            found |= {name: type(p)(*leaves) for name, leaves in pairs}
    return found


def unnamed(guide: Guide, by_name: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parameters of the blocks from those by latent."""
    params = []
    for block in guide.blocks:
        if _is_held(guide, block):
            nothing = jnp.zeros(0, jax.tree.leaves(by_name)[0].dtype)
            params.append(PointParams(nothing))
            continue
        first, *others = parts = [by_name[name] for name in _entries(block)]
        if others:
            first = type(first)(*map(jnp.concatenate, zip(*parts, strict=True)))
        params.append(first)
    return tuple(params)


def _entries(block: Block) -> tuple[str, ...]:
    """Return the names under which an optimiser sees the parameters of a block."""
    return block.names if isinstance(block.family, MeanField) else (", ".join(block.names),)


def _is_held(guide: Guide, block: Block) -> bool:
    """Return whether all latents of a block are held at values: nothing moves them."""
    return set(block.names) <= guide.model.held.keys()


def as_seen(optimizer: optax.GradientTransformation, guide: Guide, flags: Any) -> Any:
    """Return a tree of flags, shaped like the parameters, as an optimiser sees these."""
    if not isinstance(optimizer.init, _Keyed):
        return flags
    found: dict[str, Any] = {}
    for block, part in zip(guide.blocks, flags, strict=True):
        if _is_held(guide, block):
            continue
        found |= dict.fromkeys(_entries(block), part)
    return found


def by_latent(
    optimizer: optax.GradientTransformation, guide: Guide, float_dtype: str
) -> optax.GradientTransformation:
    """Return an optimiser of a guide's parameters from one of a dict by latent's name.

    ``optax.partition``, ``optax.masked`` and rates by name so work. It is equal to all with the
    same trace: Optax makes new functions at every call, and a schedule may read what has changed.
    ValueError if its labels or masks do not have the names of the entries.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        # optax.tree.map_params calls it with a placeholder
        return inner.init(named(guide, params) if isinstance(params, tuple) else params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if "grad" in extra:
            extra["grad"] = named(guide, extra["grad"])
        if value_fn := extra.get("value_fn"):
            extra["value_fn"] = lambda p: value_fn(unnamed(guide, p))
        found: Any
        found, state = inner.update(named(guide, updates), state, named(guide, params), **extra)
        return unnamed(guide, found), state

    outer = optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
    start = guide.unit_params(float_dtype)
    try:
        with mixed_dtypes():
            first, opt_state = traced(outer.init, start)
            # apart from `init`, or a rate that falls would be seen at the first step alone
            later, out = traced(lambda p, s: _update(outer, p, s, total), start, opt_state)
    except (ValueError, TypeError, KeyError) as error:
        entries = named(guide, start)
        raise ValueError(
            "optimizer: it cannot be applied to the parameters, a dict with the entries "
            f"{', '.join(map(repr, entries))}; expected labels, masks and trees of "
            "rates with these names: one for each latent, a nested one by its path; one for all "
            f"coupled latents; none for a latent that is held. {_in_short(error, entries)}"
        ) from error
    key = guide, first, later, jax.tree.structure((opt_state, out))
    return optax.GradientTransformationExtraArgs(
        init=_Keyed(init, (*key, "init")),  # type: ignore[arg-type]
        update=_Keyed(update, (*key, "update")),  # type: ignore[arg-type]
    )


def _in_short(error: Exception, entries: Mapping[str, Any]) -> str:
    """Return Optax's error in one line, with the first name that is not of the entries."""
    lines = describe_error(error).splitlines()
    if not (given := KEYS.search(str(error))):
        return f"Optax: {' '.join(' '.join(lines[:3]).split())}"
    names = re.findall(r"[^\s'\"()\[\],]+", given[1])
    strange = [name for name in names if name not in ", ".join(entries).split(", ")]
    told = f" It has an {unknown('entry', strange[0], entries)}" if strange else ""
    return f"Optax: {lines[0]}.{told}"


def first_update(
    optimizer: optax.GradientTransformationExtraArgs, params: Any, value_fn: Callable[[Any], Array]
) -> tuple[Any, Any]:
    """Return an optimiser's initial state and first update, with the parameters as gradient."""
    state = optimizer.init(params)
    return state, _update(optimizer, params, state, value_fn)


def _update(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Any,
    state: Any,
    value_fn: Callable[[Any], Array],
) -> Any:
    """Return the update and the next state, with the parameters as gradient."""
    extra = {"value": jnp.zeros(()), "grad": params, "value_fn": value_fn}
    return optimizer.update(params, state, params, **extra)


def total(params: Any) -> Array:
    """Return the sum of all parameters."""
    return sum((leaf.sum() for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))
