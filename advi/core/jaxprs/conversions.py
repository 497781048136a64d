"""Constants of traces that JAX converted from NumPy arrays, such as float64 ones to float32.

JAX keeps a converted copy as long as anything refers to it, and takes it again for the same array,
even if its contents have changed. Its cache of traces refers to such copies for good.
"""

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import jax.extend.core as jex_core
import numpy as np

from advi.core.jaxprs.equality import constants, inner_jaxprs

REACHABLE = ("jit", "pjit", "closed_call")  # their bodies are the ones kept

_copies: "weakref.WeakValueDictionary[int, np.ndarray]" = weakref.WeakValueDictionary()


def forget_conversions(jaxpr: Any) -> bool:
    """Make JAX convert a closed jaxpr's constants afresh, by putting equal copies in their place.

    Returns whether some constant may be of an earlier trace, and no longer what the array holds.
    """
    earlier = any(_copies.get(id(c)) is c for c in _values(jaxpr))
    copies = {id(c): c.copy() for c in _values(jaxpr) if _is_conversion(c)}
    if not copies:
        return earlier
    _copies.update((id(copy), copy) for copy in copies.values())
    values = tuple(c for c in _values(jaxpr) if id(c) in copies)
    own = {id(holder) for holder in _holders(jaxpr)}
    holders = list(_holders(jaxpr))
    if any(_is_kept_elsewhere(eqn) for eqn in _equations(jaxpr)):
        holders = gc.get_referrers(*values)  # goes through all of Python's objects
    for holder in holders:
        if isinstance(holder, list):
            holder[:] = [copies.get(id(item), item) for item in holder]
        elif isinstance(holder, jex_core.Literal):
            holder.val = copies.get(id(holder.val), holder.val)
        else:
            continue
        earlier |= id(holder) not in own
    return earlier


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a jaxpr and its inner ones."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for part in inner_jaxprs(eqn):
            yield from _equations(part)


def _is_kept_elsewhere(eqn: Any) -> bool:
    """Return whether JAX keeps a trace of the body that is not reachable from the equation.

    Its caches for loops, checkpoints and rules of differentiation do.
    """
    return eqn.primitive.name not in REACHABLE and any(True for _ in inner_jaxprs(eqn))


def _is_conversion(value: Any) -> bool:
    """Return whether a constant is a view of memory that nothing else refers to."""
    return (
        isinstance(value, np.ndarray)
        and value.base is not None
        and sys.getrefcount(value.base) <= 2  # the view, and this call
    )


def _holders(jaxpr: Any) -> Iterator[Any]:
    """Yield the references to constants: lists of a jaxpr and its inner ones, and literals."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    yield constants(jaxpr)
    for eqn in inner.eqns:
        yield from (v for v in eqn.invars if isinstance(v, jex_core.Literal))
        for part in inner_jaxprs(eqn):
            yield from _holders(part)
    yield from (v for v in inner.outvars if isinstance(v, jex_core.Literal))


def _values(jaxpr: Any) -> Iterator[Any]:
    for holder in _holders(jaxpr):
        if isinstance(holder, jex_core.Literal):
            yield holder.val
        else:
            yield from holder
