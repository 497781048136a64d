"""The scale of a sparse precision against dense algebra."""

import numpy as np
import pytest
from scipy import sparse

from advi.core import sparse_cholesky
from advi.core.sparse_cholesky import NotPositiveError
from advi.variational.precision_scale import PrecisionScale

DIM = 60
ALL = np.ones(DIM, bool)


def patterns():
    rng = np.random.default_rng(0)
    banded = np.eye(DIM, k=1) + np.eye(DIM, k=3)
    arrow, crossed, levels = np.zeros((3, DIM, DIM))
    arrow[:, -2:] = crossed[:, -2:] = levels[:, -2:] = 1
    crossed[:40, 40:58] = rng.random((40, 18)) < 0.2
    levels[np.arange(40), 40 + np.arange(40) // 4] = levels[np.arange(40, 50), 50] = 1
    scattered = rng.random((DIM, DIM)) < 0.05
    return {"diagonal": np.zeros((DIM, DIM)), "banded": banded, "arrow": arrow, "crossed": crossed,
            "levels": levels, "scattered": scattered, "dense": np.ones((DIM, DIM))}  # fmt: skip


def precision(name, seed=1):
    rng = np.random.default_rng(seed)
    entries = np.triu(patterns()[name] * rng.standard_normal((DIM, DIM)), 1)
    entries = entries + entries.T
    return entries + np.diag(np.abs(entries).sum(1) + rng.uniform(0.1, 10, DIM))


@pytest.fixture(params=["dense", "dense at the end", "sparse"])
def what_is_dense(request, monkeypatch):
    """Which matrices are factorised as dense ones."""
    if request.param != "dense":
        monkeypatch.setattr(sparse_cholesky, "SMALL_DIM", 5)
        monkeypatch.setattr(sparse_cholesky, "MIN_DENSITY", 0.5)
    if request.param == "sparse":
        monkeypatch.setattr(sparse_cholesky, "MAX_DENSE_DIM", 6)


@pytest.fixture(params=list(patterns()))
def pair(request, what_is_dense):
    matrix = precision(request.param)
    natural = request.param in ("arrow", "crossed", "levels")
    order = np.arange(DIM) if natural else np.random.default_rng(2).permutation(DIM)
    return PrecisionScale(sparse.csc_array(matrix), order), np.linalg.inv(matrix)


def test_coordinates_that_do_not_meet_go_first_and_at_once(monkeypatch):
    monkeypatch.setattr(sparse_cholesky, "SMALL_DIM", 5)
    monkeypatch.setattr(sparse_cholesky, "MIN_DENSITY", 0.5)
    factor = sparse_cholesky.factorised(sparse.csc_array(precision("levels")))
    sizes = []
    while hasattr(factor, "rest"):
        sizes.append(len(factor.root))
        factor = factor.rest
    assert sizes[:2] == [40, 10]


def test_its_algebra_is_that_of_the_covariance(pair):
    scale, covariance = pair
    L = scale.mv(np.eye(DIM)).T
    np.testing.assert_allclose(L @ L.T, covariance, atol=1e-12)
    np.testing.assert_allclose(scale.rmv(np.eye(DIM)), L, atol=1e-12)
    np.testing.assert_allclose(scale.whitened(scale.mv(np.eye(DIM))), np.eye(DIM), atol=1e-12)
    np.testing.assert_allclose(scale.covariance_times(np.eye(DIM)), covariance, atol=1e-12)
    np.testing.assert_allclose(scale.sds**2, np.diag(covariance), rtol=1e-12)
    np.testing.assert_allclose(scale.diagonal**-2.0, np.diag(np.linalg.inv(covariance)), rtol=1e-8)
    assert scale.log_det(ALL) == pytest.approx(0.5 * np.linalg.slogdet(covariance)[1], abs=1e-9)


def test_its_other_forms_have_the_same_covariance(pair):
    scale, covariance = pair
    tril = scale.tril()
    assert (np.triu(tril, 1) == 0).all()
    np.testing.assert_allclose(tril @ tril.T, covariance, atol=1e-12)
    some = np.array([7, 2, 29])
    part = scale.take(some).tril()
    np.testing.assert_allclose(part @ part.T, covariance[np.ix_(some, some)], atol=1e-12)
    assert scale.take(np.arange(DIM)) is scale
    np.testing.assert_allclose(scale.low_rank().sds, scale.sds, rtol=1e-9)
    np.testing.assert_allclose(scale.shrunk(0.5).sds, 0.5 * scale.sds, rtol=1e-12)


@pytest.mark.parametrize("change", [-100.0, -np.inf, np.nan])
def test_a_matrix_that_is_not_positive_is_refused(change, what_is_dense):
    matrix = precision("crossed")
    matrix[4, 4] = change if not np.isfinite(change) else matrix[4, 4] + change
    with pytest.raises(NotPositiveError):
        PrecisionScale(sparse.csc_array(matrix), np.arange(DIM)).factor  # noqa: B018
