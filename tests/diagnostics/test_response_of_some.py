"""Linear response of some latents: exact for Gaussian posteriors, without a dense matrix of all."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.diagnostics import linear_response
from tests import crossed

STUDENTS, LECTURERS, ROWS = 30, 10, 150
DATA = crossed.simulate(STUDENTS, LECTURERS, ROWS)
MODEL = crossed.model(STUDENTS, LECTURERS)


@functools.cache
def mean_field():
    return advi.fit(MODEL, DATA, family="mean_field", x64=True, diagnose=False)


@functools.cache
def covariance():
    return crossed.exact(DATA, STUDENTS, LECTURERS)[1]


@pytest.mark.parametrize("dense_dim", [200, 0])  # a dense solution, and conjugate gradients
def test_some_latents_have_their_exact_joint_covariance(monkeypatch, dense_dim):
    monkeypatch.setattr(linear_response, "DENSE_DIM", dense_dim)
    fit = mean_field().linear_response(["lecturer", "mu"])
    index = np.r_[0, 1 + STUDENTS : 1 + STUDENTS + LECTURERS]
    _, scale = fit.posterior.gaussian
    found = scale.tril() @ scale.tril().T
    np.testing.assert_allclose(
        found[np.ix_(index, index)], covariance()[np.ix_(index, index)], rtol=5e-3, atol=2e-5
    )
    students = slice(1, 1 + STUDENTS)
    np.testing.assert_allclose(scale.sds[students], mean_field().posterior.gaussian.sds[students])
    assert np.abs(found[students][:, index]).max() == 0
    np.testing.assert_allclose(fit.mean()["mu"], mean_field().mean()["mu"], atol=1e-6)


def test_above_a_dimension_it_is_that_of_the_globals_and_has_no_dense_matrix(monkeypatch):
    monkeypatch.setattr(linear_response, "DENSE_DIM", 20)
    monkeypatch.setattr(linear_response, "MAX_DENSE_DIM", 20)
    monkeypatch.setattr("advi.variational.joined_scale.MAX_DENSE_DIM", 20)
    fit = mean_field().linear_response()
    assert float(fit.sd()["mu"]) == pytest.approx(np.sqrt(covariance()[0, 0]), rel=0.04)
    assert not hasattr(fit.posterior.gaussian.scale, "matrix")
    np.testing.assert_allclose(
        np.asarray(fit.sd()["student"]), np.asarray(mean_field().sd()["student"]), rtol=0.05
    )
    with pytest.raises(
        ValueError, match=r"latents of 30 coordinates; expected names of latents of at most 20"
    ):
        mean_field().linear_response("student")


def test_of_many_latents_it_is_that_of_the_globals(monkeypatch):
    monkeypatch.setattr(linear_response, "DENSE_DIM", 20)
    fit = mean_field().linear_response()
    assert float(fit.sd()["mu"]) == pytest.approx(np.sqrt(covariance()[0, 0]), rel=0.04)
    wide = advi.Model(lambda z, d: -0.5 * jnp.sum(z["x"] ** 2), {"x": advi.real(30)})
    gaussian = advi.fit(wide, family="mean_field", diagnose=False)  # none is global: all of them
    np.testing.assert_allclose(np.asarray(gaussian.linear_response().sd()["x"]), 1, rtol=1e-3)


def test_progress_is_told():
    told = []
    linear_response.linear_response(mean_field()._record, ["mu"], told.append)
    assert told == []  # a dense solution is at once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_response, "DENSE_DIM", 0)
        linear_response.linear_response(mean_field()._record, ["mu"], told.append)
    assert told == ["linear response, 1 of 1"]


def test_what_has_no_response_is_refused():
    with pytest.raises(ValueError, match=r"studnet"):
        mean_field().linear_response("studnet")
    pointed = advi.fit(
        MODEL,
        DATA,
        family={"mu": advi.Point(), ("student", "lecturer"): "mean_field"},
        diagnose=False,
    )
    with pytest.raises(ValueError, match=r"'mu', which is estimated as a point"):
        pointed.linear_response("mu")
    sparse = advi.fit(MODEL, DATA, family="sparse", diagnose=False)
    with pytest.raises(ValueError, match=r"sparse precision"):
        sparse.linear_response()


def test_many_wide_latents_need_names(monkeypatch):
    monkeypatch.setattr(linear_response, "MAX_DENSE_DIM", 10)
    wide = advi.Model(lambda z, d: -0.5 * jnp.sum(z["x"] ** 2), {"x": advi.real(12)})
    fit = advi.fit(wide, family="mean_field", diagnose=False)
    with pytest.raises(ValueError, match=r"expected names of latents"):
        fit.linear_response()
