"""What a NumPyro model leaves open: its latents, and its parameters with their trees."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from advi.latents import Latent


@dataclass(frozen=True)
class Frame:
    """A plate around a site: its name, its axis counted from the last, and its size."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Part:
    """A value of the trace: a constant, or where `index` is given an output of the program."""

    constant: Any = None
    index: int | None = None

    def value(self, outputs: list[Any]) -> Any:
        """Return the value."""
        return self.constant if self.index is None else outputs[self.index]


@dataclass(frozen=True)
class Tree:
    """A parameter's tree: a single array, or what a network's parameters are kept in.

    Where it has empty places, which no tree of latents can have, a dict of its leaves by their
    paths stands for it.
    """

    structure: Any
    paths: tuple[str, ...] | None

    @staticmethod
    def of(value: Any) -> "Tree":
        """Return the tree of a parameter's value."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(value)
        full = len(jax.tree.leaves(value, is_leaf=lambda node: node is None)) == len(leaves)
        paths = tuple(keystr(path, simple=True, separator=".") for path, _ in leaves)
        return Tree(structure, None if full else paths)

    def pack(self, leaves: list[Any]) -> Any:
        """Return what stands for the tree."""
        if self.paths is None:
            return jax.tree.unflatten(self.structure, leaves)
        return dict(zip(self.paths, leaves, strict=True))

    def unpack(self, packed: Any) -> Any:
        """Return the tree that `packed` stands for."""
        if self.paths is None:
            return packed
        return jax.tree.unflatten(self.structure, [packed[path] for path in self.paths])


@dataclass(frozen=True)
class Unknown:
    """A latent or a parameter site.

    Attributes
    ----------
    bounds, support
        Leaves of its constraint, and the constraint's tree.
    shape, real_shape
        Shape of a sample site's value, and of its real coordinates.
    in_control_flow
        Whether it is inside a scan or a branch.
    inits, tree
        Leaves of a parameter's initial value and its tree; None for a sample site.
    frames
        The plates around it whose size its shape follows.
    """

    bounds: tuple[Part, ...]
    support: Any
    shape: tuple[int, ...]
    real_shape: tuple[int, ...]
    in_control_flow: bool
    inits: tuple[Part, ...]
    tree: Tree | None
    frames: tuple[Frame, ...]

    def latents(self, outputs: list[Any]) -> Any:
        """Return the latent, or the tree of latents of a parameter."""
        bounds = [part.value(outputs) for part in self.bounds]
        support = jax.tree.unflatten(self.support, bounds)
        if self.tree is None:
            return Latent(support, self.shape)
        inits = [np.asarray(part.value(outputs), float) for part in self.inits]
        return self.tree.pack([Latent(support, np.shape(init), init=init) for init in inits])
