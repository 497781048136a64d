"""Worked models with hierarchies run as a user runs them, and find what was simulated."""

import functools
import os

import numpy as np
import pytest

import advi
from models import item_response, polls, ratings, shared_data, spatial_counts

SMALL = {
    ratings: functools.partial(ratings.simulate, 40, 15, 600),
    item_response: functools.partial(item_response.simulate, 40, 12),
    polls: functools.partial(polls.simulate, 1000),
    spatial_counts: spatial_counts.simulate,
}


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a model's main on small simulated data, without a verdict; return what it printed."""
    monkeypatch.delenv(shared_data.VARIABLE, raising=False)
    monkeypatch.setattr(advi, "fit", functools.partial(advi.fit, diagnose=False))

    def printed(module, family, *arguments):
        monkeypatch.setattr(module, "simulate", SMALL[module])
        module.main(["--family", family, *arguments])
        return capsys.readouterr().out

    return printed


@pytest.fixture
def shared(capsys):
    """Run a model's main on the shared data; return what it printed."""
    if not os.environ.get(shared_data.VARIABLE):
        pytest.skip(f"{shared_data.VARIABLE} names no folder of shared data")

    def printed(module):
        module.main([])
        return capsys.readouterr().out

    return printed


def figures(text, known):
    """Return mean, sd and what is printed beside for every figure."""
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    return {name: [float(v) for v in rows[name] if v != "-"] for name in known}


def assert_near(text, known):
    for name, (mean, sd, beside) in figures(text, known).items():
        assert beside == pytest.approx(known[name][0], abs=5e-4)
        # a Gaussian takes the sds of standard deviations up to half too small
        assert abs(mean - beside) < (8 if name == "step" or name.endswith("_sd") else 4) * sd


def errors(text, start):
    """Return RMS error, posterior sd and coverage of the line that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    words = line.replace(",", "").replace("%", "").split()
    return [float(words[words.index(w) + 1]) for w in ("error", "sd", "hold")]


def test_ratings_find_the_simulated_values(run):
    text = run(ratings, "sparse")
    assert "simulated, 600 ratings by 40 students of 15 lecturers" in text
    assert_near(text, ratings.SIMULATED)
    for name, effect_sd in (("student", 0.4), ("lecturer", 0.5)):
        error, sd, _ = errors(text, f"{name} effects")
        assert error < effect_sd  # of no estimate at all
        assert error == pytest.approx(sd, rel=0.6)


def test_answers_find_the_simulated_values(run):
    text = run(item_response, "sparse")
    assert "simulated, 480 answers of 40 persons to 12 items" in text
    assert_near(text, item_response.SIMULATED)
    error, sd, covered = errors(text, "person effects")
    assert error < 1.3
    assert error == pytest.approx(sd, rel=0.4)
    assert covered > 75


def test_polls_estimate_states_better_than_raw_shares(run):
    text = run(polls, "full_rank")
    assert_near(text, polls.SIMULATED)
    error, sd, covered = errors(text, "states")
    assert error == pytest.approx(sd, rel=0.4)
    assert covered > 75  # of 51 states, whose estimates have errors in common
    poll = SMALL[polls]()
    asked = [poll.rows["y"][poll.rows["state"] == k] for k in range(51)]
    raw = [y.mean() - share for y, share in zip(asked, poll.shares, strict=True) if len(y)]
    assert error < 0.7 * np.sqrt(np.mean(np.square(raw)))


def test_states_weight_their_kinds_of_persons():
    cells = SMALL[polls]().cells
    in_states = np.bincount(cells["state"], cells["persons"])
    women = polls.by_state(cells["x"][None, :, 0], cells)[0]
    counted = np.bincount(cells["state"], cells["persons"] * cells["x"][:, 0])
    np.testing.assert_allclose(women, counted / in_states, rtol=1e-6)
    assert [len(region.split()) for region in polls.REGIONS] == [12, 12, 13, 13, 1]
    assert len(set(polls.STATES)) == 51


def test_spatial_counts_find_the_simulated_log_rate(run):
    text = run(spatial_counts, "full_rank", "--side", "10")
    assert "10 x 10 cells" in text
    assert_near(text, spatial_counts.SIMULATED)
    error, sd, covered = errors(text, "log rate, fit")
    alone = float(text.splitlines()[-1].split()[-1])
    assert error < 0.7 * alone
    assert error == pytest.approx(sd, rel=0.35)
    assert covered > 75


def test_log_rate_has_the_density_of_a_random_walk():
    """Against a dense normal density whose precision is made from the differences."""
    side, step, mu = 4, 0.7, 0.3
    rng = np.random.default_rng(0)
    path = np.diff(np.eye(side), axis=0)
    differences = np.concatenate([np.kron(path, np.eye(side)), np.kron(np.eye(side), path)])
    precision = differences.T @ differences / step**2
    precision += np.eye(side**2) / spatial_counts.WEAK_SD**2
    rows = {"y": np.zeros((side, side), int), "laplacian": spatial_counts.eigenvalues(side)}

    def both(x):
        z = {"mu": np.float32(mu), "step": np.float32(step), "log_rate": x.astype(np.float32)}
        dense = 0.5 * np.linalg.slogdet(precision / (2 * np.pi))[1]
        dense -= 0.5 * (x - mu).ravel() @ precision @ (x - mu).ravel()
        hyper = -0.5 * (mu / 2) ** 2 - np.log(2 * np.sqrt(2 * np.pi))
        hyper += np.log(2 / np.sqrt(2 * np.pi)) - 0.5 * step**2
        return float(spatial_counts.log_joint(z, rows)), dense + hyper - np.exp(x).sum()

    for x in rng.standard_normal((2, side, side)):
        ours, dense = both(x)
        assert ours == pytest.approx(dense, abs=1e-3)


def test_simulated_log_rates_have_the_simulated_steps():
    counts = spatial_counts.simulate(60)
    # in two dimensions a difference has half the variance that it has by itself: each is held by
    # the paths around it, so that there are two differences for every degree of freedom
    differences = np.concatenate([np.diff(counts.log_rate, axis=a).ravel() for a in (0, 1)])
    assert differences.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_a_folder_that_is_named_has_to_be_there(monkeypatch, tmp_path):
    monkeypatch.delenv(shared_data.VARIABLE, raising=False)
    assert shared_data.find_named_data() is None
    with pytest.raises(FileNotFoundError, match="expected one with rdata and election88"):
        ratings.main(["--data", str(tmp_path)])


@pytest.mark.slow  # one to two minutes each
@pytest.mark.parametrize(
    ("module", "known", "rel"),
    [(ratings, ratings.REML, 0.03), (item_response, item_response.MAXIMUM_LIKELIHOOD, 0.35)],
)
def test_real_data_agree_with_lme4(shared, module, known, rel):
    """Posterior sds of a standard deviation of 24 items reach above its estimate by a quarter."""
    for name, (mean, sd, *beside) in figures(shared(module), known).items():
        if len(beside) == 2:
            assert abs(mean - beside[0]) < 0.5 * beside[1]  # some 60 effective draws
            assert sd == pytest.approx(beside[1], rel=rel)
        elif name == "mu":
            assert sd == pytest.approx(beside[0], rel=0.15)
        else:
            assert mean == pytest.approx(beside[0], rel=rel)


@pytest.mark.slow  # one to two minutes
def test_polls_of_1988_agree_with_gelman_and_hill(shared):
    text = shared(polls)
    assert "2,015 answers in 49 states" in text
    for mean, sd, *beside in figures(text, ("female", "black", "female_black")).values():
        assert abs(mean - beside[0]) < 0.25 * sd + 0.05  # they are rounded to a digit
        assert sd == pytest.approx(beside[1], abs=0.051)
