"""Every worked model runs as a user runs it, and what it prints is true."""

import builtins
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import advi
from models import (
    breast_cancer_regression,
    bundled,
    coin_toss,
    diabetes_regression,
    eight_schools,
    logistic_regression,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def printed(capsys):
    """Run a model's main and return what it printed."""

    def run(module):
        module.main()
        return capsys.readouterr().out

    return run


def table(text, header, rows):
    """Return the numbers that end each of the lines below a header."""
    lines = text[text.index(header) :].splitlines()[1 : 1 + rows]
    return {line.split()[0]: [float(v) for v in line.split()[1:]] for line in lines}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Where the command draws, if it can."""
    return tmp_path_factory.mktemp("plot") / "schools.png" if find_spec("matplotlib") else None


@pytest.fixture(scope="module")
def command(picture):
    plot = ["--plot", str(picture)] if picture else []
    return subprocess.run(
        [sys.executable, "-m", "models.eight_schools", *plot],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_eight_schools_prints_its_data_the_fit_and_the_effects(command):
    text = command.stdout
    assert "Rubin (1981)" in text
    assert "status: converged" in text
    assert "verdict: good" in text
    effects = table(text, "school  estimate", 8)
    truth = eight_schools.exact(eight_schools.data())
    for j, school in enumerate("ABCDEFGH"):
        y, se, mean, _, exact_mean, exact_sd = effects[school]
        assert (y, se) == (eight_schools.EFFECT[j], eight_schools.STANDARD_ERROR[j])
        # the full-rank Gaussian of highest ELBO (20,000 Adam steps of 64 draws, two keys) is itself
        # up to 0.094 sd off; the plan, its 10,000 draws and the printing stay below 0.13 (12 keys)
        assert abs(mean - truth.theta_mean[j]) < 0.2 * truth.theta_sd[j]
        assert exact_mean == pytest.approx(truth.theta_mean[j], abs=0.051)
        assert exact_sd == pytest.approx(truth.theta_sd[j], abs=0.051)


def test_eight_schools_quadrature_agrees_with_another_one():
    """Against a plain grid over (mu, log tau), which shares no formula with `exact`."""
    d = eight_schools.data()
    mu, log_tau = np.linspace(-30, 40, 701)[:, None], np.linspace(-12, 8, 801)[None, :]
    tau = np.exp(log_tau)
    log_p = -0.5 * (mu / 5) ** 2 - np.log(5 * np.sqrt(2 * np.pi))
    log_p = log_p + np.log(2 / (5 * np.pi)) - np.log1p((tau / 5) ** 2) + log_tau
    for y, sigma in zip(d["y"], d["sigma"], strict=True):
        var = sigma**2 + tau**2
        log_p = log_p - 0.5 * np.log(2 * np.pi * var) - 0.5 * (y - mu) ** 2 / var
    p = np.exp(log_p) * (mu[1, 0] - mu[0, 0]) * (log_tau[0, 1] - log_tau[0, 0])
    truth = eight_schools.exact(d)
    # both rules are trapezoidal and analytic; what is cut off beyond the grid weighs below 1e-4
    assert np.log(p.sum()) == pytest.approx(truth.log_evidence, abs=1e-4)
    assert (p * mu).sum() / p.sum() == pytest.approx(truth.mu[0], abs=1e-3)
    assert (p * tau).sum() / p.sum() == pytest.approx(truth.tau[0], abs=1e-3)


def test_eight_schools_elbo_is_below_the_evidence():
    fit = advi.fit(eight_schools.model(), eight_schools.data())
    evidence = eight_schools.exact(eight_schools.data()).log_evidence
    assert fit.elbo.value < evidence + 4 * fit.elbo.mcse


def test_eight_schools_runs_as_a_command(command):
    assert command.returncode == 0, command.stderr
    assert "ELBO" in command.stdout
    assert "school  estimate" in command.stdout


def test_eight_schools_draws_its_effects(command, picture):
    if picture is None:
        pytest.skip("Matplotlib is not installed")
    assert command.stdout.endswith(f"picture: {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_eight_schools_needs_matplotlib_to_draw(monkeypatch, capsys):
    monkeypatch.setattr(eight_schools, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        eight_schools.main(["--plot"])
    assert "--plot needs Matplotlib" in capsys.readouterr().err


def test_coin_toss_prints_the_identity(printed):
    text = printed(coin_toss)
    assert "exact posterior: Beta(16, 8)" in text
    sums = [line.split()[-2] for line in text.splitlines() if line.startswith("their sum")]
    exact = [line.split()[-2] for line in text.splitlines() if line.startswith("exact log evid")]
    assert len(sums) == 2
    assert sums == exact


@pytest.mark.parametrize("family", coin_toss.FAMILIES)
@pytest.mark.parametrize(
    ("heads", "tails", "a", "b"), [(14, 6, 2.0, 2.0), (3, 0, 1.0, 1.0), (19, 1, 5.0, 1.0)]
)
def test_coin_toss_elbo_and_kl_sum_to_the_evidence(family, heads, tails, a, b):
    d = coin_toss.data(heads, tails, a, b)
    fit = advi.fit(coin_toss.model(), d, family=family, x64=True)
    parts, posterior = coin_toss.split(fit, d), coin_toss.exact(d)
    # float64 throughout, and a trapezoidal rule that has converged: rounding is what is left
    assert parts.mass == pytest.approx(1, abs=1e-9)
    assert parts.elbo + parts.kl == pytest.approx(posterior.log_evidence, abs=1e-8)
    assert parts.kl > 0
    assert abs(fit.elbo.value - parts.elbo) < 5 * fit.elbo.mcse


def test_coin_toss_evidence_is_that_of_the_sequence():
    """Summed over all sequences of three tosses the evidence is one: no coefficient is missing."""
    log_evidence = [coin_toss.exact(coin_toss.data(h, 3 - h)).log_evidence for h in range(4)]
    assert np.array([1, 3, 3, 1]) @ np.exp(log_evidence) == pytest.approx(1, abs=1e-12)


def test_diabetes_fit_is_the_exact_posterior():
    d = diabetes_regression.data()
    fit = advi.fit(diabetes_regression.model(), d.train)
    truth = diabetes_regression.exact(d.train)
    mean, sd = (np.concatenate([[t["intercept"]], t["slopes"]]) for t in (fit.mean(), fit.sd()))
    exact_sd = np.sqrt(np.diag(truth.cov()))
    # the posterior is a t with over 350 degrees of freedom: a Gaussian misses it by less than this
    assert np.all(np.abs(mean - truth.mean) < 0.05 * exact_sd)
    assert np.all(np.abs(sd / exact_sd - 1) < 0.03)
    assert fit.elbo.value == pytest.approx(truth.log_evidence, abs=0.05)


def test_diabetes_prints_held_out_scores(printed):
    text = printed(diabetes_regression)
    assert "442 rows, 10 predictors; 354 rows to fit, 88 held out" in text
    lines = [line for line in text.splitlines() if line.startswith(("this fit", "exact post"))]
    fit, exact = (np.array(line.split()[2:], float) for line in lines)
    # 4,000 draws: 0.02 of a noise sd of about 54 in the predictions, 0.01 nats in the density
    assert fit == pytest.approx(exact, abs=0.5)
    assert fit[1] == pytest.approx(exact[1], abs=0.01)


def test_diabetes_predictive_density_integrates_to_one():
    d = diabetes_regression.data()
    truth = diabetes_regression.exact(d.train)
    y = np.linspace(-1500, 1800, 20_001)
    grid = {"x": np.repeat(d.test["x"][:1], len(y), axis=0), "y": y}
    mass = np.exp(truth.log_predictive(grid)).sum() * (y[1] - y[0])
    # the t's constant subtracts two log-gammas near 740, each rounded to 6e-5 in float32
    assert mass == pytest.approx(1, abs=1e-4)


def test_breast_cancer_beats_the_base_rate_and_stands_beside_the_ridge(printed):
    text = printed(breast_cancer_regression)
    assert "569 rows, 30 predictors" in text
    lines = [line for line in text.splitlines() if line.startswith(("this fit", "scikit", "base"))]
    fit, ridge, base = (np.array(line.split()[-2:], float) for line in lines)
    # 114 held-out rows: one standard error of an accuracy near 0.97 is 0.016
    assert abs(fit[0] - ridge[0]) < 0.05
    assert fit[0] > base[0] + 0.2
    assert fit[1] > base[1] / 3


def test_logistic_regression_prints_both_fits(capsys):
    logistic_regression.main(["--rows", "2000", "--batch-size", "256"])
    text = capsys.readouterr().out
    assert "2,000 rows in minibatches of 256" in text
    assert "1,000 rows as a whole" in text
    truth, apart, ratio = (float(line.split(": ")[1].split()[0].rstrip(",")) for line in
                           text.splitlines()[-3:])  # fmt: skip
    # the largest of eleven standard normal distances
    assert truth < 4
    assert apart < 4
    assert ratio == pytest.approx(np.sqrt(2), rel=0.05)


@pytest.mark.slow  # short: the test before, of fewer steps
@pytest.mark.parametrize("num_rows", [2000, 20_000])
def test_logistic_minibatches_end_where_all_rows_do(num_rows):
    rows = logistic_regression.data(num_rows).rows
    model = logistic_regression.model()
    small = advi.fit(model, rows, batch_size=256, family="full_rank", diagnose=False)
    whole = advi.fit(model, rows, diagnose=False)
    (mean, sd), (exact, exact_sd) = (logistic_regression.moments(f) for f in (small, whole))
    assert np.all(np.abs(mean - exact) < 0.05 * exact_sd)
    assert np.all(np.abs(sd / exact_sd - 1) < 0.03)


def test_held_out_rows_are_not_seen_when_standardising():
    d = diabetes_regression.data()
    assert len(d.train["y"]) + len(d.test["y"]) == 442
    np.testing.assert_allclose(d.train["x"].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(d.train["x"].std(0), 1, rtol=1e-12)
    assert np.abs(d.test["x"].mean(0)).max() > 1e-3


def test_missing_scikit_learn_says_how_to_install_it(monkeypatch):
    real_import = builtins.__import__

    def no_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_sklearn)
    with pytest.raises(ImportError, match=r'pip install "advi-engine\[test\]"'):
        bundled.datasets()
