"""The variational distribution at some rows of data, of a model with local latents."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core import interrupts
from advi.core.draw_set import DrawSet
from advi.core.jax_config import precision
from advi.core.keys import Stream, host_rng
from advi.core.table import Table
from advi.core.types import Floats
from advi.data.row_subset import CHUNK_ROWS, RowSubset
from advi.model.density import Density
from advi.model.model import Model
from advi.model.terms import Terms
from advi.model.trace import trace
from advi.posterior.constrained import deterministic
from advi.posterior.programs import (
    draw_program,
    draws_program,
    encode_program,
    log_marginal_program,
    terms_program,
)
from advi.posterior.row_values import RowValues
from advi.variational import draws
from advi.variational.amortised import Amortised
from advi.variational.block import Block
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.per_row import PerRow

CHUNK_DRAWS = 4096  # draws of one row each
SHARED_DRAWS, ROW_DRAWS = 4000, 256  # for moments


@dataclass(frozen=True, eq=False)
class LocalPosterior:
    """Variational distribution of the local latents of some rows, and of the shared ones.

    Attributes
    ----------
    guide
        The variational distribution, for any number of rows.
    params
        Its parameters, host arrays.
    rows
        The rows.
    density
        The log density and its data, at the rows that were fitted; None at others.
    """

    guide: Guide
    params: Any
    rows: RowSubset
    density: Density | None = None

    weighted = None

    @classmethod
    def of(cls, guide: Guide, params: Any, density: Density) -> "LocalPosterior":
        """Return the distribution at the rows that were fitted."""
        rows = RowSubset.of(density.data, density.spec, density.model.num_rows or 1)
        return cls(guide, params, rows, density)

    @property
    def model(self) -> Model:
        """The model."""
        return self.guide.model

    @property
    def float_dtype(self) -> str:
        """Float type of the fit."""
        return self.rows.spec.float_dtype

    def on(self, data: Any) -> "LocalPosterior":
        """Return the distribution at the rows of new data, or with None at those fitted.

        Raises
        ------
        ValueError
            If the fit holds only some of its rows, or new data is given where a table knows the
            fitted rows only.
        """
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
            new = self.rows.new(data)
        return LocalPosterior(self.guide, self.params, new)

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
        program = encode_program(family, self.rows.chunk_spec)
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

    def sample(self, num: int, key: Any) -> dict[str, NDArray]:
        """Return constrained draws by latent: (num, *shape), of local ones (num, rows, *shape).

        Deterministic quantities stand beside them at the rows that were fitted.
        """
        rng = host_rng(key, Stream.ROW_SAMPLE)
        size = len(self.rows.index)
        eps = rng.standard_normal((num * size, self._row_dim))
        local = self._draw(np.tile(np.arange(size), num), eps)
        found = {name: v.reshape(num, size, *v.shape[1:]) for name, v in local.items()}
        found |= self._shared(rng.standard_normal((num, self._part(_is_inferred)[0].noise_dim)))
        for name, value in self.points.items():
            found[name] = np.broadcast_to(value, (num, *value.shape))
        values = {name: found[name] for name in self.model.latents}
        return values | (deterministic(self.density, values) if self.density is not None else {})

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
            axis = -len(self.model.latents[name].shape)
            found[name] = np.concatenate([part[name] for part in parts], axis=axis)
        return {name: found[name] for name in self.model.latents}

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
            values = draw_program(guide)(params, np.zeros(0, self.rows.spec.float_dtype))
            return jax.device_get(values)

    def summary(self) -> Table:
        """Return the summary of the latents that are shared and inferred."""
        shared = self.shared()
        return shared.summary() if shared.values else Table((), {})

    def log_prob(self, z: Any) -> Array:
        """Raise ValueError: there is no density of all rows' latents in one number."""
        raise self._no_one_vector()

    @property
    def gaussian(self) -> Gaussian:
        """Raise ValueError: every row has parameters of its own, too many for one vector."""
        raise self._no_one_vector()

    def _no_one_vector(self) -> ValueError:
        return ValueError(
            f"{', '.join(map(repr, sorted(self.guide.local)))} is local, with parameters for "
            "every data row, and this needs all coordinates in one vector. Known for such a "
            "fit: sample, mean, sd, quantile, summary, elbo, log_marginal, and "
            "advi.amortisation_gap."
        )

    def terms(
        self, rng: np.random.Generator, num_draws: int
    ) -> Iterator[tuple[Terms, NDArray[np.int_], int]]:
        """Yield log p - log q of chunks of rows, `Terms` of (R,) and (R, C), as `chunks` does."""
        guide = self.chunk_guide
        program = terms_program(guide, trace(guide.model, self.rows.chunk_spec))
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
        program = log_marginal_program(guide, trace(guide.model, self.rows.chunk_spec))
        found = []
        for number, (batch, places, count) in enumerate(self.rows.chunks()):
            with self._precision():
                values = program(self.at(places), batch, key, number, num_draws)
            found.append(jax.device_get(values)[:count].astype(np.float64))
        return RowValues.of(np.concatenate(found))

    @property
    def chunk_guide(self) -> Guide:
        """The guide of one chunk of rows, for parameters as `at` returns them."""
        return self.guide.with_rows(CHUNK_ROWS).with_encoders_evaluated()

    @property
    def _row_dim(self) -> int:
        """Standard normals that one draw of one row's latents needs."""
        return self._part(lambda b: b.local)[0].with_rows(1).noise_dim

    def _part(self, chosen: Callable[[Block], bool]) -> tuple[Guide, Any]:
        """Return the guide of some blocks, with their parameters."""
        picked = [chosen(b) for b in self.guide.blocks]
        params = tuple(p for p, c in zip(self.tables, picked, strict=True) if c)
        return self.guide.with_encoders_evaluated().part(picked), params

    def _shared(self, eps: Floats) -> dict[str, NDArray]:
        """Return constrained draws of the latents that are shared and inferred."""
        guide, params = self._part(_is_inferred)
        if not guide.blocks:
            return {}
        with self._precision():
            values = draws_program(guide)(params, eps.astype(self.rows.spec.float_dtype))
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
                values = draw_program(guide)(
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
