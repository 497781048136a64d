"""The ELBO of a fit with local latents, estimated on all rows or a sample of them."""

from typing import Any, NamedTuple

import numpy as np

from advi.core.status import Estimate
from advi.core.types import Floats
from advi.data.row_subset import CHUNK_ROWS, RowSubset
from advi.posterior.local_posterior import LocalPosterior
from advi.variational.guide import Guide

ELBO_DRAWS = 256  # times chunks of rows, at least
ELBO_ROWS = 2**14  # beyond, the ELBO is estimated from a sample of the rows


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


def row_elbos(guide: Guide, params: Any, rows: RowSubset, seed: int) -> RowElbos:
    """Evaluate the ELBO on fresh draws; the same seed gives the same draws and rows.

    The given rows represent all rows of the guide.
    """
    rng = np.random.default_rng(seed)
    rows = rows.sample(ELBO_ROWS, rng)
    share = len(rows.index) / guide.num_rows
    num_chunks = -(-len(rows.index) // CHUNK_ROWS)
    num_draws = max(2, ELBO_DRAWS // num_chunks)
    totals = []
    for terms, _, count in LocalPosterior(guide, params, rows).terms(rng, num_draws):
        of_rows = terms.rows[:, :count].sum(1) / share
        totals.append(count / len(rows.index) * terms.shared + of_rows)
    return RowElbos(np.array(totals), share)
