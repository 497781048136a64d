"""The posteriors of posteriordb: definitions held to the reference draws, fits beside them."""

import functools
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import advi
from models import posteriordb
from models.posteriordb import __main__ as command
from models.posteriordb import time_series
from models.posteriordb.checkout import FOLDER, VARIABLE, find_root
from models.posteriordb.definition import scalar_columns

BESIDE = Path(__file__).parents[2] / "shared" / "posteriordb"


def checkout():
    """Return a checkout: what the environment names, or one beside this repository."""
    try:
        return find_root(os.environ.get(VARIABLE) or BESIDE)
    except FileNotFoundError:
        return None


ROOT = checkout()
needs_checkout = pytest.mark.skipif(
    ROOT is None,
    reason=f"no checkout of posteriordb: {VARIABLE} names none, nor is one in {BESIDE}",
)
every_posterior = pytest.mark.parametrize("name", posteriordb.NAMES)
# whose densities take the longest to compile
LONG = ("hmm_drive_0", "low_dim_gauss_mix", "gp_regr", "diamonds")
every_density = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in posteriordb.NAMES
    ],
)


def latents(posterior):
    """Return the latents of the reference draws, by name, every one (n, *shape)."""
    reference = posterior.reference

    def stacked(name, shape):
        if not shape:
            return reference[name]
        return np.stack([reference[f"{name}[{i + 1}]"] for i in range(*shape)], axis=1)

    derived = {
        "eta": lambda: (
            (stacked("theta", (8,)) - reference["mu"][:, None]) / reference["tau"][:, None]
        ),
        "beta1_share": lambda: reference["beta1"] / (1 - reference["alpha1"]),
    }
    return {
        name: derived[name]() if name in derived else stacked(name, latent.shape)
        for name, latent in posterior.model.latents.items()
    }


class Reference(NamedTuple):
    """The reference draws on the real line, and the log density there and elsewhere."""

    x: np.ndarray  # (n, D)
    values: np.ndarray  # (n,)
    gradients: np.ndarray  # (n, D)
    at_mean: float
    away: np.ndarray  # (2,) ten sds to either side of the mean


BATCH = 500  # of which the 10,000 draws are a multiple


@functools.lru_cache
def at_reference(name):
    """Return the density at the reference draws, in float64 and by the log-joint alone."""
    posterior = posteriordb.load(name, ROOT)
    model = posterior.model

    def log_density(x, data):
        values, log_dets = model.unravel(x)
        out = model.log_joint(model.to_tree(values), data)
        return (out.total() if isinstance(out, advi.Terms) else out) + sum(log_dets.values())

    @jax.jit
    def evaluate(draws, data):
        x = jax.vmap(model.ravel)(draws)
        mean, sd = x.mean(0), x.std(0)
        away = mean + jnp.array([[0], [-10], [10]]) * sd
        # whole batches: what is left over would be compiled once more
        points = jnp.concatenate([x, jnp.resize(away, (BATCH, x.shape[1]))])
        one = functools.partial(jax.value_and_grad(log_density), data=data)
        return x, *jax.lax.map(one, points, batch_size=BATCH)

    with jax.enable_x64(True):
        x, values, gradients = map(np.asarray, evaluate(latents(posterior), posterior.data))
    n = len(x)
    return Reference(x, values[:n], gradients[:n], float(values[n]), values[n + 1 : n + 3])


@needs_checkout
@every_posterior
def test_columns_are_the_reference_s(name):
    posterior = posteriordb.load(name, ROOT)
    columns = posterior.columns(latents(posterior))
    assert list(columns) == list(posterior.reference)
    for scalar, draws in posterior.reference.items():
        assert draws.shape == (10_000,)
        # derived latents are undone again: rounding, in units of the sd, is what is left
        np.testing.assert_allclose(columns[scalar], draws, rtol=0, atol=1e-11 * draws.std())


@needs_checkout
@every_density
def test_density_is_finite_at_the_reference_and_falls_away_from_it(name):
    reference = at_reference(name)
    assert np.all(np.isfinite(reference.values))
    assert np.all(np.isfinite(reference.gradients))
    # NaN, where a Cholesky factor fails far away, is no rise
    assert not np.any(reference.away > reference.at_mean)


@needs_checkout
@every_density
def test_score_has_the_moments_it_has_under_the_posterior(name):
    """If p is the density of the draws x, E[grad log p] = 0 and E[(x - mean) grad' log p] = -I.

    Both hold for any density, by parts, and neither knows of this project's engine. A prior left
    out shifts them: 10,000 draws resolve a change of a mean by 0.05 sd.
    """
    reference = at_reference(name)
    x, n = reference.x, len(reference.x)
    factor = np.linalg.cholesky(np.cov(x.T))
    white = np.linalg.solve(factor, (x - x.mean(0)).T).T
    score = reference.gradients @ factor
    products = white[:, :, None] * score[:, None, :]
    # the largest of at most 702 statistics is below 5 standard errors but once in 2,000 times
    assert np.all(np.abs(score.mean(0)) < 5 * score.std(0) / np.sqrt(n))
    identity = np.eye(x.shape[1])
    assert np.all(np.abs(products.mean(0) + identity) < 5 * products.std(0) / np.sqrt(n))


@needs_checkout
def test_lotka_volterra_steps_are_fine_enough():
    posterior = posteriordb.load("lotka_volterra", ROOT)
    z = {name: draws[::100] for name, draws in latents(posterior).items()}
    y, times = posterior.data["y"], posterior.data["ts"]
    with jax.enable_x64(True):

        @functools.partial(jax.jit, static_argnums=1)
        def log_lik(z, steps):
            def one(theta, first, sigma):
                sizes = time_series.log_populations(theta, first, times, steps)
                return dist.LogNormal(sizes, sigma).log_prob(y).sum()

            return jax.vmap(one)(z["theta"], z["z_init"], z["sigma"])

        coarse, fine = log_lik(z, time_series.STEPS_A_YEAR), log_lik(z, 64)
    np.testing.assert_allclose(coarse, fine, rtol=0, atol=1e-3)


@needs_checkout
@pytest.mark.parametrize("name", ["kidscore_momhs", "nes1996", "arK"])
def test_default_fit_agrees_with_the_reference(name):
    posterior = posteriordb.load(name, ROOT)
    fit = advi.fit(posterior.model, posterior.data)
    near = command.agreement(posterior, posterior.columns(fit.sample(20_000)))
    assert fit.status == "converged"
    assert near.worst_mean < 0.1
    assert near.least_sd > 0.9
    assert near.greatest_sd < 1.1


@needs_checkout
def test_command_prints_a_line_for_each_posterior(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["posteriordb", "earn_height", "--posteriordb", str(ROOT)])
    command.main()
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[:3] == ["earn_height", "3", "converged"]
    assert float(line[-3]) < 0.1  # the difference of means
    assert all(0.9 < float(ratio) < 1.1 for ratio in line[-2:])


@pytest.fixture
def small(tmp_path):
    """A checkout with one posterior, in two chains of two draws."""
    files = {
        "posteriors/earnings-earn_height.json": {
            "data_name": "earnings",
            "reference_posterior_name": "earnings-earn_height",
        },
        "data/data/earnings.json": {"earn": [1, 2, 4], "height": [60, 65, 70]},
        "reference_posteriors/draws/draws/earnings-earn_height.json": [
            {"beta[1]": [1.0, 2.0], "sigma": [3.0, 4.0]},
            {"beta[1]": [5.0, 6.0], "sigma": [7.0, 8.0]},
        ],
    }
    for name, content in files.items():
        path = tmp_path / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def test_reads_a_checkout_or_its_folder_zipped_or_not(small, monkeypatch):
    plain = small / FOLDER / "data" / "data" / "earnings.json"
    with zipfile.ZipFile(plain.with_name("earnings.json.zip"), "w") as archive:
        archive.write(plain, "earnings.json")
    plain.unlink()
    monkeypatch.setenv(VARIABLE, str(small / FOLDER))
    for root in (small, small / FOLDER, None):
        posterior = posteriordb.load("earn_height", root)
        np.testing.assert_array_equal(posterior.data["X"], [[1, 60], [1, 65], [1, 70]])
        np.testing.assert_array_equal(posterior.reference["sigma"], [3, 4, 7, 8])
        # of the parameters only those with reference draws
        columns = posterior.columns({"beta": np.zeros((5, 2)), "sigma": np.ones(5)})
        assert list(columns) == ["beta[1]", "sigma"]


def test_no_checkout_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    for root in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"git clone .*--posteriordb.*POSTERIORDB"):
            posteriordb.load("earn_height", root)
    monkeypatch.setattr(sys, "argv", ["posteriordb"])
    with pytest.raises(SystemExit):
        command.main()
    assert "git clone" in capsys.readouterr().err


def test_unknown_names_are_told_the_known_ones(small, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"got 'earn'; expected one of .*earn_height"):
        posteriordb.load("earn", small)
    monkeypatch.setattr(sys, "argv", ["posteriordb", "earn", "--posteriordb", str(small)])
    with pytest.raises(SystemExit):
        command.main()
    assert "earn_height" in capsys.readouterr().err


def test_matrices_are_named_as_stan_names_them():
    columns = scalar_columns({"L": np.arange(8.0).reshape(2, 2, 2)})
    assert list(columns) == ["L[1,1]", "L[1,2]", "L[2,1]", "L[2,2]"]
    np.testing.assert_array_equal(columns["L[2,1]"], [2, 6])
