"""NumPyro models in other coordinates: the same joint density, chosen by name or by the ELBO."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

import advi
from advi.core.jax_config import precision
from advi.core.jaxprs.frozen import ChangedError
from advi.data.spec import prepare
from advi.model.density import Density
from advi.model.numpyro import NumPyroModel
from advi.model.numpyro.recentre import Recentring
from advi.model.numpyro.reparam import ReparametrisedByData
from advi.model.resolve import bind
from advi.model.rows import for_rows
from tests.model.numpyro.numpyro_models import SCHOOLS, eight_schools

RTOL = 1e-12
RNG = np.random.default_rng(0)
GROUP = np.arange(120) % 6
SLOPE = 0.05 * RNG.standard_normal(120)
TWO = {
    "group": GROUP,
    "x": SLOPE,
    "y": 3 * RNG.standard_normal(6)[GROUP] + RNG.standard_normal(120),
}


def two_sites(group, x, y):
    """The data determine intercepts well, and say next to nothing of slopes."""
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    with numpyro.plate("groups", 6):
        a = numpyro.sample("a", dist.Normal(1.0, tau[0]))
        b = numpyro.sample("b", dist.StudentT(5.0, 0.5, tau[1]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group] + b[group] * x, 1), obs=y)


def two_sites_by_hand(group, x, y):
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    with numpyro.plate("groups", 6):
        a = 1 + tau[0] * numpyro.sample("a_decentered", dist.Normal(0, 1))
        b = 0.5 + tau[1] * numpyro.sample("b_decentered", dist.StudentT(5.0, 0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group] + b[group] * x, 1), obs=y)


def local_events(y):
    """Latents of the rows, with an axis of their own."""
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y)):
        h = numpyro.sample("h", dist.Normal(1, tau).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(h, 1).to_event(1), obs=y)


def schools_by_hand(num_schools, sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", num_schools):
        score = numpyro.sample("score", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * score, sigma), obs=y)


def bound(program, data):
    data, spec = prepare(data, "float64")
    model = for_rows(bind(program, data, spec), spec)
    return model, Density(model, data, spec)


def test_non_centred_is_the_model_by_hand():
    with precision("float64"):
        reparam = {"a": "non-centred", "b": 0}
        model, density = bound(advi.from_numpyro(two_sites, reparam=reparam), TWO)
        x = RNG.uniform(-1, 1, model.size)
        z, log_det = model.unravel(x)
        by_hand = jax.jit(lambda z: log_density(two_sites_by_hand, (), TWO, z)[0])(z)
        np.testing.assert_allclose(
            density.value(x[None])[0], by_hand + sum(log_det.values()), rtol=RTOL
        )
        assert model.beside == ("a", "b")
        assert model.program.coordinates == {"a": "a_decentered", "b": "b_decentered"}


@pytest.mark.parametrize(
    ("program", "data", "scales"),
    [
        (two_sites, TWO, {k: lambda z, i=i: z["tau"][i] * np.ones(6) for i, k in enumerate("ab")}),
        (local_events, RNG.standard_normal((4, 3)), {"h": lambda z: z["tau"] * np.ones(12)}),
    ],
)
def test_all_coordinates_have_the_same_joint(program, data, scales):
    """Log densities differ by the log-Jacobian of the map between them, and by nothing else."""
    centres = [dict.fromkeys(scales, 1.0), {n: 0.3 * k for k, n in enumerate(scales)}]
    call = ReparametrisedByData(advi.from_numpyro(program).call)
    with precision("float64"):
        model, at_first = bound(NumPyroModel(call, None), (data, centres[0]))
        _, at_second = bound(NumPyroModel(call, None), (data, centres[1]))
        X = RNG.uniform(-1, 1, (2, model.size))
        Y = Recentring.of(model, X, (data, centres[0])).to(centres[1])
        back = Recentring.of(model, Y, (data, centres[1])).to(centres[0])
        np.testing.assert_allclose(back, X, rtol=1e-9)
        fixed = bound(advi.from_numpyro(program, reparam=centres[1]), data)[1]
        np.testing.assert_allclose(at_second.value(Y), fixed.value(Y), rtol=1e-11)
        z = model.unravel(X[0])[0]
        log_det = sum(
            (1 - centres[1][name]) * np.log(scale(z)).sum() for name, scale in scales.items()
        )
        difference = at_second.value(Y[:1]) - at_first.value(X[:1])
        np.testing.assert_allclose(difference, log_det, rtol=1e-9)


@pytest.fixture(scope="module")
def weak():
    """Eight schools as they are: the data say little of each."""
    return advi.fit(advi.from_numpyro(eight_schools, 8), SCHOOLS, family="full_rank")


@pytest.fixture(scope="module")
def refined(weak):
    return weak.refine(reparam="auto")


def test_a_poor_verdict_offers_other_coordinates(weak, refined):
    offer = "fit.refine(reparam='auto') tries theta centred and non-centred"
    assert weak.verdict != "good"
    assert offer in weak.verdict.action
    assert "reparam=" not in refined.verdict.action


def test_weak_data_are_fitted_non_centred(weak, refined):
    assert refined.elbo.value > weak.elbo.value + 0.5
    assert list(refined.posterior.model.latents) == ["mu", "tau", "theta_decentered"]
    assert refined.posterior.guide.description == "full_rank"
    assert "made by theta non-centred (+1" in repr(refined)
    by_hand = advi.fit(advi.from_numpyro(schools_by_hand, 8), SCHOOLS, family="full_rank")
    error = np.hypot(refined.elbo.mcse, by_hand.elbo.mcse)
    assert abs(refined.elbo.value - by_hand.elbo.value) < 4 * error
    assert refined.diagnostics["num_gradients"] > weak.diagnostics["num_gradients"] / 10


def test_the_site_is_shown_beside_its_latent(refined, tmp_path):
    draws = refined.sample(3)
    assert draws["theta"].shape == draws["theta_decentered"].shape == (3, 8)
    expected = draws["mu"][:, None] + draws["tau"][:, None] * draws["theta_decentered"]
    np.testing.assert_allclose(draws["theta"], expected, rtol=1e-4)
    assert refined.mean()["theta"].shape == (8,)
    assert "theta[7]" in refined.summary().rows
    refined.save(tmp_path / "fit.advi")
    loaded = advi.load(tmp_path / "fit.advi")
    np.testing.assert_array_equal(loaded.sample(3)["theta_decentered"], draws["theta_decentered"])
    assert "made by theta non-centred" in repr(loaded)
    with pytest.raises(RuntimeError, match="without its model and data"):
        loaded.refine(reparam="auto")


def test_coordinates_are_chosen_site_by_site():
    family = {("a", "tau"): "full_rank", "b": "mean_field"}
    fit = advi.fit(advi.from_numpyro(two_sites), TWO, family=family, diagnose=False)
    chosen = fit.refine(reparam="auto")
    assert chosen._record.outcome.route[0].startswith("a centred, b non-centred (+")
    expected = "full_rank(tau, a), mean_field(b_decentered)"
    assert chosen.posterior.guide.description == expected


def test_a_site_may_be_named(weak):
    half = weak.refine("mean_field", reparam={"theta": 0.5})
    assert "made by theta 0.5 centred -> mean_field" in repr(half)
    back = half.refine(reparam={"theta": "centered"})
    assert list(back.posterior.model.latents) == ["mu", "tau", "theta"]
    assert "made by theta centred -> mean_field" in repr(back)


def test_what_follows_a_gaussian_follows_again():
    """A fit of family="auto" goes on to a map."""
    plain = advi.fit(advi.from_numpyro(eight_schools, 8), SCHOOLS, diagnose=False)
    fit = plain.refine(reparam={"theta": "non-centred"})
    assert fit.verdict == "good"
    assert "made by theta non-centred -> full_rank -> triangular (+" in repr(fit)


def walk(y):
    step = numpyro.sample("step", dist.HalfNormal(1))

    def move(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, step))
        numpyro.sample("y", dist.Normal(level, 1), obs=y_t)
        return level, None

    scan(move, 0.0, y)


WRONG = {
    "auto": (ValueError, r"Fit the model as it is, and call fit.refine\(reparam='auto'\)"),
    "no dict": (TypeError, r"reparam: got 0 \(int\); expected a dict"),
    "none": (ValueError, "got no site"),
    "number": (ValueError, r"got 1.5 \(float\) for 'theta'; .* number from 0"),
    "word": (ValueError, r"got 'half' \(str\) for 'theta'"),
    "type": (TypeError, r"got None \(NoneType\) for 'theta'"),
    "name": (TypeError, r"got 3 \(int\) as the name of a site"),
}
ARGUMENTS = dict(
    zip(
        WRONG,
        ("auto", 0, {}, {"theta": 1.5}, {"theta": "half"}, {"theta": None}, {3: 0.0}),
        strict=True,
    )
)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_refused(case):
    kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        advi.from_numpyro(eight_schools, 8, reparam=ARGUMENTS[case])


def test_a_site_without_other_coordinates_is_refused(weak):
    sites = {
        "y": "site 'y' is observed; expected .* in this model 'mu', 'theta'",
        "tau": "'tau' is HalfCauchy, which has no location and scale as Normal, .* have",
        "thet": "unknown site of eight_schools 'thet'; did you mean 'theta'",
    }
    for name, message in sites.items():
        with pytest.raises(ValueError, match=message):
            weak.refine(reparam={name: 0.0})
        with pytest.raises(ValueError, match=message):
            advi.fit(advi.from_numpyro(eight_schools, 8, reparam={name: 0.0}), SCHOOLS)
    with pytest.raises(ValueError, match="inside scan or cond"):
        advi.fit(advi.from_numpyro(walk, reparam={"level": 0}), SCHOOLS["y"])
    with pytest.raises(TypeError, match="neither family nor reparam"):
        weak.refine()


def test_fits_without_other_coordinates_say_so():
    def flat(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=y)

    fit = advi.fit(advi.from_numpyro(flat), 1.0, diagnose=False)
    with pytest.raises(ValueError, match="flat has no latent with a location or a scale that"):
        fit.refine(reparam="auto")
    pointed = advi.fit(advi.from_numpyro(flat), 1.0, family=advi.Point(), diagnose=False)
    with pytest.raises(ValueError, match="'mu' is estimated as a point"):
        pointed.refine(reparam={"mu": 0.0})
    model = advi.Model(lambda z, data: -(z["x"] ** 2), {"x": advi.real()})
    log_joint = advi.fit(model, diagnose=False)
    for reparam in ("auto", {"x": 0.0}):
        with pytest.raises(TypeError, match=r"a fit of a log-joint.* theta = mu \+ tau \* score"):
            log_joint.refine(reparam=reparam)


def test_a_model_that_has_changed_is_refused():
    values = {"y": 1.0}

    def flat():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=values["y"])

    fit = advi.fit(advi.from_numpyro(flat), diagnose=False)
    values["y"] = 2.0
    with pytest.raises(ChangedError, match="needs it in other coordinates"):
        fit.refine(reparam={"mu": 0.0})
