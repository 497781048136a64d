"""The automatic plan, against closed forms."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import gamma

import advi
from advi.variational import draws as draws_module
from tests import targets
from tests.compiling import compiled


def divergence(fit, target):
    """KL(q, p) in nats, in closed form."""
    L = fit.posterior.gaussian.scale.tril()
    precision, r = np.linalg.inv(target.cov), fit.posterior.gaussian.loc - target.mean
    trace = np.trace(precision @ L @ L.T) + r @ precision @ r - len(r)
    return 0.5 * (trace + np.linalg.slogdet(target.cov)[1]) - np.log(np.diag(L)).sum()


@pytest.mark.parametrize("family", ["auto", "mean_field", "low_rank", "full_rank"])
@pytest.mark.parametrize("key", [0, 1])
def test_conjugate_normal_is_exact_with_the_default_call(family, key):
    target = targets.conjugate_normal()
    fit = advi.fit(target.model, target.data, family=family, key=key)
    sd = np.sqrt(target.cov[0, 0])
    assert fit.status == "converged"
    assert abs(fit.mean()["x"][0] - target.mean[0]) < 0.01 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.01
    assert abs(fit.elbo.value - target.log_evidence) < 1e-3


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, -0.95])
def test_mean_field_variances_are_inverse_precisions(correlation):
    target = targets.gaussian([1.0, -2.0], [[1.0, correlation], [correlation, 1.0]])
    fit = advi.fit(target.model, target.data, family="mean_field")
    expected = 1 / np.diag(np.linalg.inv(target.cov))
    np.testing.assert_allclose(np.asarray(fit.sd()["x"]) ** 2, expected, rtol=1e-3)
    np.testing.assert_allclose(fit.mean()["x"], target.mean, atol=1e-3)
    # KL of the best factorised Gaussian (Bishop 2006, section 10.1.2)
    gap = 0.5 * (np.linalg.slogdet(target.cov)[1] - np.log(expected).sum())
    assert abs(-fit.elbo.value - gap) < 4 * fit.elbo.mcse + 1e-5


@pytest.mark.parametrize("x64", [False, True])
def test_full_rank_on_100_ill_conditioned_dimensions(x64):
    target = targets.ill_conditioned(100, 1e4, seed=3)
    fit = advi.fit(target.model, target.data, family="full_rank", x64=x64)
    assert fit.status == "converged"
    assert divergence(fit, target) < 1e-3
    assert abs(fit.elbo.value) < 1e-3
    correct = np.sqrt(np.diag(target.cov))
    np.testing.assert_allclose(fit.sd()["x"], correct, rtol=1e-2)


def kl_to_gamma(fit, shape, rate):
    """KL(q, p) by quadrature over q's own density."""
    x = np.geomspace(1e-8, 1e3 * shape / rate, 400_001)
    log_q = np.asarray(fit.log_prob({"x": x}), float)
    q = np.exp(log_q)
    integrand = q * (log_q - gamma(shape, scale=1 / rate).logpdf(x))
    assert np.trapezoid(q, x) == pytest.approx(1, abs=1e-6)
    return np.trapezoid(integrand, x)


SLOW_ADAM = optax.adam(0.003)
# one shape always runs: the others are the same steps, only to other numbers
GAMMA_KL = [  # shape, rate, KL with exp, KL with softplus (quadrature, three digits after 1.0e-x)
    (1.0, 2.0, 8.106e-2, 1.603e-2),
    pytest.param(2.5, 4.2, 3.316e-2, 3.453e-3, marks=pytest.mark.slow),
    pytest.param(10.0, 10.0, 8.331e-3, 5.589e-4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("shape", "rate", "exp_kl", "softplus_kl"), GAMMA_KL)
# the default call is near the same numbers in test_gamma_prints_both_transforms
@pytest.mark.parametrize("transform", ["exp", pytest.param("softplus", marks=pytest.mark.slow)])
def test_gamma_table(shape, rate, exp_kl, softplus_kl, transform):
    """The KL of the best Gaussian under each transform, to three significant digits.

    Stochastic averaging takes the engine closer to the optimum than the fixed draws of the plan,
    from whose result it starts.
    """
    model, data = targets.gamma(shape, rate, transform)
    start = advi.fit(model, data, family="full_rank", x64=True)
    fit = advi.fit(
        model,
        data,
        optimizer=SLOW_ADAM,
        objective=advi.Elbo(draws=1024),
        max_steps=16384,
        init=start,
        x64=True,
    )
    expected = exp_kl if transform == "exp" else softplus_kl
    assert float(f"{kl_to_gamma(fit, shape, rate):.2e}") == float(f"{expected:.2e}")
    # the default call on its own is near: twice the KL's error would be another digit
    assert kl_to_gamma(start, shape, rate) == pytest.approx(expected, rel=0.05)
    if transform == "exp":  # sigma^2 = 1/a, mu = log(a/b) - 1/(2a) exactly
        loc, scale = fit.posterior.guide.to_gaussian(fit.posterior.params)
        assert scale.sds.item() ** 2 == pytest.approx(1 / shape, rel=5e-3)
        assert loc[0] == pytest.approx(np.log(shape / rate) - 0.5 / shape, abs=5e-3)


def test_blocks_couple_what_is_named_together():
    cov = np.array([[1.0, 0.8, 0.5], [0.8, 1.0, 0.3], [0.5, 0.3, 1.0]])
    target = targets.gaussian([0.0, 1.0, 2.0], cov)

    def log_joint(z, data):
        return targets.gaussian_log_joint({"x": np.array([1.0]) * _stack(z)}, data)

    def _stack(z):
        return jnp.stack([z["a"], z["b"], z["c"]])

    model = advi.Model(log_joint, {"a": advi.real(), "b": advi.real(), "c": advi.real()})
    fit = advi.fit(model, target.data, family={("a", "c"): advi.FullRank(), "b": "mean_field"})
    precision = np.linalg.inv(cov)
    # the optimal factor of a block has the inverse of the block of the precision
    block = np.linalg.inv(precision[np.ix_([0, 2], [0, 2])])
    np.testing.assert_allclose(fit.cov(["a", "c"]), block, rtol=5e-3)
    np.testing.assert_allclose(fit.cov("b"), [[1 / precision[1, 1]]], rtol=5e-3)
    np.testing.assert_allclose(fit.cov()[0, 1], 0, atol=5e-3)


def low_rank_target(dim, stretch, seed):
    """A Gaussian that is diagonal but for a few directions, wider and narrower."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((dim, len(stretch))))[0]
    L = np.exp(rng.standard_normal((dim, 1))) * (np.eye(dim) + Q * (np.array(stretch) - 1) @ Q.T)
    return targets.gaussian(rng.standard_normal(dim), L @ L.T)


@pytest.mark.parametrize("x64", [False, True])
def test_low_rank_finds_wider_and_narrower_directions(x64):
    target = low_rank_target(60, [6.0, 0.2, 3.0], seed=1)
    fit = advi.fit(target.model, target.data, family=advi.LowRank(3), x64=x64)
    assert fit.status == "converged"
    assert divergence(fit, target) < 0.01  # nats; that of a mean field is 9
    sd = np.sqrt(np.diag(target.cov))
    np.testing.assert_allclose(fit.sd()["x"], sd, rtol=0.02)
    np.testing.assert_allclose((fit.mean()["x"] - target.mean) / sd, 0, atol=0.02)
    assert fit.verdict.level == "good"


def test_low_rank_where_draws_are_fewer_than_coordinates(monkeypatch):
    """The directions are those of the closed form then."""
    monkeypatch.setattr(draws_module, "MAX_DRAW_ELEMENTS", 60 * 64)
    target = low_rank_target(60, [6.0, 0.2, 3.0], seed=1)
    fit = advi.fit(target.model, target.data, family=advi.LowRank(3), diagnose=False)
    rough = advi.fit(target.model, target.data, family="mean_field", diagnose=False)
    assert divergence(fit, target) < divergence(rough, target) / 5


def test_low_rank_block_beside_others():
    target = low_rank_target(7, [5.0], seed=2)

    def log_joint(z, data):
        return targets.gaussian_log_joint({"x": jnp.concatenate([z["a"], z["b"], z["c"]])}, data)

    model = advi.Model(log_joint, {"a": advi.real(4), "b": advi.real(2), "c": advi.real(1)})
    families = [
        {"a": advi.LowRank(4), "b": other, "c": "mean_field"} for other in ("auto", "mean_field")
    ] + [{"a": "full_rank", "b": other, "c": "mean_field"} for other in ("auto", "mean_field")]
    fits = [advi.fit(model, target.data, family=f, x64=True, diagnose=False) for f in families]
    # with as many directions as coordinates, low rank is full rank
    for low, full in zip(fits[:2], fits[2:], strict=True):
        np.testing.assert_allclose(low.cov(), full.cov(), rtol=0.02, atol=0.02)
        assert abs(divergence(low, target) - divergence(full, target)) < 1e-3
    assert fits[0].posterior.guide.description == "low_rank(4)(a), full_rank(b), mean_field(c)"


def test_low_rank_and_other_families_begin_at_each_other():
    target = low_rank_target(12, [4.0, 0.3], seed=3)
    for first, then in itertools.permutations(["mean_field", advi.LowRank(2), "full_rank"], 2):
        begun = advi.fit(target.model, target.data, family=first, diagnose=False)
        fit = advi.fit(target.model, target.data, family=then, init=begun, diagnose=False)
        if then != "mean_field":
            assert divergence(fit, target) < 0.01, f"{first}, {then}"
        else:
            cold = advi.fit(target.model, target.data, family=then, diagnose=False)
            np.testing.assert_allclose(fit.sd()["x"], cold.sd()["x"], rtol=1e-2)


def test_point_is_the_maximum_on_the_constrained_scale():
    """A point latent beside an inferred one: variational EM of a normal with unknown scale.

    Integrating out mu with a flat prior leaves the REML estimate s^2 = sum (y - ybar)^2 / (n - 1).
    """
    import jax.numpy as jnp

    y = np.random.default_rng(1).normal(1.0, 3.0, 30)

    def log_joint(z, y):
        return -0.5 * jnp.sum((y - z["mu"]) ** 2) / z["s"] ** 2 - len(y) * jnp.log(z["s"])

    model = advi.Model(log_joint, {"mu": advi.real(), "s": advi.positive()})
    fit = advi.fit(model, y, family={"s": advi.Point(), "mu": "mean_field"})
    assert fit.status == "converged"
    assert float(fit.mean()["s"]) == pytest.approx(y.std(ddof=1), rel=1e-3)
    assert float(fit.sd()["s"]) < 1e-12
    # the stopping rule, a scaled gradient of 3e-3, leaves 0.4 % of a sd
    assert float(fit.sd()["mu"]) == pytest.approx(y.std(ddof=1) / np.sqrt(30), rel=5e-3)
    all_points = advi.fit(model, y, family=advi.Point())
    assert float(all_points.mean()["s"]) == pytest.approx(y.std(), rel=1e-3)


def test_flat_and_distant_starts_reach_raw_predictors():
    """Raw predictors near 100 with an interaction: what defeats a single learning rate."""
    rng = np.random.default_rng(0)
    iq = rng.normal(100, 15, 434)
    hs = rng.integers(0, 2, 434)
    X = np.stack([np.ones(434), hs, iq, hs * iq], 1)
    y = X @ np.array([-10.0, 50.0, 1.0, -0.5]) + rng.normal(0, 18, 434)

    def log_joint(z, d):
        import jax.numpy as jnp

        r = (d["y"] - d["X"] @ z["b"]) / z["s"]
        return -0.5 * jnp.sum(r**2) - len(y) * jnp.log(z["s"]) - jnp.log1p((z["s"] / 2.5) ** 2)

    model = advi.Model(log_joint, {"b": advi.real(4), "s": advi.positive()})
    exact = np.linalg.lstsq(X, y, rcond=None)[0]
    for key in range(3):
        fit = advi.fit(model, {"X": X, "y": y}, key=key)
        residual = np.sqrt(np.sum((y - X @ exact) ** 2) / (len(y) - 4))
        sd = residual * np.sqrt(np.diag(np.linalg.inv(X.T @ X)))
        assert fit.status == "converged"
        assert np.max(np.abs(np.asarray(fit.mean()["b"]) - exact) / sd) < 0.05
        np.testing.assert_allclose(fit.sd()["b"], sd, rtol=0.03)


def test_a_density_without_bound_ends_in_words():
    """Rows that a regression fits exactly: its density grows as the noise goes to zero."""

    def log_joint(z, d):
        residual = (d["x"] @ z["w"]) / z["s"]
        return -0.5 * jnp.sum(z["w"] ** 2) - jnp.sum(0.5 * residual**2 + jnp.log(z["s"]))

    model = advi.Model(log_joint, {"w": advi.real(3), "s": advi.positive()})
    for family in ("full_rank", "mean_field", "low_rank"):
        fit = advi.fit(model, {"x": np.zeros((64, 3))}, family=family)
        assert fit.status == "diverged"
        assert "no maximum: it goes on growing" in fit.status.message
        assert " s = " in fit.status.message
        assert fit.verdict.level == "poor"


def test_budget_interrupt_and_callback_keep_what_there_is():
    target = targets.ill_conditioned(20, 1e4, seed=0)
    short = advi.fit(target.model, target.data, max_steps=5)
    assert short.status == "max_steps"
    assert "max_steps=5" in short.status.message
    seen = []

    def stop_at_full_rank(progress):
        seen.append(progress)
        return progress.stage == "full_rank"

    stopped = advi.fit(target.model, target.data, callback=stop_at_full_rank)
    assert stopped.status == "interrupted"
    assert {p.stage for p in seen} == {"start", "mean_field", "full_rank"}
    assert np.isfinite(stopped.elbo.value)

    def ctrl_c(progress):
        if progress.stage == "mean_field":
            raise KeyboardInterrupt

    interrupted = advi.fit(target.model, target.data, callback=ctrl_c)
    assert interrupted.status == "interrupted"
    assert interrupted.sample(3)["x"].shape == (3, 20)


def test_same_key_same_bits_other_key_other_draws():
    target = targets.conjugate_normal()
    model, data = targets.gamma(2.5, 4.2, "exp")
    one, two, other = (advi.fit(model, data, key=k, diagnose=False) for k in (5, 5, 6))
    assert one.posterior.params[0].loc.tobytes() == two.posterior.params[0].loc.tobytes()
    assert one.posterior.params[0].loc.tobytes() != other.posterior.params[0].loc.tobytes()
    assert target.model == targets.conjugate_normal().model


def test_a_fit_traces_once_for_each_shape_and_a_second_one_compiles_nothing():
    calls = []

    def log_joint(z, data):
        calls.append(data["y"].shape)
        return targets.conjugate_log_joint(z, data)

    def traced(y, **settings):
        calls.clear()
        model = advi.Model(log_joint, {"x": advi.real(1)})
        advi.fit(model, {"y": y}, diagnose=False, **settings)
        return calls

    y = np.random.default_rng(0).standard_normal(40)
    optimizer = optax.adam(0.01)
    assert traced(y) == [(40,)]
    assert traced(y, optimizer=optimizer, max_steps=10) == [(40,)]
    # of a batch, and once more of the whole, to see that nothing has changed in between
    batches = {"optimizer": optimizer, "batch_size": 8, "max_steps": 10}
    assert sorted(traced(y, **batches)) == [(8,), (40,), (40,)]
    with compiled() as events:
        traced(y + 1, key=3)
        traced(y, family="mean_field")
        traced(y, optimizer=optimizer, max_steps=10)
        traced(y, **batches)
    assert not events


def test_warm_start_into_a_richer_family():
    target = targets.ill_conditioned(5, 100, seed=1)
    poor = advi.fit(target.model, target.data, family="mean_field")
    rich = advi.fit(target.model, target.data, family="full_rank", init=poor)
    cold = advi.fit(target.model, target.data, family="full_rank")
    assert rich.elbo.value > poor.elbo.value
    assert rich.diagnostics["num_gradients"] < cold.diagnostics["num_gradients"]
    np.testing.assert_allclose(rich.sd()["x"], np.sqrt(np.diag(target.cov)), rtol=1e-3)


def test_init_by_values_reaches_the_mode_it_names():
    import jax.numpy as jnp

    def log_joint(z, data):
        return jnp.logaddexp(-0.5 * (z["x"] - 20) ** 2, -0.5 * (z["x"] + 20) ** 2)

    model = advi.Model(log_joint, {"x": advi.real()})
    fit = advi.fit(model, init={"x": 18.0})
    assert float(fit.mean()["x"]) == pytest.approx(20, abs=1e-2)


def test_float64_is_local_to_the_fit():
    import jax

    target = targets.ill_conditioned(3, 10, seed=2)
    fit = advi.fit(target.model, target.data, x64=True)
    assert fit.sample(2)["x"].dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert advi.fit(target.model, target.data).sample(2)["x"].dtype == np.float32
