"""Which family covers which latents: the variational distribution of a whole model."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.data.spec import DataSpec
from advi.model.model import Model
from advi.model.terms import Terms
from advi.transforms import is_angle
from advi.variational.amortised import Amortised
from advi.variational.block import Block, family_name
from advi.variational.block_transport import block_gaussian, block_transport, gaussian_family
from advi.variational.compiled_transport import has_log_prob
from advi.variational.family import GaussianFamily, RowFamily, unit_params
from advi.variational.gaussian import Gaussian, Structure, block_structure
from advi.variational.joined_scale import joined
from advi.variational.low_rank import LowRank
from advi.variational.per_row import PerRow
from advi.variational.point import Point
from advi.variational.transport import GaussianTransport, JointTransport, Transport


@dataclass(frozen=True)
class Guide:
    """Variational distribution q of all latents: independent blocks, one family each.

    Draws and densities are of the latents' real values, a dict by name: each has an array of its
    own, so that a network's weights are never copied into one long vector.
    """

    model: Model
    blocks: tuple[Block, ...]  # every latent in exactly one
    choices: tuple[str, ...] = field(default=(), compare=False)  # sentences on choices of "auto"

    @cached_property
    def indices(self) -> tuple[NDArray[np.int32], ...]:
        """Flat coordinates of every block, increasing."""
        spans = self.model.spans
        # 32 bits: JAX remembers the dtype of a constant array, which both float types share
        return tuple(
            np.concatenate([np.arange(*spans[name], dtype=np.int32) for name in block.names])
            for block in self.blocks
        )

    @cached_property
    def structure(self) -> Structure:
        """Which coordinates of R^D are random, and which are coupled."""
        blocks, low_rank = [], False
        for block, index in zip(self.blocks, self.indices, strict=True):
            dim = len(index)
            base = gaussian_family(block.base, dim)
            rank = base.rank if isinstance(base, LowRank) else dim
            low_rank |= isinstance(base, LowRank)
            _, scale = base.to_gaussian(unit_params(base, dim))
            blocks.append((index, base.noise_dim(dim) > 0, scale, rank))
        return block_structure(self.model.size, blocks, low_rank)

    @cached_property
    def estimated(self) -> frozenset[str]:
        """Latents without a distribution: estimated as a point, or held at a value."""
        points = (name for b in self.blocks if isinstance(b.base, Point) for name in b.names)
        return frozenset([*points, *self.model.held])

    @cached_property
    def local(self) -> frozenset[str]:
        """Latents with parameters for every data row."""
        return frozenset(name for b in self.blocks if b.local for name in b.names)

    @property
    def description(self) -> str:
        """The family in words, as printed with a fit."""
        held = self.model.held
        free = [(b.family, [n for n in b.names if n not in held]) for b in self.blocks]
        parts = [(family_name(family), names) for family, names in free if family != Point()]
        estimated = [n for family, names in free if family == Point() for n in names]
        apart = (("point", estimated), ("fixed", list(held)))
        parts += [(kind, self.collapse_names(names)) for kind, names in apart if names]
        if len(parts) == 1:
            return parts[0][0]
        return ", ".join(f"{family}({', '.join(names)})" for family, names in parts)

    def collapse_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return names of latents, complete trees by their own name."""
        tops = {name: name.split(".")[0] for name in names}
        whole = {top for top in tops.values() if set(self.model.resolve(top)) <= set(names)}
        return tuple(dict.fromkeys(top if top in whole else n for n, top in tops.items()))

    def with_rows(self, num: int) -> "Guide":
        """Return the guide for data of `num` rows."""
        return replace(self, model=self.model.with_rows(num))

    def with_encoders_evaluated(self) -> "Guide":
        """Return the guide with a table of parameters in place of each encoder."""
        tables = (
            Block(b.names, PerRow(b.family.base)) if isinstance(b.family, RowFamily) else b
            for b in self.blocks
        )
        return replace(self, blocks=tuple(tables))

    def part(self, chosen: Sequence[bool]) -> "Guide":
        """Return the guide of some of the blocks alone."""
        return replace(self, blocks=tuple(itertools.compress(self.blocks, chosen)))

    @property
    def tables(self) -> tuple[str, ...]:
        """Local latents with a table of parameters, one for each row."""
        return tuple(n for b in self.blocks if isinstance(b.family, PerRow) for n in b.names)

    @property
    def num_rows(self) -> int:
        """Number of rows of local latents; 1 without rows."""
        return self.model.num_rows or 1

    @cached_property
    def noise_dims(self) -> tuple[int, ...]:
        """Number of standard normals in one draw of every block."""
        rows = [self.num_rows if b.local else 1 for b in self.blocks]
        return tuple(
            n * b.base.noise_dim(len(i) // n)
            for b, i, n in zip(self.blocks, self.indices, rows, strict=True)
        )

    @property
    def noise_dim(self) -> int:
        """Number of standard normals in one draw."""
        return sum(self.noise_dims)

    @cached_property
    def is_gaussian(self) -> bool:
        """Whether every block is a Gaussian in closed form."""
        return all(isinstance(block.base, GaussianFamily) for block in self.blocks)

    def from_gaussian(self, gaussian: Gaussian, seed: int = 0) -> tuple[Any, ...]:
        """Return every block's parameters for a Gaussian; `seed` is for what a family draws."""
        made, (loc, scale) = [], gaussian
        for k, (block, i) in enumerate(zip(self.blocks, self.indices, strict=True)):
            if not isinstance(block.family, RowFamily | GaussianFamily):
                made.append(block.init(Gaussian(loc[i], scale.take(i)), seed, k))
            elif isinstance(block.family, RowFamily):
                # (2, N, d): means and sds, latents side by side
                both = np.stack([loc, scale.sds])
                spans = [slice(*self.model.spans[name]) for name in block.names]
                rows = np.concatenate([both[:, s].reshape(2, self.num_rows, -1) for s in spans], 2)
                made.append(block.family.initial(rows[0], rows[1, 0]))
            else:
                made.append(block.family.from_gaussian(loc[i], scale.take(i)))
        return tuple(made)

    def params_of(self, gaussian: Gaussian, dtype: Any, seed: int = 0) -> tuple[Any, ...]:
        """Return the parameters of a Gaussian, host arrays of a float type."""
        params = self.from_gaussian(gaussian, seed)
        return tuple(b.on_host(p, dtype) for b, p in zip(self.blocks, params, strict=True))

    def transport(self, params: tuple[Any, ...], float_dtype: str) -> Transport:
        """Return q on the host, for global latents: the map from noise (noise_dim,) to R^D."""
        if self.is_gaussian:
            return GaussianTransport(self.to_gaussian(params), self.structure.random)
        blocks = zip(self.blocks, self.indices, params, strict=True)
        parts = [block_transport(b.base, p, len(i), float_dtype) for b, i, p in blocks]
        return JointTransport(self.indices, parts)

    def to_gaussian(self, params: tuple[Any, ...]) -> Gaussian:
        """Return the mean (D,) and the scale of all latents, of the simplest kind possible.

        Of a family that is no Gaussian they are those of a fixed set of its draws.
        """
        blocks = zip(self.blocks, self.indices, params, strict=True)
        parts = [block_gaussian(b.base, p, len(i)) for b, i, p in blocks]
        loc = np.zeros(self.model.size)
        for i, (block_loc, _) in zip(self.indices, parts, strict=True):
            loc[i] = block_loc
        return Gaussian(loc, joined(self.model.size, self.indices, [scale for _, scale in parts]))

    def marginals(self, params: tuple[Any, ...]) -> dict[str, tuple[NDArray, NDArray]]:
        """Return means and sds of the real coordinates of every shared latent, by name."""
        found = {}
        for block, i, p in zip(self.blocks, self.indices, params, strict=True):
            if not block.local:
                loc, scale = block_gaussian(block.base, p, len(i))
                stops = np.cumsum([self.model.latents[name].size for name in block.names])[:-1]
                pairs = zip(np.split(loc, stops), np.split(scale.sds, stops), strict=True)
                found |= dict(zip(block.names, pairs, strict=True))
        return found

    def at_rows(self, params: tuple[Any, ...], batch: Any, spec: DataSpec) -> Any:
        """Return the parameters at a batch; tables are of its rows, encoders are evaluated."""
        return tuple(
            b.family.at_rows(p, batch, spec.axes) if isinstance(b.family, RowFamily) else p
            for b, p in zip(self.blocks, params, strict=True)
        )

    def check_encoders(self, spec: DataSpec) -> None:
        """Raise ValueError unless every encoder returns its base family's parameters."""
        for block, index in zip(self.blocks, self.indices, strict=True):
            if isinstance(block.family, Amortised):
                block.family.check(len(index) // self.num_rows, spec)

    def frozen(self, spec: DataSpec) -> "Guide":
        """Return the guide with its encoders traced now, for batches of data."""
        blocks = (
            Block(b.names, b.family.frozen(spec)) if isinstance(b.family, Amortised) else b
            for b in self.blocks
        )
        return replace(self, blocks=tuple(blocks))

    def unit_params(self, dtype: Any) -> tuple[Any, ...]:
        """Return parameters with mean zero and sds of one, host arrays of a float type."""
        return self.params_of(Gaussian.diagonal(np.zeros(self.model.size), 1.0), dtype)

    def draw(self, params: tuple[Any, ...], eps: Array) -> dict[str, Array]:
        """Return the draw, by latent, of standard normal noise (noise_dim,)."""
        return self.draw_and_log_q(params, eps)[0]

    def draw_and_log_q(
        self, params: tuple[Any, ...], eps: Array
    ) -> tuple[dict[str, Array], tuple[Array, ...]]:
        """Return the draw, by latent, and log q of every block, (N,) of a local one, nats."""
        noise = jnp.split(eps, np.cumsum(self.noise_dims)[:-1])
        real: dict[str, Array] = {}
        log_q = []
        for b, p, e in zip(self.blocks, params, noise, strict=True):
            if b.local:
                e = e.reshape(self.num_rows, e.size // self.num_rows)
            x, of_block = b.over_rows(b.base.draw)(p, e)
            real |= self._apart(b, x)
            log_q.append(of_block)
        ordered = {name: real[name] for name in self.model.latents if name in real}
        return ordered, tuple(log_q)

    @cached_property
    def angles(self) -> tuple[str, ...]:
        """Latents with a distribution on the circle."""
        latents = self.model.latents.items()
        return tuple(n for n, v in latents if is_angle(v.bijection) and n not in self.estimated)

    def negative_entropy(self, params: tuple[Any, ...], drawn: tuple[Array, ...]) -> Terms:
        """Return the mean of log q, nats, that of local latents by row.

        In closed form where a family has one, or else estimated by log q of a draw.
        """
        return self.block_terms(
            -b.over_rows(b.base.entropy)(p) if isinstance(b.base, GaussianFamily) else log_q
            for b, p, log_q in zip(self.blocks, params, drawn, strict=True)
        )

    def log_prob(
        self, params: tuple[Any, ...], real: Mapping[str, Array], drawn: tuple[Any, ...] = ()
    ) -> Terms:
        """Return log q in nats of real values by latent, that of local latents by row.

        A family without a `log_prob` has what `drawn`, log q of every block, holds for it.
        """
        return self.block_terms(
            b.over_rows(b.base.log_prob)(p, self._vector(b, real))  # type: ignore[attr-defined]
            if has_log_prob(b.base)
            else drawn[k]
            for k, (b, p) in enumerate(zip(self.blocks, params, strict=True))
        )

    def require_log_prob(self, what: str) -> None:
        """Raise ValueError if a family does not know its density at any point."""
        for b in self.blocks:
            if not has_log_prob(b.base):
                raise ValueError(
                    f"{what}: {b.base!r} has no method log_prob(params, x), so that its "
                    "density is known at its own draws alone; give it one."
                )

    def block_terms(self, values: Iterable[Array]) -> Terms:
        """Return the sum of a value of every block, (N,) of a local one."""
        shared, rows = jnp.zeros(()), jnp.zeros((self.num_rows,))
        for block, value in zip(self.blocks, values, strict=True):
            shared, rows = (shared, rows + value) if block.local else (shared + value, rows)
        return Terms(shared, rows)

    def _apart(self, block: Block, vector: Array) -> dict[str, Array]:
        """Return a block's vector (d,), or vectors (N, d), by latent."""
        shapes = [self.model.latents[name].unconstrained_shape for name in block.names]
        rows = self.num_rows if block.local else 1
        stops = np.cumsum([math.prod(shape) // rows for shape in shapes])
        parts = jnp.split(vector, stops[:-1], axis=-1)
        return {n: x.reshape(s) for n, x, s in zip(block.names, parts, shapes, strict=True)}

    def _vector(self, block: Block, real: Mapping[str, Any]) -> Any:
        """Return a block's vector (d,), or vectors (N, d), of values by latent."""
        shape = (self.num_rows, -1) if block.local else (-1,)
        if len(block.names) == 1:
            return real[block.names[0]].reshape(shape)
        return jnp.concatenate([real[name].reshape(shape) for name in block.names], axis=-1)
