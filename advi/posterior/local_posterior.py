"""The variational distribution at some rows of data, of a model with local latents."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core import interrupts
from advi.core.draw_set import PROBS, DrawSet, Names
from advi.core.errors import check_names
from advi.core.jax_config import precision
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate, RowValues
from advi.core.table import Table
from advi.core.types import Floats, Indices
from advi.data.row_subset import CHUNK_ROWS, RowSubset
from advi.model.density import Density
from advi.model.model import Model
from advi.model.terms import Terms
from advi.model.trace import trace
from advi.posterior import programs
from advi.posterior.constrained import deterministic
from advi.variational import draws
from advi.variational.amortised import Amortised
from advi.variational.block import Block
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.per_row import PerRow

ELBO_DRAWS = 256  # times chunks of rows, at least
ELBO_ROWS = 2**14  # beyond, the ELBO is estimated from a sample of the rows
CHUNK_DRAWS = 4096  # draws of one row each
SHARED_DRAWS, ROW_DRAWS = 4000, 256  # for moments


class RowElbos(NamedTuple):
    """ELBO of a fit as a sum over chunks of rows, which have independent draws.

    The shared terms are split among the chunks, also those of inferred shared latents.
    """

    totals: Floats  # (C, R) nats, each chunk's part of the ELBO by draw
    share: float  # of the rows that were evaluated

    def estimate(self) -> Estimate:
        """Return the ELBO with its standard error, from draws and from the sampling of rows."""
        num_chunks, num_draws = self.totals.shape
        variance = self.totals.var(1, ddof=1).sum() / num_draws
        if self.share < 1:
            variance += (1 - self.share) * num_chunks * self.totals.mean(1).var(ddof=1)
        return Estimate(float(self.totals.mean(1).sum()), float(np.sqrt(variance)))


@dataclass(frozen=True, eq=False)
class LocalPosterior:
    """A posterior approximation of the shared latents and the local ones of some rows.

    It has the methods of `GlobalPosterior` that need no joint vector of all coordinates.
    """

    guide: Guide  # for any number of rows
    params: Any  # host arrays
    rows: RowSubset
    density: Any = None  # at the fitted rows; None at others

    weighted = None

    @classmethod
    def of(cls, guide: Guide, params: Any, density: Density) -> "LocalPosterior":
        """Return the distribution at the fitted rows."""
        rows = RowSubset.of(density.data, density.spec, density.model.num_rows or 1)
        return cls(guide, params, rows, density)

    @property
    def model(self) -> Model:
        return self.guide.model

    @property
    def float_dtype(self) -> str:
        return self.rows.spec.float_dtype

    def on(self, data: Any) -> "LocalPosterior":
        # None: at the fitted rows
        if data is None:
            if self.density is not None:
                self.density.require_all_rows()
            return self
        tables = [b for b in self.guide.blocks if isinstance(b.family, PerRow)]
        if tables:
            raise ValueError(
                f"data: {', '.join(map(repr, tables[0].names))} has a table of parameters, one for "
                "each row that was fitted; expected data=None. For new rows fit with "
                "advi.Amortised(encode, params), or fit the new rows."
            )
        with precision(self.float_dtype):
            return replace(self, density=None, rows=self.rows.new(data, self.model.known_names))

    @cached_property
    def tables(self) -> Any:
        """The parameters at the rows, a table for every local block: encoders are evaluated."""
        made = []
        for block, p in zip(self.guide.blocks, self.params, strict=True):
            if isinstance(block.family, Amortised):
                p = self._encoded(block.family, p)
            elif block.local:
                p = jax.tree.map(lambda leaf: leaf[self.rows.index], p)
            made.append(p)
        return tuple(made)

    def _encoded(self, family: Amortised, params: Any) -> Any:
        program = programs.encode_program(family, self.rows.chunk_spec)
        with precision(self.float_dtype):
            params = jax.device_put(params)
        parts = []
        for batch, _, count in self.rows.chunks():
            out = self._on_host(program, params, batch)
            parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], out))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def at(self, index: Indices) -> Any:
        """Return the parameters with some rows of every table."""
        return tuple(
            jax.tree.map(lambda leaf: leaf[index], p) if b.local else p
            for b, p in zip(self.guide.blocks, self.tables, strict=True)
        )

    def sample(self, num: int, key: Any) -> dict[str, NDArray]:
        # deterministic quantities only at the fitted rows
        rng = host_rng(key, Stream.ROW_SAMPLE)
        size = len(self.rows.index)
        found = self._draw(np.arange(size), rng.standard_normal((num, size, self._row_dim)))
        found |= self._shared(rng.standard_normal((num, self._part(_is_inferred)[0].noise_dim)))
        for name, value in self.points.items():
            found[name] = np.broadcast_to(value, (num, *value.shape))
        values = {name: found[name] for name in self.model.latents}
        return values | (deterministic(self.density, values) if self.density is not None else {})

    def moments(self, reduce: Callable[[DrawSet], dict[str, Any]]) -> dict[str, Any]:
        # All rows have the same orthogonal antithetic standard normals, which are exact for the
        # means and sds of real latents.
        found = reduce(self.shared())
        found |= reduce(DrawSet({name: value[None] for name, value in self.points.items()}))
        dim = self._row_dim
        E = draws.fixed(np.random.default_rng(0), max(ROW_DRAWS, 4 * dim), dim)
        parts: list[dict[str, Any]] = []
        for start in range(0, len(self.rows.index), CHUNK_ROWS):
            index = np.arange(start, min(start + CHUNK_ROWS, len(self.rows.index)))
            values = self._draw(index, np.repeat(E[:, None], len(index), axis=1))
            values = {name: v.astype(np.float64) for name, v in values.items()}
            parts.append(reduce(self._unwrapped(values)))
        for name in self.guide.local:
            axis = self.model.row_axes.get(name, -len(self.model.shapes[name]))
            found[name] = np.concatenate([part[name] for part in parts], axis=axis)
        return {name: found[name] for name in self.model.latents}

    def shared(self) -> DrawSet:
        """Return draws of the inferred shared latents."""
        dim = self._part(_is_inferred)[0].noise_dim
        rng = np.random.default_rng(0)
        return self._unwrapped(self._shared(draws.antithetic(rng, SHARED_DRAWS, dim)))

    def _unwrapped(self, values: dict[str, NDArray]) -> DrawSet:
        return DrawSet(values).unwrapped([name for name in self.guide.angles if name in values])

    @cached_property
    def points(self) -> dict[str, NDArray]:
        """Constrained values of the shared point estimates."""
        guide, params = self._part(lambda b: not b.local and not b.base.noise_dim(1))
        if not guide.blocks:
            return {}
        return self._on_host(programs.draw_program(guide), params, np.zeros(0, self.float_dtype))

    def summary(
        self, names: Names = None, sort: Any = None, top: Any = None, probs: Any = PROBS
    ) -> Table:
        shared = self.shared()._replace(axes=self.model.axes)
        for name in [] if names is None else check_names("names", names):
            if name in self.model.latents and name not in shared.values:
                raise ValueError(f"names: {name!r} is local or a point; expected shared, inferred.")
        known = names is not None or shared.values
        return shared.summary(names, sort, top, probs) if known else Table((), {})

    def log_prob(self, z: Any) -> Array:
        raise self.no_joint_vector()

    @property
    def gaussian(self) -> Gaussian:
        raise self.no_joint_vector()

    def no_joint_vector(self) -> ValueError:
        """Return the error for a use of all coordinates as one vector."""
        return ValueError(
            f"{', '.join(map(repr, sorted(self.guide.local)))} is local, with parameters for "
            "every data row, and this needs all coordinates in one vector. Known for such a "
            "fit: sample, mean, sd, quantile, summary, elbo, log_marginal, and "
            "advi.amortisation_gap."
        )

    def elbo(self, seed: int) -> Estimate:
        return self.elbos(seed).estimate()

    def elbos(self, seed: int) -> RowElbos:
        """Evaluate the ELBO on fresh draws; the same seed gives the same draws and rows.

        The rows represent all rows of the guide.
        """
        rng = np.random.default_rng(seed)
        at = replace(self, rows=self.rows.sample(ELBO_ROWS, rng))
        num_rows = len(at.rows.index)
        share = num_rows / self.guide.num_rows
        num_draws = max(2, ELBO_DRAWS // -(-num_rows // CHUNK_ROWS))
        totals = []
        for terms, _, count in at.terms(rng, num_draws):
            of_rows = terms.rows[:, :count].sum(1) / share
            totals.append(count / num_rows * terms.shared + of_rows)
        return RowElbos(np.array(totals), share)

    def terms(
        self, rng: np.random.Generator, num_draws: int
    ) -> Iterator[tuple[Terms, NDArray[np.int_], int]]:
        """Yield log p - log q of chunks of rows, `Terms` of (R,) and (R, C).

        With the indices and the number of rows as in `RowSubset.chunks`.
        """
        guide = self.chunk_guide
        program = programs.terms_program(guide, trace(guide.model, self.rows.chunk_spec))
        for batch, index, count in self.rows.chunks():
            interrupts.check()
            eps = rng.standard_normal((num_draws, guide.noise_dim)).astype(self.float_dtype)
            terms = self._on_host(program, self.at(index), batch, eps)
            yield jax.tree.map(lambda leaf: leaf.astype(np.float64), terms), index, count

    def log_marginal(self, num_draws: int, key: Array) -> RowValues:
        """Return importance-sampling estimates of each row's log p(x), nats."""
        guide = self.chunk_guide
        program = programs.log_marginal_program(guide, trace(guide.model, self.rows.chunk_spec))
        found = []
        for number, (batch, index, count) in enumerate(self.rows.chunks()):
            values = self._on_host(program, self.at(index), batch, key, number, num_draws)
            found.append(values[:count].astype(np.float64))
        return RowValues.of(np.concatenate(found))

    @property
    def chunk_guide(self) -> Guide:
        """The guide for one chunk of rows and the parameters that `at` returns."""
        return self.guide.with_rows(CHUNK_ROWS).with_encoders_evaluated()

    @property
    def _row_dim(self) -> int:
        """Number of standard normals in one draw of one row's latents."""
        return self._part(lambda b: b.local)[0].with_rows(1).noise_dim

    def _part(self, chosen: Callable[[Block], bool]) -> tuple[Guide, Any]:
        """Return the guide of some blocks, with their parameters."""
        picked = [chosen(b) for b in self.guide.blocks]
        params = tuple(itertools.compress(self.tables, picked))
        return self.guide.with_encoders_evaluated().part(picked), params

    def _shared(self, eps: Floats) -> dict[str, NDArray]:
        """Return constrained draws of the inferred shared latents."""
        guide, params = self._part(_is_inferred)
        if not guide.blocks:
            return {}
        return self._on_host(programs.draws_program(guide), params, eps.astype(self.float_dtype))

    def _draw(self, rows: Indices, eps: Floats) -> dict[str, NDArray]:
        """Return constrained draws of local latents at some rows (P,) by eps (num, P, k)."""
        num, index, eps = len(eps), np.tile(rows, len(eps)), eps.reshape(-1, eps.shape[-1])
        guide, params = self._part(lambda b: b.local)
        guide = guide.with_rows(CHUNK_DRAWS)
        widths = [dim // CHUNK_DRAWS for dim in guide.noise_dims]
        parts = []
        for start in range(0, len(index), CHUNK_DRAWS):
            count = min(CHUNK_DRAWS, len(index) - start)
            within = np.minimum(np.arange(start, start + CHUNK_DRAWS), len(index) - 1)
            tables = jax.tree.map(lambda leaf, i=index[within]: leaf[i], params)
            # the noise of a block is contiguous over its rows
            pieces = np.split(eps[within], np.cumsum(widths)[:-1], axis=1)
            flat = np.concatenate([piece.ravel() for piece in pieces]).astype(self.float_dtype)
            values = self._on_host(programs.draw_program(guide), tables, flat)
            by_row = {name: guide.model.rows_first(name, v) for name, v in values.items()}
            parts.append({name: v[:count] for name, v in by_row.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        drawn = {k: v.reshape(num, len(rows), *v.shape[1:]) for k, v in joined.items()}
        return {name: self.model.rows_in_place(name, v) for name, v in drawn.items()}

    def _on_host(self, program: Callable[..., Any], *args: Any) -> Any:
        with precision(self.float_dtype):
            return jax.device_get(program(*args))


def _is_inferred(block: Block) -> bool:
    """Return whether a block's latents are shared and have a distribution."""
    return not block.local and block.base.noise_dim(1) > 0
