"""Worked models whose answers are closed forms: information, Gamma transforms, a mixture."""

import numpy as np
import pytest

import advi
from models import gamma_transforms, gaussian_mixture, information
from models.information import EARTH, MARS, cross_entropy, entropy, in_stages, kl

DISTRIBUTIONS = [EARTH, MARS, (1.0, 0.0), (0.5, 0.5)]
PAIRS = [(p, q) for p in DISTRIBUTIONS for q in DISTRIBUTIONS]


def test_information_prints_the_identities(capsys):
    information.main()
    text = capsys.readouterr().out
    assert "0.610864 + 0.668990 = 1.279854, and 1.279854 in one" in text
    assert "KL(Mars, Earth)   1.1395 =" in text
    assert "KL(Earth, Mars)   2.6158 =" in text


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_divergence_is_cross_entropy_less_entropy_and_zero_only_when_equal(p, q):
    assert kl(p, q) == pytest.approx(cross_entropy(p, q) - entropy(p), abs=1e-12)
    assert kl(p, q) >= 0
    assert (kl(p, q) == 0) == (p == q)


def test_divergence_of_the_planets():
    # .01 log(.01 / .7) + .99 log(.99 / .3), and the other way about
    assert kl(MARS, EARTH) == pytest.approx(1.1395, abs=5e-5)
    assert kl(EARTH, MARS) == pytest.approx(2.6158, abs=5e-5)
    assert kl(EARTH, (1.0, 0.0)) == np.inf


def test_entropy_of_equal_chances_is_the_logarithm_of_their_number():
    for k in (1, 2, 10, 1000):
        assert entropy(np.full(k, 1 / k)) == pytest.approx(np.log(k), abs=1e-12)
    assert entropy((1.0, 0.0)) == 0


@pytest.mark.parametrize("groups", [[[0], [1, 2, 3]], [[0, 3], [1, 2]], [[0, 1, 2, 3]]])
def test_entropy_adds_up_over_stages(groups):
    p = np.array([0.1, 0.2, 0.3, 0.4])
    assert sum(in_stages(p, groups)) == pytest.approx(entropy(p), abs=1e-12)


@pytest.mark.parametrize("p", [(0.5, 0.6), (1.5, -0.5), ((0.5, 0.5),), (np.nan, 1.0)])
def test_what_is_no_distribution_is_refused(p):
    with pytest.raises(ValueError, match="sum to one"):
        entropy(p)


def test_distributions_over_different_events_are_refused():
    with pytest.raises(ValueError, match="got 2 and 3 events"):
        kl(EARTH, (0.2, 0.3, 0.5))


# The best Gaussian's divergence by quadrature over its mean and sd, nats.
SOFTPLUS = {(1.0, 2.0): 1.603e-2, (2.5, 4.2): 3.453e-3, (10.0, 10.0): 5.589e-4}


@pytest.mark.parametrize(("shape", "rate"), gamma_transforms.TARGETS)
@pytest.mark.parametrize("transform", gamma_transforms.TRANSFORMS)
def test_gamma_fits_are_as_near_as_a_gaussian_can_be(shape, rate, transform):
    d = gamma_transforms.data(shape, rate)
    fit = advi.fit(gamma_transforms.model(transform), d, x64=True, diagnose=False)
    least = (
        gamma_transforms.least_divergence(shape) if transform == "exp" else SOFTPLUS[(shape, rate)]
    )
    # 64 fixed draws move the optimum a little, the divergence by the square of that
    assert gamma_transforms.divergence(fit, d) == pytest.approx(least, rel=0.01)


def test_gamma_least_divergence_is_that_of_the_gaussian_it_is_derived_from():
    """The Gaussian's mean and sd in log x, known exactly, by quadrature."""
    for shape, rate in gamma_transforms.TARGETS:
        log_x, step = np.linspace(-40, 10, 20_001, retstep=True)
        mean, var = np.log(shape / rate) - 0.5 / shape, 1 / shape
        log_q = -0.5 * ((log_x - mean) ** 2 / var + np.log(2 * np.pi * var))
        log_p = gamma_transforms.density(gamma_transforms.data(shape, rate), np.exp(log_x)) + log_x
        quadrature = (np.exp(log_q) * step) @ (log_q - log_p)
        assert gamma_transforms.least_divergence(shape) == pytest.approx(quadrature, abs=1e-10)


def test_gamma_prints_both_transforms(capsys):
    gamma_transforms.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[3] for row in rows] == ["8.106e-02", "3.316e-02", "8.331e-03"]
    assert all(float(row[4]) < float(row[2]) for row in rows)


@pytest.fixture(scope="module")
def mixture():
    d = gaussian_mixture.data()
    return d, gaussian_mixture.coordinate_ascent(d, gaussian_mixture.start(d))


def test_coordinate_ascent_climbs_to_a_fixed_point(mixture):
    d, ascent = mixture
    assert np.all(np.diff(ascent.elbo) > -1e-9)
    again = gaussian_mixture.coordinate_ascent(d, ascent.mean, rounds=50)
    assert again.elbo[-1] == pytest.approx(ascent.elbo[-1], abs=1e-9)
    np.testing.assert_allclose(again.mean, ascent.mean, atol=1e-8)


def test_given_responsibilities_the_fit_is_coordinate_ascent(mixture):
    d, ascent = mixture
    model = gaussian_mixture.model(density=gaussian_mixture.log_joint_given)
    given = {**d, "responsibilities": ascent.responsibilities}
    fit = advi.fit(model, given, family="mean_field", x64=True)
    # a quadratic log-joint: orthogonal draws integrate it exactly
    assert fit.elbo.value == pytest.approx(ascent.elbo[-1], abs=1e-6)
    np.testing.assert_allclose(fit.mean()["mu"], ascent.mean, atol=1e-5)
    np.testing.assert_allclose(fit.sd()["mu"], ascent.sd, rtol=1e-5)


def test_summing_components_out_tightens_the_bound(mixture):
    d, ascent = mixture
    begin = {"mu": gaussian_mixture.start(d)}
    fit = advi.fit(gaussian_mixture.model(), d, family="mean_field", init=begin, x64=True)
    assert fit.elbo.value > ascent.elbo[-1] + 5 * fit.elbo.mcse
    np.testing.assert_allclose(fit.mean()["mu"], ascent.mean, atol=0.1 * ascent.sd.min())
    assert np.all(fit.sd()["mu"] > ascent.sd)
    assert fit.verdict.level == "poor"  # its labels can be exchanged: there are other modes


def test_mixture_prints_three_fits(capsys):
    gaussian_mixture.main()
    text = capsys.readouterr().out
    bounds = [float(line[24:].split()[0]) for line in text.splitlines()[3:6]]
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-6)
    assert bounds[2] > bounds[0]
