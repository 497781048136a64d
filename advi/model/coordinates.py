"""The coordinates of a model's latents: their tree, their names, and flat R^D."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import GetAttrKey, KeyPath, keystr
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint

from advi.core.arrays import real_numbers
from advi.core.draw_set import entry_names
from advi.core.errors import describe, unknown
from advi.model.latents import Latent


class Coordinates:
    """What a `Model` knows of its latents; it is abstract, and `Model` sets the attributes.

    Attributes
    ----------
    latents
        Name to `Latent`, in the order they were declared.
    local
        Names of the local latents.
    spans
        Name to the first of a latent's coordinates in R^D and the one after its last.
    beside
        Names of values that stand beside the latents in their tree.
    maps
        Latent's name to a transform that is used in place of its own.
    """

    latents: dict[str, Latent]
    local: frozenset[str]
    spans: dict[str, tuple[int, int]]
    beside: tuple[str, ...]
    maps: dict[str, Any]
    _treedef: Any
    _order: tuple[int, ...]  # leaf i of the tree is entry _order[i] of `latents`

    @cached_property
    def coordinates(self) -> dict[str, tuple[str, ...]]:
        """Names of the constrained coordinates of every latent, such as "eta[0]"."""
        return {name: entry_names(name, latent.shape) for name, latent in self.latents.items()}

    def resolve(self, name: str) -> list[str]:
        """Return the latents a name stands for: itself, or all below it ("decoder").

        Raises
        ------
        ValueError
            If nothing has that name.
        """
        if name in self.latents:
            return [name]
        below = [known for known in self.latents if known.startswith(f"{name}.")]
        if not below:
            raise ValueError(unknown("latent", name, self.latents))
        return below

    def named(self, tree: Any, name: str = "") -> dict[str, Any]:
        """Return a tree's values by latent's name; what is no latent goes by its own path."""
        bare = jax.tree_util.treedef_is_leaf(self._treedef)
        if name in self.latents or (bare and not name):
            return {name or "z": tree}
        parts = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
        if len(parts) == 1 and not parts[0][0]:
            return {name or "z": tree}
        found: dict[str, Any] = {}
        for path, part in parts:
            found |= self.named(part, f"{name}.{_name(path)}" if name else _name(path))
        return found

    def unravel(self, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map flat real coordinates to constrained values.

        Parameters
        ----------
        x
            (D,) real coordinates.

        Returns
        -------
        values : dict
            Name to constrained value.
        log_dets : dict
            Name to the log-Jacobian of that latent's transform: a scalar, or of a local latent one
            number per row.
        """
        return self.constrain(self.split(x))

    def split(self, x: Any) -> dict[str, Any]:
        """Return flat real coordinates (D,) by latent, each of its unconstrained shape."""
        return {
            name: x[slice(*self.spans[name])].reshape(latent.unconstrained_shape)
            for name, latent in self.latents.items()
        }

    def constrain(self, real: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map real values of some or all latents, by name, to constrained ones.

        The log-Jacobian of a local latent is one number per row.
        """
        values, log_dets = {}, {}
        for name, real_value in real.items():
            values[name], log_det = self._map(name).forward(real_value)
            # a transform's own axes are summed already; what is left leads
            batch = tuple(range(1 if name in self.local else 0, log_det.ndim))
            log_dets[name] = log_det.sum(batch)
        return values, log_dets

    def ravel(self, values: Mapping[str, Array]) -> Array:
        """Map constrained values, by name, to flat real coordinates (D,)."""
        parts = [
            self._map(name).inverse(jnp.asarray(values[name])).reshape(-1) for name in self.latents
        ]
        return jnp.concatenate(parts)

    def _map(self, name: str) -> Any:
        return self.maps[name] if name in self.maps else self.latents[name].bijection

    def to_tree(self, values: Mapping[str, Any]) -> Any:
        """Arrange values by name in the tree of the latents, and derived ones beside them."""
        ordered = [values[name] for name in self.latents]
        tree = jax.tree.unflatten(self._treedef, [ordered[k] for k in self._order])
        beside = {name: values[name] for name in self.beside if name in values}
        return {**tree, **beside} if beside else tree

    def from_tree(self, z: Any) -> dict[str, Any]:
        """Arrange a tree shaped like the latents by name.

        Raises
        ------
        TypeError
            If a leaf holds no real numbers.
        ValueError
            If the tree is not that of the latents, or a leaf has another shape (leading axes
            common to all are allowed).
        """
        got = {k: v for k, v in self.named(z).items() if k not in self.beside}
        if set(got) != set(self.latents):
            missing = [name for name in self.latents if name not in got]
            extra = [name for name in got if name not in self.latents]
            raise ValueError(
                f"got values for {sorted(got)}; expected one for each of {list(self.latents)} "
                f"(missing: {missing or 'none'}, unknown: {extra or 'none'})."
            )
        for name, latent in self.latents.items():
            got[name] = real_numbers(name, got[name])
            shape = got[name].shape
            if shape[len(shape) - len(latent.shape) :] != latent.shape:
                raise ValueError(
                    f"{name}: got a value of shape {shape}; expected shape {latent.shape}."
                )
        return {name: got[name] for name in self.latents}


def flatten_latents(tree: Any) -> tuple[dict[str, Latent], Any, tuple[int, ...]]:
    """Return the latents of a tree by name, in the order of declaration; the tree; and that order.

    Raises
    ------
    TypeError
        If a leaf is not a latent.
    ValueError
        If there is no latent, or a name is empty or taken twice.
    """
    _check_no_none(tree)
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_latent)
    if not paths:
        raise ValueError(
            f"latents: got {describe(tree)}, which holds no latent; expected at least one, "
            'e.g. {"mu": advi.real()}.'
        )
    names = [_name(path) for path, _ in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"latents: two are named {twice[0]!r}; rename one of them.")
    if any(getattr(entry, "key", None) == "" for path, _ in paths for entry in path):
        raise ValueError("latents: one is named ''; expected names of at least one letter.")
    position = _declared_positions(tree)
    declared = sorted(range(len(paths)), key=lambda i: position(paths[i][0]))
    latents = {names[i]: _as_latent(names[i], paths[i][1]) for i in declared}
    return latents, treedef, tuple(int(k) for k in np.argsort(declared))


def _is_latent(node: Any) -> bool:
    # NumPyro's constraints are pytrees themselves, so they are stopped at here
    return isinstance(node, (Latent, Constraint, Distribution))


def _check_no_none(tree: Any) -> None:
    """Raise TypeError if a None stands for a latent; in a module it is an empty place."""
    nodes = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is None or _is_latent(node)
    )[0]
    for path, node in nodes:
        if node is None and not any(isinstance(key, GetAttrKey) for key in path):
            _as_latent(_name(path), None)


def _name(path: KeyPath) -> str:
    return keystr(path, simple=True, separator=".") or "z"


def _declared_positions(tree: Any) -> Callable[[KeyPath], tuple[int, ...]]:
    """Return the place of a leaf in the order of declaration (JAX sorts the keys of a dict)."""
    places: dict[int, dict[Any, int]] = {}  # of the keys of every dict, by its identity

    def position(path: KeyPath) -> tuple[int, ...]:
        node, found = tree, []
        for entry in path:
            if isinstance(node, dict):
                key = entry.key  # type: ignore[attr-defined]
                if id(node) not in places:
                    places[id(node)] = {k: i for i, k in enumerate(node)}
                found.append(places[id(node)][key])
                node = node[key]
            elif isinstance(node, (list, tuple)) and hasattr(entry, "idx"):
                found.append(entry.idx)  # type: ignore[attr-defined]
                node = node[entry.idx]  # type: ignore[attr-defined]
            else:
                break
        return tuple(found)

    return position


def _as_latent(name: str, leaf: Any) -> Latent:
    if isinstance(leaf, Latent):
        return leaf
    if isinstance(leaf, Constraint):
        try:
            return Latent(leaf)
        except (TypeError, ValueError) as error:
            raise type(error)(f"latent {name!r}: {error}") from None
    hint = f" Call it: {leaf.__name__}(...)." if hasattr(leaf, "__name__") else ""
    raise TypeError(
        f"latent {name!r}: got {describe(leaf)}; expected a Latent such as advi.real(3) or a "
        f"NumPyro constraint.{hint}"
    )
