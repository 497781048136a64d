"""Optimisers in coordinates where q is about a standard normal."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from advi.variational.family import Family, GaussianFamily


class WhiteningState(NamedTuple):
    """State of an optimiser in whitened coordinates."""

    center: Any  # parameters of every block, which define the coordinates
    step: Array  # () steps taken
    inner: Any  # the optimiser's own state


@lru_cache(maxsize=64)
def whiten(
    optimizer: optax.GradientTransformation, families: tuple[Family, ...], in_sds: bool = True
) -> optax.GradientTransformation:
    """Return an optimiser of parameters in coordinates whitened by those it starts from.

    There a mean moves in sds of the start, along axes in which its coordinates are independent, and
    a scale moves relative to that of the start. If that is about right, one rate suits all
    coordinates whatever their units and correlations. After every power of two steps the
    coordinates are renewed, should the start have been wrong; in between they are fixed, so that
    parameters are linear in the steps, and their average is that of the steps. Without `in_sds`,
    for a start that may be many sds from the optimum, means move in the units of the real scale,
    and only scales relatively.
    """

    def moved(center: Any) -> Callable[[Any], Any]:
        def at(step: Any) -> Any:
            new = []
            for family, c, s in zip(families, center, step, strict=True):
                if not isinstance(family, GaussianFamily):
                    new.append(jax.tree.map(jnp.add, c, s))
                    continue
                p = family.moved(c, s)
                plain = not in_sds and "loc" in p._fields
                new.append(p._replace(loc=c.loc + s.loc) if plain else p)
            return tuple(new)

        return at

    def init(params: Any) -> WhiteningState:
        return WhiteningState(params, jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        updates: Any, state: WhiteningState, params: Any = None
    ) -> tuple[Any, WhiteningState]:
        at = moved(state.center)
        zero = jax.tree.map(jnp.zeros_like, state.center)
        [gradients] = jax.vjp(at, zero)[1](updates)
        steps, inner = optimizer.update(gradients, state.inner, params)
        step = state.step + 1
        move = (step & state.step) == 0  # a power of two
        center = jax.tree.map(lambda new, old: jnp.where(move, new, old), params, state.center)
        return jax.jvp(at, (zero,), (steps,))[1], WhiteningState(center, step, inner)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]
