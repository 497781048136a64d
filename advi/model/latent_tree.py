"""The tree of a model's latents as it is declared."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import GetAttrKey, KeyPath, keystr

from advi.core.errors import describe
from advi.core.lazy import known_class
from advi.model.latents import Latent
from advi.transforms.constraints import is_constraint

DISTRIBUTION = "numpyro.distributions.Distribution"


@jax.tree_util.register_static
class Empty:
    """A None of a pytree of parameters among latents, which is no latent that was forgotten."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Empty)

    def __hash__(self) -> int:
        return hash(Empty)


def flatten_latents(tree: Any) -> tuple[dict[str, Latent], Any, tuple[int, ...]]:
    """Return the latents of a tree by name, in the order of declaration; the tree; and that order.

    TypeError if a leaf is not a latent; ValueError if there is none, or a name is empty or taken
    twice.
    """
    _check_no_none(tree)
    given = tree  # the map sorts dicts
    tree = jax.tree.map(
        lambda node: None if isinstance(node, Empty) else node,
        given,
        is_leaf=lambda node: is_latent(node) or isinstance(node, Empty),
    )
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_latent)
    if not paths:
        raise ValueError(
            f"latents: got {describe(tree)}, which holds no latent; expected at least one, "
            'e.g. {"mu": advi.real()}.'
        )
    names = [path_name(path) for path, _ in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"latents: two are named {twice[0]!r}; rename one of them.")
    if any(getattr(entry, "key", None) == "" for path, _ in paths for entry in path):
        raise ValueError("latents: one is named ''; expected names of at least one letter.")
    position = _declared_positions(given)
    declared = sorted(range(len(paths)), key=lambda i: position(paths[i][0]))
    latents = {names[i]: _as_latent(names[i], paths[i][1]) for i in declared}
    return latents, treedef, tuple(int(k) for k in np.argsort(declared))


def is_latent(node: Any) -> bool:
    """Return whether a node of the tree is a leaf: a latent, or what stands for one."""
    # NumPyro's constraints are pytrees themselves
    return isinstance(node, (Latent, known_class(DISTRIBUTION))) or is_constraint(node)


def _check_no_none(tree: Any) -> None:
    """Raise TypeError if a None stands for a latent; in a module it is an empty attribute."""
    nodes = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is None or is_latent(node)
    )[0]
    for path, node in nodes:
        if node is None and not any(isinstance(key, GetAttrKey) for key in path):
            _as_latent(path_name(path), None)


def path_name(path: KeyPath) -> str:
    """Return the name of a latent at a path of JAX's."""
    return keystr(path, simple=True, separator=".") or "z"


def _declared_positions(tree: Any) -> Callable[[KeyPath], tuple[int, ...]]:
    """Return the function from a path to its position as declared (JAX sorts a dict's keys)."""
    positions: dict[int, dict[Any, int]] = {}  # of the keys of every dict, by its identity

    def position(path: KeyPath) -> tuple[int, ...]:
        node, found = tree, []
        entry: Any
        for entry in path:
            if isinstance(node, dict):
                if id(node) not in positions:
                    positions[id(node)] = {k: i for i, k in enumerate(node)}
                found.append(positions[id(node)][entry.key])
                node = node[entry.key]
            elif isinstance(node, (list, tuple)) and hasattr(entry, "idx"):
                found.append(entry.idx)
                node = node[entry.idx]
            else:
                break
        return tuple(found)

    return position


def _as_latent(name: str, leaf: Any) -> Latent:
    if isinstance(leaf, Latent):
        return leaf
    if is_constraint(leaf):
        try:
            return Latent(leaf)
        except (TypeError, ValueError) as error:
            raise type(error)(f"latent {name!r}: {error}") from None
    hint = f" Call it: {leaf.__name__}(...)." if hasattr(leaf, "__name__") else ""
    raise TypeError(
        f"latent {name!r}: got {describe(leaf)}; expected a Latent such as advi.real(3) or a "
        f"NumPyro constraint.{hint}"
    )
