"""Which family covers which latents: the variational distribution of a whole model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.errors import describe, unknown
from advi.families import Family, FullRank, LowRank, MeanField, Point
from advi.model import Model
from advi.scales import LowRankScale, Scale, marginal, scale_tril

NAMED = {"mean_field": MeanField(), "full_rank": FullRank(), "low_rank": LowRank()}

# "auto" takes the richest Gaussian whose fixed draws are affordable: 4 D of them determine a full
# scale, 32 MB of them at this dimension, and 2 D a low-rank one, 128 MB at this one.
AUTO_FULL_RANK_DIM, AUTO_LOW_RANK_DIM = 1024, 2896

# The plan holds 4 D draws with their gradients and a few D x D matrices, in double precision.
FULL_RANK_BYTES, MAX_FULL_RANK_BYTES = 128, 2**33


@dataclass(frozen=True)
class Block:
    """Latents covered by one family, in the model's order."""

    names: tuple[str, ...]
    family: Family


@dataclass(frozen=True)
class Guide:
    """Variational distribution q of all latents: independent blocks, one family each.

    Attributes
    ----------
    model
        The model.
    blocks
        Its latents, each in exactly one block.
    choices
        What "auto" chose and why, a sentence for each block that left it the choice.
    """

    model: Model
    blocks: tuple[Block, ...]
    choices: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def indices(self) -> tuple[NDArray[np.int_], ...]:
        """Flat coordinates of every block, increasing."""
        spans = self.model.spans
        return tuple(
            np.concatenate([np.arange(*spans[name]) for name in block.names])
            for block in self.blocks
        )

    @cached_property
    def estimated(self) -> frozenset[str]:
        """Latents that are estimated as a point."""
        return frozenset(
            name for b in self.blocks if isinstance(b.family, Point) for name in b.names
        )

    @property
    def description(self) -> str:
        """The family in words, as printed with a fit."""
        if len(self.blocks) == 1:
            return _family_name(self.blocks[0].family)
        return ", ".join(f"{_family_name(b.family)}({', '.join(b.names)})" for b in self.blocks)

    @cached_property
    def noise_dims(self) -> tuple[int, ...]:
        """Standard normals that one draw of every block needs."""
        return tuple(
            b.family.noise_dim(len(i)) for b, i in zip(self.blocks, self.indices, strict=True)
        )

    @property
    def noise_dim(self) -> int:
        """Standard normals that one draw needs."""
        return sum(self.noise_dims)

    def from_gaussian(self, loc: NDArray, scale: Scale) -> tuple[Any, ...]:
        """Return every block's parameters for a mean (D,) and a scale."""
        return tuple(
            b.family.from_gaussian(loc[i], marginal(scale, i))
            for b, i in zip(self.blocks, self.indices, strict=True)
        )

    def params_of(self, gaussian: tuple[NDArray, Scale], dtype: Any) -> tuple[Any, ...]:
        """Return the parameters for a mean and a scale, host arrays of a float type."""
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), self.from_gaussian(*gaussian))

    def to_gaussian(self, params: tuple[Any, ...]) -> tuple[NDArray, Scale]:
        """Return the mean (D,) and the scale of all latents, of the simplest kind that holds it."""
        parts = [b.family.to_gaussian(p) for b, p in zip(self.blocks, params, strict=True)]
        loc = np.zeros(self.model.size)
        for i, (block_loc, _) in zip(self.indices, parts, strict=True):
            loc[i] = block_loc
        return loc, self._joined([scale for _, scale in parts])

    def _joined(self, scales: list[Scale]) -> Scale:
        size = self.model.size
        if all(isinstance(scale, LowRankScale) or scale.ndim == 1 for scale in scales):
            sd, vectors, stretch = np.zeros(size), [], []
            for i, scale in zip(self.indices, scales, strict=True):
                if isinstance(scale, LowRankScale):
                    padded = np.zeros((size, len(scale.stretch)))
                    padded[i] = scale.vectors
                    vectors.append(padded)
                    stretch.append(scale.stretch)
                    sd[i] = scale.sd
                else:
                    sd[i] = scale
            if not vectors:
                return sd
            return LowRankScale(sd, np.concatenate(vectors, axis=1), np.concatenate(stretch))
        dense = np.zeros((size, size))
        for i, scale in zip(self.indices, scales, strict=True):
            dense[np.ix_(i, i)] = scale_tril(scale)
        return dense

    def draw(self, params: tuple[Any, ...], eps: Array) -> Array:
        """Return the draw (D,) that standard normal noise (noise_dim,) stands for."""
        splits = np.cumsum(self.noise_dims)[:-1]
        noise = jnp.split(eps, splits)
        return self._join(
            [b.family.draw(p, e) for b, p, e in zip(self.blocks, params, noise, strict=True)]
        )

    def entropy(self, params: tuple[Any, ...]) -> Array:
        """Return the entropy of q on R^D in nats."""
        return sum(
            (b.family.entropy(p) for b, p in zip(self.blocks, params, strict=True)),
            start=jnp.zeros(()),
        )

    def log_prob(self, params: tuple[Any, ...], x: Array) -> Array:
        """Return log q(x) in nats of one point x (D,) on the unconstrained scale."""
        return sum(
            (
                b.family.log_prob(p, x[i])
                for b, p, i in zip(self.blocks, params, self.indices, strict=True)
            ),
            start=jnp.zeros(()),
        )

    def _join(self, parts: list[Array]) -> Array:
        joined = jnp.concatenate(parts)
        order = np.concatenate(self.indices)
        if np.all(np.diff(order) == 1):
            return joined
        return joined[np.argsort(order)]


def make_guide(model: Model, family: Any, *, auto: Family | None = None) -> Guide:
    """Return the guide that a `family` argument asks for.

    Parameters
    ----------
    model
        The model.
    family
        "auto", "mean_field", "full_rank", a family, or a dict from latent names to these. A tuple
        of names couples these latents in one block; a name of a subtree covers all below it.
        Latents that a dict leaves out form one block of the automatic family. A latent to which
        the model gives a family keeps it, unless a dict names the latent.
    auto
        What "auto" stands for; by default full rank up to dimension `AUTO_FULL_RANK_DIM`, low rank
        up to `AUTO_LOW_RANK_DIM` and mean field beyond.

    Raises
    ------
    TypeError
        If something is not a family.
    ValueError
        If a name is unknown, or a latent is named twice.
    """
    if not isinstance(family, Mapping):
        free = tuple(name for name in model.latents if name not in model.families)
        if not free and family != "auto":
            _family(family)  # checked even where it covers nothing
        family = {free: family} if free else {}
    blocks, owner = [], {}
    for key, value in family.items():
        wanted = key if isinstance(key, tuple) else (key,)
        names = [name for part in wanted for name in model.resolve(str(part))]
        if not names:
            raise ValueError(f"family: got {key!r}, which names no latent; expected at least one.")
        for name in names:
            if name in owner:
                raise ValueError(
                    f"family: latent {name!r} is named twice, by {owner[name]!r} and {key!r}; "
                    "expected each latent at most once."
                )
            owner[name] = key
        blocks.append((names, value))
    rest = [name for name in model.latents if name not in owner]
    for own in dict.fromkeys(model.families.get(name, "auto") for name in rest):
        names = [name for name in rest if model.families.get(name, "auto") == own]
        blocks.append((names, own))
    position = list(model.latents).index
    made, choices = [], []
    for names, value in blocks:
        size = sum(model.latents[name].size for name in names)
        if isinstance(value, str) and value == "auto":
            chosen, why = (auto, "which an optimiser's steps move best") if auto else _richest(size)
            choices.append(f"auto chose {_family_name(chosen)}, {why}")
        else:
            chosen = _family(value)
        _check_memory(chosen, size)
        made.append(Block(tuple(sorted(names, key=position)), chosen))
    return Guide(model, tuple(made), tuple(choices))


def _check_memory(family: Family, size: int) -> None:
    """Raise ValueError if a full-rank block would take more memory than is sensible."""
    needed = FULL_RANK_BYTES * size**2
    if isinstance(family, FullRank) and needed > MAX_FULL_RANK_BYTES:
        raise ValueError(
            f"family: full rank over {size} coordinates would take about {needed / 2**30:.0f} GiB; "
            f"expected at most {MAX_FULL_RANK_BYTES / 2**30:.0f} GiB. Use family='low_rank', or a "
            "dict that couples fewer latents in each block."
        )


def _family(value: Any) -> Family:
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(unknown("family", value, ["auto", *NAMED]))
        return NAMED[value]
    if isinstance(value, type):
        raise TypeError(f"family: got the class {value.__name__}; call it: {value.__name__}().")
    if not isinstance(value, Family):
        raise TypeError(
            f"family: got {describe(value)}; expected 'auto', {', '.join(map(repr, NAMED))}, a "
            "family such as advi.MeanField(), or a dict from latent names to these."
        )
    return value


def _richest(size: int) -> tuple[Family, str]:
    """Return the richest family for a number of coordinates, and the reason in words."""
    if size <= AUTO_FULL_RANK_DIM:
        return FullRank(), f"the richest family, for up to {AUTO_FULL_RANK_DIM} coordinates"
    if size <= AUTO_LOW_RANK_DIM:
        return LowRank(), f"as full_rank is for up to {AUTO_FULL_RANK_DIM} coordinates"
    return MeanField(), f"as low_rank is for up to {AUTO_LOW_RANK_DIM} coordinates"


def _family_name(family: Family) -> str:
    if isinstance(family, LowRank):
        return f"low_rank({family.rank})"
    names = {repr(known): name for name, known in NAMED.items()}
    return names.get(repr(family), type(family).__name__.lower())
