"""The result of a fit: draws, moments, densities, what is printed."""

import pickle

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import advi


def log_joint(z, data):
    s = z["scale"]["s"]
    return (
        dist.Normal(0.0, 2.0).log_prob(z["mu"]).sum()
        + dist.HalfNormal(1.0).log_prob(s)
        + dist.Dirichlet(np.array([2.0, 3.0, 4.0])).log_prob(z["w"])
        + dist.Normal(z["mu"][0], s).log_prob(data["y"]).sum()
    )


@pytest.fixture(scope="module")
def fit():
    model = advi.Model(
        log_joint, {"mu": advi.real(2), "scale": {"s": constraints.positive}, "w": advi.simplex(3)}
    )
    y = np.random.default_rng(0).normal(1.0, 0.5, 30)
    return advi.fit(model, {"y": y})


def test_sample_has_the_tree_of_the_latents(fit):
    z = fit.sample(1500, key=3)
    assert z["mu"].shape == (1500, 2)
    assert z["scale"]["s"].shape == (1500,)
    assert np.all(z["scale"]["s"] > 0)
    np.testing.assert_allclose(z["w"].sum(-1), 1, atol=1e-5)
    again = fit.sample(1500, key=jax.random.key(3))
    assert again["mu"].shape == (1500, 2)
    np.testing.assert_array_equal(fit.sample(5, key=3)["mu"], fit.sample(5, key=3)["mu"])
    assert not np.array_equal(fit.sample(5, key=3)["mu"], fit.sample(5, key=4)["mu"])


def test_moments_agree_with_draws(fit):
    z = fit.sample(40_000, key=1)
    for moment, of_draws in ((fit.mean(), np.mean), (fit.sd(), np.std)):
        for got, draws in zip(jax.tree.leaves(moment), jax.tree.leaves(z), strict=True):
            # Monte Carlo error of 40,000 and of 4,000 draws, 5 standard errors
            assert np.all(np.abs(got - of_draws(draws, axis=0)) < 5 * np.std(draws, 0) / 60)
    low, high = fit.quantile([0.1, 0.9])["mu"]
    np.testing.assert_allclose([low, high], np.quantile(z["mu"], [0.1, 0.9], axis=0), atol=0.1)
    assert fit.quantile(0.5)["scale"]["s"].shape == ()


def test_cov_names_and_order(fit):
    assert fit.cov().shape == (6, 6)
    assert fit.cov("mu").shape == (2, 2)
    both = fit.cov(["scale", "mu"])
    np.testing.assert_allclose(np.sqrt(both[0, 0]), fit.sd()["scale"]["s"], rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(both)[1:]), fit.sd()["mu"], rtol=1e-6)
    np.testing.assert_allclose(fit.cov("mu"), both[1:, 1:])
    np.testing.assert_allclose(fit.cov(["mu[1]", "scale"]), both[[[2], [0]], [2, 0]])


def test_log_prob_is_a_density_on_the_constrained_scale():
    model = advi.Model(lambda z, d: dist.Gamma(3.0, 2.0).log_prob(z["x"]), {"x": advi.positive()})
    fit = advi.fit(model, x64=True)
    x = np.geomspace(1e-5, 200, 100_001)
    assert np.trapezoid(np.exp(fit.log_prob({"x": x})), x) == pytest.approx(1, abs=1e-6)
    assert fit.log_prob({"x": 1.5}).shape == ()


def test_log_prob_accepts_draws(fit):
    z = fit.sample(7)
    values = fit.log_prob(z)
    assert values.shape == (7,)
    one = jax.tree.map(lambda leaf: leaf[2], z)
    assert float(fit.log_prob(one)) == pytest.approx(float(values[2]), rel=1e-4)


def test_elbo_is_the_mean_of_log_p_minus_log_q(fit):
    z = fit.sample(4000, key=9)
    y = np.random.default_rng(0).normal(1.0, 0.5, 30)
    log_p = jax.jit(jax.vmap(lambda one: log_joint(one, {"y": y})))(z)
    gap = np.asarray(log_p - fit.log_prob(z))
    error = np.hypot(gap.std() / np.sqrt(4000), fit.elbo.mcse)
    assert abs(gap.mean() - fit.elbo.value) < 4 * error
    assert 0 < fit.elbo.mcse < 0.5


def test_summary_and_repr(fit):
    table = fit.summary()
    assert table.rows == ("mu[0]", "mu[1]", "scale.s", "w[0]", "w[1]", "w[2]")
    assert list(table.columns) == ["mean", "sd", "5%", "50%", "95%"]
    assert table["scale.s"]["mean"] == pytest.approx(float(fit.mean()["scale"]["s"]), rel=1e-6)
    text = repr(fit)
    assert "converged" in text
    assert "ELBO" in text
    assert "w[2]" in text
    assert "r_hat" not in text


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        ("w", ["w[0]", "w[1]", "w[2]"]),
        (["scale", "mu"], ["scale.s", "mu[0]", "mu[1]"]),
        (("w[2]", "w[0]"), ["w[2]", "w[0]"]),
        (["w[2]", "w", "w[1]"], ["w[2]", "w[0]", "w[1]"]),
    ],
)
def test_a_summary_of_named_latents_has_their_rows(fit, names, rows):
    whole, part = fit.summary(), fit.summary(names)
    assert part.rows == tuple(rows)
    for row in rows:
        assert part[row] == pytest.approx(whole[row], rel=1e-12)


@pytest.mark.parametrize("column", ["mean", "sd", "5%", "50%", "95%"])
def test_a_summary_is_sorted_by_any_column_and_cut(fit, column):
    table = fit.summary(sort=column)
    assert sorted(table.rows) == sorted(fit.summary().rows)
    assert np.all(np.diff(table[column]) <= 0)
    assert fit.summary(sort=column, top=2).rows == table.rows[:2]
    smallest = fit.summary(sort=f"-{column}")
    np.testing.assert_array_equal(smallest[column], table[column][::-1])
    assert fit.summary("w", top=2).rows == ("w[0]", "w[1]")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"names": ["w", "v"]}, ValueError, r"names: unknown latent 'v'.*Known: mu, scale.s, w\."),
        (
            {"names": "w[3]"},
            ValueError,
            r"'w\[3\]', which is no entry of 'w' of shape \(3,\).*'w\[2\]'",
        ),
        ({"names": []}, ValueError, "names: got none"),
        ({"names": 3}, TypeError, r"names: got 3 \(int\)"),
        ({"sort": "q5"}, ValueError, "sort: unknown column 'q5'.*Known: mean, sd, 5%, 50%, 95%"),
        ({"top": 0}, ValueError, "top: got 0"),
    ],
)
def test_a_summary_of_something_else_is_refused(fit, arguments, error, message):
    with pytest.raises(error, match=message):
        fit.summary(**arguments)


def test_trace_rises(fit):
    assert fit.elbo_trace.ndim == 1
    assert fit.elbo_trace[-1] > fit.elbo_trace[0]


def test_status_survives_pickling(fit):
    status = pickle.loads(pickle.dumps(fit.status))
    assert status == fit.status
    assert status.message == fit.status.message


def test_every_helper_fits():
    """A model with every kind of latent samples inside its supports."""
    latents = {
        "real": advi.real(2),
        "positive": advi.positive(2, transform="softplus"),
        "interval": advi.interval(-1.0, 3.0),
        "greater": advi.greater_than(2.0),
        "less": advi.less_than(-1.0),
        "unit": advi.unit_interval(),
        "simplex": advi.simplex(3, 2),
        "ordered": advi.ordered(3),
        "positive_ordered": advi.positive_ordered(3),
        "corr_cholesky": advi.corr_cholesky(3),
        "corr": advi.corr_matrix(3),
        "cov": advi.cov_matrix(2),
        "tril": advi.scale_tril(2),
        "zero_sum": advi.zero_sum(4),
        "direction": advi.unit_vector(3),
        "angle": advi.circular(),
        "net": advi.tree({"w": np.ones((2, 2)), "b": np.zeros(2)}),
    }

    def everything(z, data):
        return (
            -0.5 * sum((leaf**2).sum() for leaf in jax.tree.leaves(z))
            - np.float32(1) * (1 / z["positive"]).sum()
            + 3 * z["direction"][0]
            + 2 * jax.numpy.cos(z["angle"])
        )

    fit = advi.fit(advi.Model(everything, latents), family="full_rank", diagnose=False)
    assert fit.status == "converged"
    z = fit.sample(50)
    np.testing.assert_allclose(z["simplex"].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(z["zero_sum"].sum(-1), 0, atol=1e-5)
    np.testing.assert_allclose((z["direction"] ** 2).sum(-1), 1, atol=1e-5)
    assert np.all(np.diff(z["ordered"]) > 0)
    assert np.all(np.linalg.eigvalsh(z["cov"]) > 0)
    assert np.all(np.abs(z["angle"]) <= np.pi)
    assert z["net"]["w"].shape == (50, 2, 2)
    # direction ~ von Mises-Fisher(3) has mean coth(3) - 1/3 and sd 0.32; 0.3 sd for the Gaussian
    assert float(fit.mean()["direction"][0]) == pytest.approx(1 / np.tanh(3) - 1 / 3, abs=0.1)


def test_log_prob_of_two_float_types():
    model = advi.Model(lambda z, data: -0.5 * (z["x"] ** 2).sum(), {"x": advi.real(2)})
    for x64 in (True, False):
        fit = advi.fit(model, family="mean_field", x64=x64, diagnose=False)
        assert float(fit.log_prob({"x": np.zeros(2)})) == pytest.approx(
            -np.log(2 * np.pi), abs=1e-5
        )
