"""The last evaluation of a fit by steps: the choice of its parameters, and their ELBO."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.data.source import InMemory
from advi.data.spec import prepare
from advi.inference.stochastic import global_ends
from advi.inference.stochastic.control_variate import ControlVariate
from advi.inference.stochastic.global_ends import GlobalEnds
from advi.inference.stochastic.warm_start import RowSampler
from advi.model.source_density import SourceDensity, rows_density
from advi.model.trace import trace
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import TriangularScale

N, DIM, SAMPLE = 8192, 3, 64


def log_joint(z, d):
    residuals = d["y"] - d["x"] @ z["w"]
    return advi.Terms(-0.5 * jnp.sum(z["w"] ** 2), rows=-0.5 * residuals**2)


@functools.cache
def regression():
    """Rows that differ much in what they tell of the slopes, their density, and its sampler."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, DIM)) * np.exp(0.5 * rng.standard_normal((N, 1)))
    data = {"x": x, "y": x @ np.ones(DIM) + rng.standard_normal(N)}
    model = advi.Model(log_joint, {"w": advi.real(DIM)})
    prepared, spec = prepare(data, "float32")
    source = InMemory(prepared, spec, None).batched(trace(model, spec).num_rows, 32)
    rows = SourceDensity(model, source, frozenset(), N)
    density = rows_density(model, source, source.first)
    return model, data, density, RowSampler(rows, SAMPLE)


def posterior():
    _, data, _, _ = regression()
    precision = np.eye(DIM) + data["x"].T @ data["x"]
    return np.linalg.solve(precision, data["x"].T @ data["y"]), precision


def exact_elbo(q):
    """The ELBO of a Gaussian in closed form, nats."""
    _, data, _, _ = regression()
    _, precision = posterior()
    L = q.scale.tril()
    height = -0.5 * np.sum((data["y"] - data["x"] @ q.loc) ** 2) - 0.5 * np.sum(q.loc**2)
    entropy = np.log(np.diag(L)).sum() + 0.5 * DIM * (1 + np.log(2 * np.pi))
    return height - 0.5 * np.trace(precision @ L @ L.T) + entropy


def gaussian(shift=0.0, stretch=1.0):
    """The posterior, moved by some sds and stretched."""
    mean, precision = posterior()
    L = np.linalg.cholesky(np.linalg.inv(precision))
    return Gaussian(mean + L @ np.full(DIM, shift), TriangularScale(stretch * L))


def ends(seed, sampled=True):
    model, _, density, sampler = regression()
    guide = resolve_family(model, "full_rank")
    found = GlobalEnds((density,), guide, np.random.default_rng(seed), sampler)
    center = gaussian(0.1).loc
    value, gradient = density.value_and_grad(center[None])
    control = ControlVariate(jnp.asarray(center), value[0], gradient[0])
    return found.in_batches([], density.spec, 1.0, control if sampled else ())


def params_of(q):
    return resolve_family(regression()[0], "full_rank").params_of(q, "float32")


@pytest.mark.parametrize("sampled", [True, False])
def test_the_elbo_is_as_far_from_the_exact_one_as_its_error_says(sampled, monkeypatch):
    monkeypatch.setattr(global_ends, "MAX_ERROR", np.inf)  # also where all rows would be taken
    q = gaussian(0.3, 1.2)
    params, exact = params_of(q), exact_elbo(q)
    found = [ends(seed, sampled).elbo(params) for seed in range(30)]
    scores = np.array([(elbo.value - exact) / elbo.mcse for elbo in found])
    # of fifteen degrees of freedom: an sd of 1.07
    assert abs(scores.mean()) < 4 / np.sqrt(30)
    assert 0.7 < scores.std() < 1.5


def test_an_elbo_that_samples_do_not_tell_well_enough_is_that_of_all_rows():
    q = gaussian(0.3, 1.2)
    by_samples, by_all = (ends(0, sampled).elbo(params_of(q)) for sampled in (True, False))
    assert by_samples.mcse == pytest.approx(by_all.mcse, rel=0.3)  # and not several times as much


@pytest.mark.parametrize("sampled", [True, False])
def test_a_difference_takes_as_many_draws_as_tell_it_from_a_threshold(sampled, monkeypatch):
    """Its error is its own, far below those of both ELBOs."""
    before, after = gaussian(0.6, 1.1), gaussian(0.3, 1.1)
    rise = exact_elbo(after) - exact_elbo(before)
    taken = []
    elbos = GlobalEnds._elbos

    def counted(self, params, some):
        taken.append(sum(len(E) for _, E in some))
        return elbos(self, params, some)

    monkeypatch.setattr(GlobalEnds, "_elbos", counted)
    pair = params_of(before), params_of(after)
    clear = ends(0, sampled).gain(*pair, threshold=0.0)
    few, taken[:] = sum(taken), []
    close = ends(0, sampled).gain(*pair, threshold=rise)
    assert few < sum(taken)
    for gain in (clear, close):
        assert abs(gain.value - rise) < 5 * gain.mcse
    assert clear.value > 0


@pytest.mark.parametrize("sampled", [True, False])
def test_the_better_of_average_and_last_is_chosen(sampled):
    at, away, wrong = (params_of(gaussian(shift)) for shift in (0.0, 0.5, np.nan))
    best = exact_elbo(gaussian())
    for average, last in ((at, away), (away, at), (None, at), (at, wrong), (wrong, at)):
        params, elbo = ends(1, sampled).select(average, last)
        assert params is at
        assert elbo.value == pytest.approx(best, abs=0.1)
