"""The unknowns of a NumPyro model: its latents, and its parameters with their trees."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from advi.model.latents import Latent


@dataclass(frozen=True)
class Frame:
    """A plate around a site."""

    name: str
    dim: int  # axis, from the last
    size: int


@dataclass(frozen=True)
class Part:
    """A value of the trace: a constant, or with `index` an output of the program."""

    shape: tuple[int, ...]
    constant: Any = None
    index: int | None = None

    def value(self, outputs: list[Any]) -> Any:
        return self.constant if self.index is None else outputs[self.index]


@dataclass(frozen=True)
class Tree:
    """A parameter's tree: a single array, or the tree of a network's parameters.

    One with empty nodes, which no tree of latents can have, is packed into a dict of its leaves by
    their paths.
    """

    structure: Any
    paths: tuple[str, ...] | None

    @staticmethod
    def of(value: Any) -> "Tree":
        leaves, structure = jax.tree_util.tree_flatten_with_path(value)
        full = len(jax.tree.leaves(value, is_leaf=lambda node: node is None)) == len(leaves)
        paths = tuple(keystr(path, simple=True, separator=".") for path, _ in leaves)
        return Tree(structure, None if full else paths)

    def pack(self, leaves: list[Any]) -> Any:
        if self.paths is None:
            return jax.tree.unflatten(self.structure, leaves)
        return dict(zip(self.paths, leaves, strict=True))

    def unpack(self, packed: Any) -> Any:
        if self.paths is None:
            return packed
        return jax.tree.unflatten(self.structure, [packed[path] for path in self.paths])


@dataclass(frozen=True)
class Unknown:
    """A latent or a parameter site."""

    bounds: tuple[Part, ...]  # leaves of its constraint
    support: Any  # the constraint's tree
    shape: tuple[int, ...]  # of a sample site's value
    real_shape: tuple[int, ...]  # of its real coordinates
    in_control_flow: bool  # inside a scan or a branch
    inits: tuple[Part, ...]  # leaves of a parameter's initial value
    tree: Tree | None  # of a parameter
    frames: tuple[Frame, ...]  # plates around it that its shape follows
    event_dim: int  # axes of its value after those of the plates

    def axis(self, plate: str) -> int | None:
        """Return the axis of its value that is a plate's, from the last; None if it has none."""
        axis = next((f.dim - self.event_dim for f in self.frames if f.name == plate), None)
        if axis is not None and self.tree is not None and not _vary(self.inits, axis):
            return None  # a parameter inside a plate may be common to all of it
        return axis

    def support_varies(self, axis: int) -> bool:
        return _vary(self.bounds, axis)

    def latents(self, outputs: list[Any]) -> Any:
        support = self._support([part.value(outputs) for part in self.bounds])
        if self.tree is None:
            return Latent(support, self.shape)
        inits = [np.asarray(part.value(outputs), float) for part in self.inits]
        return self.tree.pack([Latent(support, np.shape(init), init=init) for init in inits])

    def local_latent(self, outputs: list[Any], axis: int) -> Latent:
        """Return the local latent of a site with rows along an axis, from the last."""
        bounds = [part.value(outputs) for part in self.bounds]
        of_row = [np.take(b, 0, axis) if np.ndim(b) >= -axis else b for b in bounds]
        return Latent(self._support(of_row), tuple(np.delete(self.shape, axis)), local=True)

    def _support(self, bounds: list[Any]) -> Any:
        return jax.tree.unflatten(self.support, bounds)


def _vary(parts: tuple[Part, ...], axis: int) -> bool:
    """Return whether some array has more than one entry along an axis, from the last."""
    return any(len(part.shape) >= -axis and part.shape[axis] > 1 for part in parts)
