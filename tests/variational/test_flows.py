"""A flow of flowjax, as a family of a user's own: fit, verdict, draws, plots and files."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy.stats import multivariate_normal

import advi
from advi.variational.gaussian import Gaussian
from advi.variational.scale import TriangularScale
from benchmarks.targets import banana

pytest.importorskip("flowjax", reason='the flow needs flowjax: pip install "advi-engine[flows]"')

from models.coupling_flow import CouplingFlow

TARGET = banana(1)


@dataclass(frozen=True)
class Forgetful(CouplingFlow):
    """Leaves out the Jacobian."""

    def draw(self, params, eps):
        return super().draw(params, eps)[0], norm.logpdf(eps).sum()


@pytest.fixture(scope="module")
def fit():
    return advi.fit(TARGET.model, family=CouplingFlow(layers=2, width=16))


def test_a_flow_starts_at_the_gaussian():
    rng = np.random.default_rng(0)
    loc, tril = rng.standard_normal(3), np.tril(rng.standard_normal((3, 3)))
    family = CouplingFlow(layers=2, width=4)
    with jax.enable_x64(True):
        params = family.init(Gaussian(loc, TriangularScale(tril)), jax.random.key(1))
        draw = jax.jit(jax.vmap(family.draw, (None, 0)))
        x, log_q = draw(params, rng.standard_normal((7, 3)))
    np.testing.assert_allclose(log_q, multivariate_normal(loc, tril @ tril.T).logpdf(x))


def test_a_flow_holds_a_banana(fit):
    assert fit.verdict.level == "good"
    assert fit.elbo.value > -0.05  # nats; the full-rank Gaussian of highest ELBO is at -0.32
    assert fit.mean()["x"] == pytest.approx([0, 0], abs=0.1)
    assert fit.sd()["x"] == pytest.approx([1, np.sqrt(3)], rel=0.1)
    x = fit.sample(5000)["x"]
    assert np.corrcoef(x[:, 0] ** 2, x[:, 1])[0, 1] == pytest.approx(np.sqrt(2 / 3), abs=0.1)


def test_a_flow_is_saved_and_loaded_with_its_class(fit, tmp_path):
    path = tmp_path / "banana.advi"
    fit.save(path)
    loaded = advi.load(path, known=[CouplingFlow])
    np.testing.assert_array_equal(loaded.sample(20, key=1)["x"], fit.sample(20, key=1)["x"])
    with pytest.raises(ValueError, match="CouplingFlow"):
        advi.load(path)


def test_a_flow_is_plotted(fit):
    pytest.importorskip("matplotlib").use("Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(fit.plot()) == 2
    plt.close("all")


def test_a_flow_with_a_wrong_log_q_is_refused():
    with pytest.raises(ValueError, match="log q is off by"):
        advi.fit(TARGET.model, family=Forgetful(layers=2, width=16))
