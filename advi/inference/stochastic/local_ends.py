"""The two ends of a fit by steps with local latents."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from advi.core.errors import format_value
from advi.core.keys import Stream, host_rng
from advi.core.status import Estimate
from advi.core.types import Floats
from advi.data.row_subset import RowSubset
from advi.data.spec import DataSpec, find_nan
from advi.inference.stochastic.control_variate import Control
from advi.inference.stochastic.ends import NOTHING_FOUND, START_SDS, last_is_better
from advi.model.density import Density
from advi.posterior.initial import check_same_latents, initial
from advi.posterior.local_posterior import LocalPosterior, RowElbos
from advi.posterior.record import FitRecord
from advi.variational.amortised import Amortised
from advi.variational.block import Block
from advi.variational.gaussian import Gaussian
from advi.variational.guide import Guide
from advi.variational.per_row import PerRow
from advi.variational.scale import POINT_SD

TRIED_ROWS, TRIED_DRAWS = 256, 16


class LocalEnds(NamedTuple):
    """The `Ends` of a fit with local latents, by rows."""

    guide: Guide  # for all rows
    rows: RowSubset
    seed: int  # of the draws

    @classmethod
    def of(cls, density: Density, guide: Guide, key: Any) -> "LocalEnds":
        """Return the ends of a fit to some data, or to a stream that begins with them."""
        rows = RowSubset.of(density.data, density.spec, density.model.num_rows or 1)
        return cls(guide, rows, int(host_rng(key, Stream.ROW_ENDS).integers(2**32)))

    def in_batches(
        self, kept: list[Any], spec: DataSpec, scale: float, control: Control
    ) -> "LocalEnds":
        return self._replace(rows=self.rows.joined(kept)) if kept else self

    def initial_params(self, init: Any) -> Any:
        if isinstance(init, FitRecord):
            return _from_fit(self.guide, init, self.dtype)
        guide, loc = self._first(init)
        return guide.params_of(Gaussian.diagonal(loc, START_SDS[0]), self.dtype)

    @property
    def dtype(self) -> str:
        return self.rows.spec.float_dtype

    def _first(self, init: Any) -> tuple[Guide, Floats]:
        """Return the guide that makes parameters, and the mean to start from."""
        guide = self.guide
        if isinstance(init, Mapping):
            _check_not_encoded(guide, guide.model.named(dict(init)))
        if not any(isinstance(b.family, PerRow) for b in guide.blocks):
            guide = guide.with_rows(1)  # no parameters by row
        return guide, initial(guide.model, init)[0].loc

    def start(self, init: Any) -> Any:
        if isinstance(init, FitRecord):
            return self.initial_params(init)
        guide, loc = self._first(init)
        where = ""
        for sd in START_SDS:
            params = guide.params_of(Gaussian.diagonal(loc, sd), self.dtype)
            where = self._nonfinite_rows(params)
            if not where:
                return params
        raise ValueError(
            f"the log density is not finite at the start, in {where} Expected a finite "
            "log-joint for every row: check the supports of the latents, the encoder's `params`, "
            "or give init={...}."
        )

    def select(self, average: Any, last: Any) -> tuple[Any, Estimate]:
        with np.errstate(all="ignore"):
            of_last = self._elbos(last)
            if average is None:
                return last, of_last.estimate()
            of_average = self._elbos(average)
            gain = _difference(of_last, of_average)
            if last_is_better(gain) or not np.isfinite(of_average.totals).all():
                return last, of_last.estimate()
            return average, of_average.estimate()

    def elbo(self, params: Any) -> Estimate:
        with np.errstate(all="ignore"):
            return self._elbos(params).estimate()

    def gain(self, before: Any, after: Any, threshold: float) -> Estimate:
        return _difference(self._elbos(after), self._elbos(before))

    def nonfinite(self, params: Any) -> str:
        where = self._nonfinite_rows(params)
        return f"the log density is not finite in {where}" if where else NOTHING_FOUND

    def _elbos(self, params: Any) -> RowElbos:
        return LocalPosterior(self.guide, params, self.rows).elbos(self.seed)

    def _nonfinite_rows(self, params: Any) -> str:
        """Return the rows whose ELBO is not finite on a few draws, and the first NaN of the data.

        In words; empty if there are none.
        """
        rng = np.random.default_rng(self.seed)
        rows = self.rows.sample(TRIED_ROWS, np.random.default_rng(self.seed))
        parts = []
        for terms, index, count in LocalPosterior(self.guide, params, rows).terms(rng, TRIED_DRAWS):
            finite = np.isfinite(terms.shared)[:, None] & np.isfinite(terms.rows)
            parts.append(rows.index[index[:count]][~finite.all(0)[:count]])
        bad = np.sort(np.concatenate(parts))
        if not len(bad):
            return ""
        which = "every row." if len(bad) == len(rows.index) else f"rows {format_value(bad)}."
        nan = find_nan(rows.data, rows.spec)
        return f"{which} The {nan}: remove or mask it." if nan else which


def _difference(first: RowElbos, second: RowElbos) -> Estimate:
    return RowElbos(first.totals - second.totals, first.share).estimate()


def _check_not_encoded(guide: Guide, given: Mapping[str, Any]) -> None:
    for block in guide.blocks:
        for name in block.names:
            if isinstance(block.family, Amortised) and name in given:
                raise ValueError(
                    f"init[{name!r}]: an encoder computes {name!r} from the data; expected values "
                    "of other latents. An encoder starts from its `params`."
                )


def _from_fit(guide: Guide, fit: FitRecord, dtype: str) -> Any:
    """Return the parameters of a fit: of equal blocks the same, of others their means and sds."""
    check_same_latents(guide.model, fit)
    other = fit.posterior.guide
    # the closure of an encoder may have changed
    known = dict(zip(map(_thawed, other.blocks), fit.posterior.params, strict=True))
    for block in guide.blocks:
        if block.local and _thawed(block) not in known:
            raise ValueError(
                f"init: got a fit with {other.description}; expected the same family of "
                f"{', '.join(map(repr, block.names))}, which is local."
            )
        if isinstance(block.family, PerRow) and guide.num_rows != other.num_rows:
            raise ValueError(
                f"init: got a fit to {other.num_rows} rows; expected {guide.num_rows}, those of "
                "the data."
            )
    one = guide.with_rows(1)
    loc, sd = np.zeros(one.model.size), np.full(one.model.size, POINT_SD)
    held = one.model.held.keys() | other.model.held.keys()
    freed = {n: v for n, v in other.model.held.items() if n not in one.model.held}
    loc = initial(one.model, freed)[0].loc if freed else loc
    for name, (mean, scale) in other.marginals(fit.posterior.params).items():
        if name in held:
            continue
        span = slice(*one.model.spans[name])
        loc[span], sd[span] = mean, np.where(scale == 0, POINT_SD, scale)
    fresh = one.params_of(Gaussian.diagonal(loc, sd), dtype)
    return tuple(known.get(_thawed(block), p) for block, p in zip(guide.blocks, fresh, strict=True))


def _thawed(block: Block) -> Block:
    family = block.family
    return Block(block.names, family.thawed) if isinstance(family, Amortised) else block
