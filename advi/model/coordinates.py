"""The coordinates of a model's latents: their tree, their names, and flat R^D."""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import KeyPath

from advi.core.arrays import real_numbers
from advi.core.axes import Axes, entry_names
from advi.core.errors import listed, unknown
from advi.model.latent_tree import is_latent, path_name
from advi.model.latents import Latent
from advi.model.program import Program


class Coordinates:
    """The latents of a `Model`, which sets the attributes; it is abstract."""

    latents: dict[str, Latent]  # in the order they were declared
    local: frozenset[str]  # names of the local latents
    spans: dict[str, tuple[int, int]]  # first of a latent's coordinates in R^D, one after its last
    program: Program
    maps: dict[str, Any]  # latent's name to a transform that is used instead of its own
    _treedef: Any
    _order: tuple[int, ...]  # leaf i of the tree is entry _order[i] of `latents`

    @property
    @abstractmethod
    def beside(self) -> tuple[str, ...]:
        """Names of values beside the latents in their tree."""

    @property
    @abstractmethod
    def row_axes(self) -> Mapping[str, int]:
        """Axis of the rows, from the last, in the values of latents where it is not the first."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every latent's value; that of a `Latent` has the rows first."""
        shapes = {name: latent.shape for name, latent in self.latents.items()}
        return shapes | {name: self._in_place(name, shapes[name]) for name in self.row_axes}

    def _in_place(self, name: str, along: Sequence[Any]) -> tuple[Any, ...]:
        """Return what is known of each axis of a latent, with that of the rows in its place."""
        rows, *others = along
        others.insert(len(others) + 1 + self.row_axes[name], rows)
        return tuple(others)

    def rows_first(self, name: str, value: Any) -> Any:
        """Return values (..., *shape) of a latent with their rows before its other axes."""
        if name not in self.row_axes:
            return value
        return np.moveaxis(value, self.row_axes[name], -len(self.shapes[name]))

    def rows_in_place(self, name: str, value: Any) -> Any:
        """Return what `rows_first` made this of."""
        if name not in self.row_axes:
            return value
        return np.moveaxis(value, -len(self.shapes[name]), self.row_axes[name])

    @cached_property
    @abstractmethod
    def axes(self) -> Axes:
        """Names of the axes of latents and of values beside them, and labels along these."""

    @cached_property
    def coordinates(self) -> dict[str, tuple[str, ...]]:
        """Names of the constrained coordinates of every latent: "eta[0]", or "eta[Aitkin]".

        Those of each row are together, as in R^D.
        """
        names = {name: entry_names(name, shape, self.axes) for name, shape in self.shapes.items()}
        for name in self.row_axes:
            labels = np.array(names[name]).reshape(self.shapes[name])
            names[name] = tuple(self.rows_first(name, labels).ravel().tolist())
        return names

    def resolve(self, name: str) -> list[str]:
        """Return the latents of a name: itself, or all below it ("decoder"); ValueError if none."""
        if name in self.latents:
            return [name]
        below = [known for known in self.latents if known.startswith(f"{name}.")]
        if (latent := self.program.coordinates.get(name)) in self.latents:
            raise ValueError(
                f"unknown latent {name!r}: by reparam, {latent!r} is the latent, from which "
                f"{name!r} follows. Name {latent!r}, or leave {name!r} out of reparam."
            )
        if not below:
            raise ValueError(unknown("latent", name, self.latents))
        return below

    def named(self, tree: Any, name: str = "") -> dict[str, Any]:
        """Return a tree's values by latent's name; others go by their own path."""
        bare = jax.tree_util.treedef_is_leaf(self._treedef)
        if name in self.latents or (bare and not name):
            return {name or "z": tree}
        parts = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
        if len(parts) == 1 and not parts[0][0]:
            return {name or "z": tree}
        found: dict[str, Any] = {}
        for path, part in parts:
            found |= self.named(part, _joined(name, path))
        return found

    def unravel(self, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map flat real coordinates (D,) to constrained values and log-Jacobians, both by name.

        The log-Jacobian of a latent's transform is a scalar, of a local latent one number per row.
        """
        return self.constrain(self.split(x))

    def split(self, x: Any) -> dict[str, Any]:
        """Return flat real coordinates (D,) by latent, each of its unconstrained shape."""
        return {
            name: x[slice(*self.spans[name])].reshape(latent.unconstrained_shape)
            for name, latent in self.latents.items()
        }

    def constrain(self, real: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map real values of some or all latents, by name, as `unravel` does."""
        values, log_dets = {}, {}
        for name, real_value in real.items():
            value, log_det = self._map(name).forward(real_value)
            values[name] = self.rows_in_place(name, value)
            # a transform sums over its own axes, the last ones
            batch = tuple(range(1 if name in self.local else 0, log_det.ndim))
            log_dets[name] = log_det.sum(batch)
        return values, log_dets

    def ravel(self, values: Mapping[str, Array]) -> Array:
        """Map constrained values, by name, to flat real coordinates (D,)."""
        parts = []
        for name in self.latents:
            value = self.rows_first(name, jnp.asarray(values[name]))
            parts.append(self._map(name).inverse(value).reshape(-1))
        return jnp.concatenate(parts)

    @property
    def own_nodes(self) -> Any:
        """The tree of the latents' shapes, or None if it holds only dicts, lists and tuples."""
        tree = self.to_tree({n: jax.ShapeDtypeStruct(s, float) for n, s in self.shapes.items()})
        return None if _is_plain(tree) else tree

    def arranged_like(self, like: Any) -> Self:
        """Return the coordinates with the latents in the tree of `like`, of leaves of their shapes.

        Of a dict of latents `like` is a dict from some of its names to such trees. ValueError if
        the leaves are not those of the latents.
        """
        names = self.to_tree({name: name for name in self.latents})
        if isinstance(names, dict) and isinstance(like, Mapping):
            if strange := [key for key in like if key not in names]:
                raise ValueError(f"like: {unknown('latent', strange[0], names)}")
            empty = [key for key, part in like.items() if not jax.tree.leaves((names[key], part))]
            tree = names | {
                key: part if key in empty else self._names_in(part, str(key))
                for key, part in like.items()
            }
        else:
            tree = self._names_in(like, "")
        other = copy.copy(self)
        leaves, other._treedef = jax.tree.flatten(tree)
        position = {name: k for k, name in enumerate(self.latents)}
        other._order = tuple(position[name] for name in leaves)
        return other

    def _names_in(self, like: Any, above: str) -> Any:
        """Return a tree with names in place of leaves; `above` is the name of the whole."""
        leaves, treedef = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_latent)
        names = [_joined(above, path) for path, _ in leaves]
        wanted = self.resolve(above) if above else list(self.latents)
        missing = [name for name in wanted if name not in names]
        extra = [name for name in names if name not in wanted]
        if missing or extra:
            parts = (("it lacks", missing), ("the fit lacks", extra))
            hint = " Of a network give its arrays alone, as to advi.tree." if extra else ""
            raise ValueError(
                f"like: got a tree with other leaves than the fit: "
                f"{'; '.join(f'{what} {listed(found)}' for what, found in parts if found)}.{hint}"
            )
        for name, (_, leaf) in zip(names, leaves, strict=True):
            shape = tuple(getattr(leaf, "shape", np.shape(leaf)))
            if shape != self.shapes[name]:
                raise ValueError(
                    f"like: {name} has shape {shape}; expected {self.shapes[name]}, that of the "
                    "fit."
                )
        return treedef.unflatten(names)

    def _map(self, name: str) -> Any:
        return self.maps[name] if name in self.maps else self.latents[name].bijection

    def to_tree(self, values: Mapping[str, Any]) -> Any:
        """Arrange values by name in the tree of the latents, and derived ones beside them."""
        ordered = [values[name] for name in self.latents]
        tree = jax.tree.unflatten(self._treedef, [ordered[k] for k in self._order])
        beside = {name: values[name] for name in self.beside if name in values}
        return {**tree, **beside} if beside else tree

    def from_tree(self, z: Any) -> dict[str, Any]:
        """Arrange a tree shaped like the latents by name; leaves may have common leading axes.

        TypeError if a leaf holds no real numbers; ValueError if the tree is not that of the
        latents, or a leaf has another shape.
        """
        got = {k: v for k, v in self.named(z).items() if k not in self.beside}
        if set(got) != set(self.latents):
            missing = [name for name in self.latents if name not in got]
            extra = [name for name in got if name not in self.latents]
            raise ValueError(
                f"got values for {sorted(got)}; expected one for each of {list(self.latents)} "
                f"(missing: {missing or 'none'}, unknown: {extra or 'none'})."
            )
        for name, expected in self.shapes.items():
            got[name] = real_numbers(name, got[name])
            shape = got[name].shape
            if shape[len(shape) - len(expected) :] != expected:
                raise ValueError(
                    f"{name}: got a value of shape {shape}; expected shape {expected}."
                )
        return {name: got[name] for name in self.latents}


def by_key(node: Any) -> dict[str, Any]:
    """Return the parts of a node of a pytree that have leaves, by the keys of their paths.

    Examples
    --------
    >>> by_key((3, {"a": 4}))
    {'0': 3, '1': {'a': 4}}
    """
    parts = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)[0]
    return {path_name(path): part for path, part in parts if jax.tree.leaves(part)}


def _is_plain(tree: Any) -> bool:
    """Return whether all nodes of a tree are dicts, lists and tuples."""
    if type(tree) in (dict, list, tuple):
        parts = tree.values() if type(tree) is dict else tree
        return all(map(_is_plain, parts))
    return jax.tree_util.all_leaves([tree])


def _joined(above: str, path: KeyPath) -> str:
    if not path:
        return above or "z"
    return f"{above}.{path_name(path)}" if above else path_name(path)
