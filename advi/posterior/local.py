"""The variational distribution at some rows of data: draws, moments, ELBO, log p(x) row by row."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from numpy.typing import NDArray

from advi.core import interrupts
from advi.core.draw_set import DrawSet
from advi.core.jax_config import compiled
from advi.core.status import Estimate
from advi.data.row_subset import CHUNK_ROWS, RowData
from advi.model.density import log_density, precision
from advi.model.model import Terms
from advi.model.trace import LogJoint, trace
from advi.variational import draws
from advi.variational.guide import Block, Guide
from advi.variational.per_row import Amortised

Floats = NDArray[np.float64]

CHUNK_DRAWS = 4096  # draws of one row each
SHARED_DRAWS, ROW_DRAWS = 4000, 256  # for moments
WEIGHT_DRAWS = 50  # importance draws that are held at once


class RowValues(NamedTuple):
    """One number per row, and their mean.

    Examples
    --------
    >>> print(RowValues.of(np.array([1.0, 2.0, 3.0])).mean)
    2.00 ± 0.58
    """

    rows: Floats  # (n,)
    mean: Estimate  # over the rows, with the standard error of a sample of rows

    @classmethod
    def of(cls, rows: Floats) -> "RowValues":
        """Return values with their mean."""
        error = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
        return cls(rows, Estimate(float(rows.mean()), float(error)))


@dataclass(frozen=True, eq=False)
class RowPosterior:
    """Variational distribution of the local latents of some rows, and of the shared ones.

    Attributes
    ----------
    guide
        The variational distribution, for any number of rows.
    params
        Its parameters, host arrays.
    rows
        The rows.
    """

    guide: Guide
    params: Any
    rows: RowData

    @cached_property
    def tables(self) -> Any:
        """The parameters, those of local latents a table of the rows: encoders are evaluated."""
        made = []
        for block, p in zip(self.guide.blocks, self.params, strict=True):
            if isinstance(block.family, Amortised):
                p = self._encoded(block.family, p)
            elif block.local:
                p = jax.tree.map(lambda leaf: leaf[self.rows.index], p)
            made.append(p)
        return tuple(made)

    def _encoded(self, family: Amortised, params: Any) -> Any:
        program = _encode_program(family, self.rows.per_row)
        params = jax.device_put(params)
        parts = []
        with self._precision():
            for batch, _, count in self.rows.chunks():
                out = program(params, batch)
                parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], jax.device_get(out)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def at(self, places: NDArray[np.int_]) -> Any:
        """Return the parameters with some rows of every table."""
        return tuple(
            jax.tree.map(lambda leaf: leaf[places], p) if b.local else p
            for b, p in zip(self.guide.blocks, self.tables, strict=True)
        )

    def sample(self, num: int, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return constrained draws by latent: (num, *shape), of local ones (num, rows, *shape)."""
        size = len(self.rows.index)
        eps = rng.standard_normal((num * size, self._row_dim))
        local = self._draw(np.tile(np.arange(size), num), eps)
        found = {name: v.reshape(num, size, *v.shape[1:]) for name, v in local.items()}
        found |= self._shared(rng.standard_normal((num, self._part(_is_inferred)[0].noise_dim)))
        for name, value in self.points.items():
            found[name] = np.broadcast_to(value, (num, *value.shape))
        return {name: found[name] for name in self.guide.model.latents}

    def moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        """Return what `reduce` makes of draws: of all shared latents, and of each row's.

        The draws of every row are the same standard normals, orthogonal and antithetic, which are
        exact for the means and sds of real latents.
        """
        found = reduce(self.shared())
        found |= reduce(DrawSet({name: value[None] for name, value in self.points.items()}))
        dim = self._row_dim
        E = draws.fixed(np.random.default_rng(0), max(ROW_DRAWS, 4 * dim), dim)
        parts: list[dict[str, Any]] = []
        for start in range(0, len(self.rows.index), CHUNK_ROWS):
            places = np.arange(start, min(start + CHUNK_ROWS, len(self.rows.index)))
            noise = np.repeat(E, len(places), axis=0)
            values = self._draw(np.tile(places, len(E)), noise)
            parts.append(
                reduce(
                    DrawSet(
                        {
                            name: v.reshape(len(E), len(places), *v.shape[1:]).astype(np.float64)
                            for name, v in values.items()
                        }
                    ).unwrapped([name for name in self.guide.angles if name in values])
                )
            )
        for name in self.guide.local:
            # whatever leads, the rows come right before the latent's own axes
            axis = -len(self.guide.model.latents[name].shape)
            found[name] = np.concatenate([part[name] for part in parts], axis=axis)
        return {name: found[name] for name in self.guide.model.latents}

    def shared(self) -> DrawSet:
        """Return draws of the latents that are shared and inferred."""
        dim = self._part(_is_inferred)[0].noise_dim
        rng = np.random.default_rng(0)
        found = self._shared(draws.antithetic(rng, SHARED_DRAWS, dim))
        return DrawSet(found).unwrapped([name for name in self.guide.angles if name in found])

    @cached_property
    def points(self) -> dict[str, NDArray]:
        """Constrained values of the shared latents that are estimated."""
        guide, params = self._part(lambda b: not b.local and not b.base.noise_dim(1))
        if not guide.blocks:
            return {}
        with self._precision():
            values = _draw_program(guide)(params, np.zeros(0, self.rows.spec.float_dtype))
            return jax.device_get(values)

    def terms(
        self, rng: np.random.Generator, num_draws: int
    ) -> Iterator[tuple[Terms, NDArray[np.int_], int]]:
        """Yield log p - log q of chunks of rows, `Terms` of (R,) and (R, C), as `chunks` does."""
        guide = self.chunk_guide
        program = _terms_program(guide, trace(guide.model, self.rows.chunk_spec))
        for batch, places, count in self.rows.chunks():
            interrupts.check()
            eps = rng.standard_normal((num_draws, guide.noise_dim))
            with self._precision():
                terms = program(self.at(places), batch, eps.astype(self.rows.spec.float_dtype))
            terms = jax.device_get(terms)
            yield jax.tree.map(lambda leaf: leaf.astype(np.float64), terms), places, count

    def log_marginal(self, num_draws: int, key: Array) -> RowValues:
        """Return importance-sampling estimates of each row's log p(x), nats."""
        guide = self.chunk_guide
        program = _log_marginal_program(guide, trace(guide.model, self.rows.chunk_spec))
        found = []
        for number, (batch, places, count) in enumerate(self.rows.chunks()):
            with self._precision():
                values = program(self.at(places), batch, key, number, num_draws)
            found.append(jax.device_get(values)[:count].astype(np.float64))
        return RowValues.of(np.concatenate(found))

    @property
    def chunk_guide(self) -> Guide:
        """The guide of one chunk of rows, for parameters as `at` returns them."""
        return self.guide.with_rows(CHUNK_ROWS).tabled()

    @property
    def _row_dim(self) -> int:
        """Standard normals that one draw of one row's latents needs."""
        return self._part(lambda b: b.local)[0].with_rows(1).noise_dim

    def _part(self, chosen: Callable[[Block], bool]) -> tuple[Guide, Any]:
        """Return the guide of some blocks, with their parameters."""
        picked = [chosen(b) for b in self.guide.blocks]
        params = tuple(p for p, c in zip(self.tables, picked, strict=True) if c)
        return self.guide.tabled().part(picked), params

    def _shared(self, eps: Floats) -> dict[str, NDArray]:
        """Return constrained draws of the latents that are shared and inferred."""
        guide, params = self._part(_is_inferred)
        if not guide.blocks:
            return {}
        with self._precision():
            values = _draws_program(guide)(params, eps.astype(self.rows.spec.float_dtype))
            return jax.device_get(values)

    def _draw(self, places: NDArray[np.int_], eps: Floats) -> dict[str, NDArray]:
        """Return constrained draws of local latents: of each row in `places` (P,) by eps (P, k)."""
        guide, params = self._part(lambda b: b.local)
        guide = guide.with_rows(CHUNK_DRAWS)
        widths = [dim // CHUNK_DRAWS for dim in guide.noise_dims]
        parts = []
        for start in range(0, len(places), CHUNK_DRAWS):
            count = min(CHUNK_DRAWS, len(places) - start)
            lines = np.minimum(np.arange(start, start + CHUNK_DRAWS), len(places) - 1)
            rows = places[lines]
            # every block takes the noise of all its rows in one piece
            pieces = np.split(eps[lines], np.cumsum(widths)[:-1], axis=1)
            flat = np.concatenate([piece.ravel() for piece in pieces])
            with self._precision():
                values = _draw_program(guide)(
                    jax.tree.map(lambda leaf, i=rows: leaf[i], params),
                    flat.astype(self.rows.spec.float_dtype),
                )
            parts.append({name: v[:count] for name, v in jax.device_get(values).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return precision(self.rows.spec.float_dtype)


def _is_inferred(block: Block) -> bool:
    """Return whether a block's latents are shared by all rows and have a distribution."""
    return not block.local and block.base.noise_dim(1) > 0


@lru_cache(maxsize=64)
def _encode_program(family: Amortised, per_row: tuple[bool, ...]) -> Any:
    def encode(params: Any, batch: Any) -> Any:
        axes = [0 if row else None for row in per_row]
        return family.at_rows(params, batch, jax.tree.unflatten(jax.tree.structure(batch), axes))

    return compiled(encode)


@lru_cache(maxsize=64)
def _draw_program(guide: Guide) -> Any:
    return compiled(lambda params, eps: guide.model.constrain(guide.draw(params, eps))[0])


@lru_cache(maxsize=64)
def _draws_program(guide: Guide) -> Any:
    return compiled(jax.vmap(_draw_program(guide), in_axes=(None, 0)))


def log_difference(guide: Guide, log_joint: LogJoint) -> Callable[[Any, Any, Array], Terms]:
    """Return the function (params, batch, eps) -> log p - log q of one draw, as `Terms`."""
    log_p = log_density(guide.model, log_joint, guide.estimated)

    def one(params: Any, batch: Any, eps: Array) -> Terms:
        real = guide.draw(params, eps)
        p = guide.weighed(log_p(real, batch), real, guide.middle(params))
        q = guide.log_prob(params, real)
        return Terms(p.shared - q.shared, p.per_row - q.rows)

    return one


@lru_cache(maxsize=64)
def _terms_program(guide: Guide, log_joint: LogJoint) -> Any:
    return compiled(jax.vmap(log_difference(guide, log_joint), in_axes=(None, None, 0)))


@lru_cache(maxsize=64)
def _log_marginal_program(guide: Guide, log_joint: LogJoint) -> Any:
    draws = jax.vmap(log_difference(guide, log_joint), in_axes=(None, None, 0))

    def program(params: Any, batch: Any, key: Array, chunk: Array, num_draws: Array) -> Array:
        key = jax.random.fold_in(key, chunk)

        def more(i: Array, total: Array) -> Array:
            noise = jax.random.normal(jax.random.fold_in(key, i), (WEIGHT_DRAWS, guide.noise_dim))
            log_weights = draws(params, batch, noise).rows
            asked = i * WEIGHT_DRAWS + jnp.arange(WEIGHT_DRAWS) < num_draws
            log_weights = jnp.where(asked[:, None], log_weights, -jnp.inf)
            return jnp.logaddexp(total, logsumexp(log_weights, axis=0))

        none = jnp.full((guide.num_rows,), -jnp.inf)
        groups = -(-num_draws // WEIGHT_DRAWS)
        return jax.lax.fori_loop(0, groups, more, none) - jnp.log(num_draws)

    return compiled(program)
