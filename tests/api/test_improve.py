"""The rungs of family="auto": a Gaussian, a triangular map, a correction; and families by hand."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import advi
from advi.variational.triangular import Triangular
from benchmarks.accuracy import DRAWS, errors
from benchmarks.targets import banana, eight_schools_centred, hierarchy


def truth(target, fit):
    return errors(target.columns(fit.sample(DRAWS)), target.reference)


@pytest.mark.parametrize("key", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_centred_hierarchy_is_good_by_default(key):
    target = eight_schools_centred()
    fit = advi.fit(target.model, target.data, key=key)
    assert fit.verdict == "good"
    assert truth(target, fit).level == "good"
    assert "made by full_rank -> triangular (+" in repr(fit)
    gaussian = advi.fit(target.model, target.data, key=key, family="full_rank")
    assert gaussian.verdict != "good"
    assert gaussian.posterior.guide.description == "full_rank"
    assert "made by" not in repr(gaussian)


def test_nothing_is_spent_where_the_gaussian_is_good():
    model = advi.Model(lambda z, d: -0.5 * (z["x"] ** 2).sum(), {"x": advi.real(3)})
    by_default = advi.fit(model)
    named = advi.fit(model, family="full_rank")
    assert by_default.diagnostics["num_gradients"] == named.diagnostics["num_gradients"]
    assert "made by" not in repr(by_default)
    np.testing.assert_array_equal(by_default.sample(3)["x"], named.sample(3)["x"])


@pytest.fixture(scope="module")
def bent_fit():
    target = banana(1.0)
    return advi.fit(target.model, target.data, key=3)


def test_the_same_key_gives_the_same_bits(bent_fit):
    target = banana(1.0)
    one, other = bent_fit, advi.fit(target.model, target.data, key=3)
    assert one.posterior.guide.description == "triangular"
    np.testing.assert_array_equal(one.sample(5)["x"], other.sample(5)["x"])
    assert one.elbo == other.elbo


LEVELS = ["good", "means_only", "poor"]


MISSED = "chains that agree lack a part of tau's upper tail: its sd is 21 % too small"
SEEDS = [pytest.param(12, marks=pytest.mark.xfail(reason=MISSED, strict=False)), *range(13, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_thread_is_not_overrated(seed):
    target = hierarchy(4, 0.3, seed, False)
    fit = advi.fit(target.model, target.data, key=seed)
    for result in (fit, fit.corrected()):
        assert LEVELS.index(result.verdict.level) >= LEVELS.index(truth(target, result).level)


def test_a_tail_that_chains_do_not_reach_is_seen():
    """Four well-known groups in scores: at a large tau they lie in a thread. R-hat is 1.00."""
    target = hierarchy(4, 0.3, 11, False)
    fit = advi.fit(target.model, target.data, key=11)
    assert LEVELS.index(fit.verdict.level) >= LEVELS.index(truth(target, fit).level)
    corrected = fit.corrected()
    assert corrected.verdict == "poor"
    assert "heavy tail" in corrected.verdict.reasons[0] or "R-hat" in corrected.verdict.reasons[0]
    assert " -> corrected by " in repr(corrected)


@dataclass(frozen=True)
class SinhArcsinh:
    """Skewed marginals in the frame of a Gaussian; `wrong` leaves a part out of log q."""

    wrong: bool = False

    def noise_dim(self, dim):
        return dim

    def init(self, gaussian, key):
        zeros = np.zeros(len(gaussian.loc), np.float32)
        return {"loc": gaussian.loc, "L": gaussian.scale.tril(), "skew": zeros, "tail": zeros}

    def draw(self, params, eps):
        t = jnp.exp(params["tail"]) * jnp.arcsinh(eps) + params["skew"]
        slope = jnp.cosh(t) * jnp.exp(params["tail"]) / jnp.sqrt(1 + eps**2)
        L = jnp.tril(params["L"])
        log_det = jnp.log(jnp.abs(jnp.diagonal(L))).sum()
        log_det += 0 if self.wrong else jnp.log(slope).sum()
        log_normal = -0.5 * (eps**2 + jnp.log(2 * jnp.pi)).sum()
        return params["loc"] + L @ jnp.sinh(t), log_normal - log_det


def skewed(z, data):
    return dist.Gamma(2.0, 1.0).log_prob(z["g"]) + dist.Normal(0, 1).log_prob(z["x"])


SKEWED = advi.Model(skewed, {"g": advi.positive(), "x": advi.real()})


@pytest.fixture(scope="module")
def own_fit():
    return advi.fit(SKEWED, family=SinhArcsinh())


def test_a_family_of_the_users_own_is_fitted_and_judged(own_fit):
    gaussian = advi.fit(SKEWED, family="full_rank")
    assert own_fit.elbo.value > gaussian.elbo.value + 0.005
    assert own_fit.elbo.value < 0.01  # the log evidence is zero
    assert own_fit.verdict == "good"
    assert float(own_fit.mean()["g"]) == pytest.approx(2.0, abs=0.1)
    assert float(own_fit.sd()["g"]) == pytest.approx(np.sqrt(2), rel=0.1)
    assert own_fit.corrected().verdict == "good"
    assert "sinharcsinh" in repr(own_fit)
    table = advi.compare({"own": own_fit, "full rank": gaussian})
    assert table.rows[0] == "own"
    with pytest.raises(ValueError, match="no method log_prob"):
        own_fit.log_prob(own_fit.sample(1))
    with pytest.raises(ValueError, match="expected a Gaussian"):
        own_fit.linear_response()


def test_a_family_of_the_users_own_is_kept_in_a_file(own_fit, tmp_path):
    own_fit.save(tmp_path / "fit.advi")
    loaded = advi.load(tmp_path / "fit.advi", known=[SinhArcsinh])
    for name, values in own_fit.sample(4, key=1).items():
        np.testing.assert_array_equal(loaded.sample(4, key=1)[name], values)
    assert loaded.verdict == own_fit.verdict
    np.testing.assert_array_equal(own_fit.mean()["g"], loaded.mean()["g"])


def test_a_map_is_kept_in_a_file(bent_fit, tmp_path):
    fit = bent_fit
    fit.save(tmp_path / "fit.advi")
    loaded = advi.load(tmp_path / "fit.advi")
    np.testing.assert_array_equal(fit.sample(4)["x"], loaded.sample(4)["x"])
    np.testing.assert_array_equal(fit.log_prob(fit.sample(4)), loaded.log_prob(fit.sample(4)))
    assert repr(loaded) == repr(fit)


def test_a_wrong_log_q_is_caught():
    with pytest.raises(ValueError, match=r"log q is off by up to .* nats at its own draws"):
        advi.fit(SKEWED, family=SinhArcsinh(wrong=True))
    with pytest.raises(ValueError, match=r"log q is off"):
        advi.fit(SKEWED, family=SinhArcsinh(wrong=True), optimizer=optax.adam(1e-2), max_steps=5)


@dataclass(frozen=True)
class OnlyX(SinhArcsinh):
    def draw(self, params, eps):
        return super().draw(params, eps)[0]


def test_a_draw_without_log_q_is_refused():
    with pytest.raises(ValueError, match=r"expected the pair \(x, log q\)"):
        advi.fit(SKEWED, family=OnlyX())


@dataclass(frozen=True)
class Scanned:
    """Strict about float types, as `jax.lax.scan` and flows are."""

    def noise_dim(self, dim):
        return dim

    def init(self, gaussian, key):
        return {"loc": gaussian.loc}

    def draw(self, params, eps):
        x, _ = jax.lax.scan(lambda x, _: (x + params["loc"], None), eps, None, length=1)
        return x, -0.5 * (eps**2 + jnp.log(2 * jnp.pi)).sum()


@pytest.mark.parametrize("x64", [False, True])
def test_a_family_that_is_strict_about_float_types_is_taken(x64):
    model = advi.Model(lambda z, d: -0.5 * ((z["x"] - 1) ** 2).sum(), {"x": advi.real(2)})
    fit = advi.fit(model, family=Scanned(), x64=x64)
    np.testing.assert_allclose(fit.mean()["x"], 1, atol=0.02)


def test_a_family_without_a_hash_is_named():
    class Thawed(Scanned):
        __hash__ = None

    with pytest.raises(TypeError, match="frozen dataclass"):
        advi.fit(SKEWED, family=Thawed())


@pytest.mark.parametrize(
    "family",
    [SinhArcsinh(), Triangular(maps=1), pytest.param(Triangular(), marks=pytest.mark.slow)],
    ids=["own", "one map", "two maps"],
)
def test_an_optimiser_moves_any_family(family):
    fit = advi.fit(SKEWED, family=family, optimizer=optax.adam(1e-2), max_steps=3000)
    assert fit.elbo.value > -0.05
    assert float(fit.mean()["g"]) == pytest.approx(2.0, abs=0.3)


def test_blocks_are_mixed_with_points_and_gaussians():
    family = {"g": "triangular", "x": "mean_field"}
    fit = advi.fit(SKEWED, family=family)
    assert fit.verdict == "good"
    assert fit.posterior.guide.description == "triangular(g), mean_field(x)"
    with_point = advi.fit(SKEWED, family={"g": "triangular", "x": advi.Point()})
    assert float(with_point.mean()["x"]) == pytest.approx(0.0, abs=0.02)
    assert float(with_point.sd()["g"]) == pytest.approx(np.sqrt(2), rel=0.1)


def test_nuts_starts_from_a_fit_and_has_its_chains():
    target = banana(1.0)
    # a second map would double the program of the sampler
    fit = advi.fit(target.model, target.data, family=Triangular(maps=1))
    sampled = fit.nuts(num_samples=1000, num_warmup=200, num_chains=2)
    assert sampled.verdict == "good"
    assert truth(target, sampled).level == "good"
    assert "2 chains of 1,000 draws by NUTS" in repr(sampled)
    assert " before its correction (importance weights" in repr(sampled)
    assert "correction" not in repr(fit)
    assert sampled.check() is sampled
    for wrong in ({"target_accept_prob": 1.5}, {"num_chains": 0}, {"num_samples": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fit.nuts(**wrong)
    pytest.importorskip("arviz_base")
    tree = sampled.to_arviz()
    assert dict(tree["posterior"].sizes)["chain"] == 2
    assert dict(tree["posterior"].sizes)["draw"] == 1000
    assert tree["sample_stats"]["log_p"].shape == (2, 1000)


def test_draws_are_traceable(bent_fit):
    draws = jax.jit(lambda key: bent_fit.sample(50, key))(jax.random.key(1))
    assert draws["x"].shape == (50, 2)


def test_refine_and_init_go_on_into_the_map():
    target = banana(1.0)
    rough = advi.fit(target.model, target.data, family="full_rank")
    refined = rough.refine("triangular")
    assert refined.elbo.value > rough.elbo.value + 0.2
    again = advi.fit(target.model, target.data, family=Triangular(maps=1), init=refined)
    assert again.elbo.value > rough.elbo.value + 0.2
