"""Cross-validation by folds: fits without some of the rows, by one compiled program."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from advi.core.errors import check_count, describe
from advi.core.keys import Stream, host_rng
from advi.core.types import Floats
from advi.diagnostics.loo import Loo, log_mean, require_even_rows
from advi.diagnostics.reweighted import reweighted
from advi.inference.many.many_fits import Varied
from advi.inference.many.run import fit_again, one_by_one, run, suits
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.predict import row_terms
from advi.posterior.record import FitRecord
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family

FIRST_SD = 1.0


def kfold(record: FitRecord, k: Any, key: Any, show: Callable[[int], None]) -> Loo:
    """Return the cross-validated log predictive density of every row; see `Fit.kfold`."""
    posterior = record.global_posterior.on(None)
    density = posterior.density
    require_even_rows(density, "kfold")
    num = density.log_joint.num_rows
    if num is None:
        row_terms(density, posterior.model.to_tree(posterior.sample(1, 0)))  # which says why not
    assert num is not None
    fold = _folds(k, num, key)
    weights = np.stack([fold != number for number in range(fold.max() + 1)]).astype(float)
    data = [jax.device_get(density.data)]
    varied = Varied(len(weights), data, weights, [record.key])
    guide, first = posterior.guide, Gaussian.diagonal(posterior.gaussian.loc, FIRST_SD)
    if not suits(guide) and suits(gaussian := resolve_family(posterior.model, "full_rank")):
        guide = gaussian  # its draws are weighted to the posterior
    if suits(guide):
        many = run(guide, density.log_joint, density.spec, varied, first, show)
        fit_again(many, lambda _: None)
    else:
        many = one_by_one(guide, density.spec, varied, first, show)
    pointwise, khat, num_draws = np.full(num, math.nan), np.full(num, math.nan), 0
    for number in range(len(weights)):
        held_out = fold == number
        draws, khat[held_out] = reweighted(many.record(number), *many.draws(number))
        rows = _rows(posterior, draws.points)[:, held_out]
        pointwise[held_out], num_draws = log_mean(draws.weights, rows), len(rows)
    whole = _rows(posterior, posterior.sample_points(num_draws, key)[0])
    fitted = log_mean(np.full(len(whole), 1 / len(whole)), whole)
    p_loo, nothing = float(np.sum(fitted - pointwise)), np.full(num, math.nan)
    return Loo(pointwise, khat, p_loo, len(whole), nothing, num_folds=len(weights))


def _rows(posterior: GlobalPosterior, points: Floats) -> Floats:
    draws = posterior.model.to_tree(posterior.constrain(points))
    return row_terms(posterior.density, draws).astype(np.float64)


def _folds(k: Any, num: int, key: Any) -> NDArray[np.intp]:
    """Return the number of each row's fold, (N,)."""
    if np.ndim(k) == 0:
        check_count("k", k, 2)
        if k > num:
            raise ValueError(f"k: got {k} folds for {num} rows; expected at most {num}.")
        return host_rng(key, Stream.FOLDS).permutation(np.arange(num) % int(k))
    labels = np.asarray(k)
    if labels.shape != (num,):
        raise ValueError(
            f"k: got {describe(labels)}; expected a number of folds, or the fold of each of the "
            f"{num} rows."
        )
    found, fold = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"k: got the one fold {found[0]!r} for all rows; expected two or more.")
    return fold
