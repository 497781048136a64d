"""Fits by few steps are where those by many are, or say how far they had still to go."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from advi.core.status import MAX_DRIFT
from advi.inference.stochastic.convergence import distance_of_unread
from tests import targets

N, BATCH = 20_000, 100
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 3)).astype(np.float32)
Y = (X @ np.float32([5, -2, 0.5]) + RNG.standard_normal(N)).astype(np.float32)
DATA = {"x": X, "y": Y}
ORDER = np.argsort(Y)


def log_joint(z, d):
    prior = -0.005 * z["w"] @ z["w"] - 0.5 * z["s"] ** 2
    off = (d["y"] - d["x"] @ z["w"]) / z["s"]
    return advi.Terms(prior, rows=-0.5 * off**2 - jnp.log(z["s"]))


MODEL = advi.Model(log_joint, {"w": advi.real(3), "s": advi.positive()})


def cut(data=DATA):
    return [{n: v[i : i + BATCH] for n, v in data.items()} for i in range(0, N, BATCH)]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, leaf in DATA.items():
        np.save(folder / f"{name}.npy", leaf[ORDER])
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DATA}


def handed_in(way, mapped):
    """The rows, in every way that they may be handed in."""
    streamed = {
        "batches": cut(),
        "sorted batches": cut({n: v[ORDER] for n, v in DATA.items()}),
        "without end": lambda: itertools.cycle(cut()),
    }
    if way in streamed:
        return {"data": streamed[way], "num_rows": N}
    return {"data": mapped if way == "sorted file" else DATA, "batch_size": BATCH}


WAYS = ["memory", "batches", "sorted batches", "without end", "sorted file"]
SHORT = {("memory", 1), ("batches", 0.2), ("batches", 1), ("sorted batches", 0.2),
         ("sorted batches", 1), ("without end", 1), ("sorted file", 0.2)}  # fmt: skip
CASES = [
    pytest.param(way, epochs, marks=[] if (way, epochs) in SHORT else pytest.mark.slow)
    for way in WAYS
    for epochs in (0.2, 1, 3)
]


@pytest.fixture(scope="module")
def whole():
    return advi.fit(MODEL, DATA, family="mean_field", diagnose=False)


def off(fit, whole):
    """The largest error of a mean, sds, and of an sd as a ratio."""
    sd = whole.sd()
    return (
        max(np.abs((fit.mean()[n] - whole.mean()[n]) / sd[n]).max() for n in sd),
        max(np.abs(np.log(fit.sd()[n] / sd[n])).max() for n in sd),
    )


@pytest.mark.parametrize(("way", "epochs"), CASES)
def test_the_answer_does_not_depend_on_how_rows_are_handed_in(way, epochs, whole, mapped):
    fit = advi.fit(
        MODEL, **handed_in(way, mapped), max_steps=int(epochs * N / BATCH), key=1, diagnose=False
    )
    assert fit.status == "max_steps"
    shift, stretch = off(fit, whole)
    told = "give more steps" in fit.status.message
    assert told == (fit.diagnostics["drift"] > MAX_DRIFT) == bool(fit.verdict.reasons)
    assert told or (shift < 0.2 and stretch < 0.1)
    # what says nothing of its order is where it should be after one epoch, and a file always is
    if (way in ("memory", "batches", "sorted file") and epochs >= 1) or way == "memory":
        assert not told
    if epochs < 1 and way != "memory":
        assert f"4,000 of {N:,} rows were read" in fit.status.message
        assert fit.diagnostics["drift"] >= distance_of_unread(N, 4000) == 2


def test_one_batch_is_enough_to_start_near(whole):
    fit = advi.fit(MODEL, cut(), num_rows=N, max_steps=1, diagnose=False)
    # 2,048 rows and a look at them: about sqrt(20,000 / 2,048) = 3 sds, and not hundreds
    assert off(fit, whole)[0] < 12
    assert fit.diagnostics["drift"] > 2


def test_latents_that_there_is_no_start_for_move_in_their_own_units():
    """More of them than the plan on some rows is for: steps of hundredths of an sd lead nowhere."""
    dim, num = 260, 8000
    rng = np.random.default_rng(1)
    x = rng.standard_normal((num, dim)).astype(np.float32)
    data = {"x": x, "y": (x @ rng.standard_normal(dim) + rng.standard_normal(num)).astype("f4")}
    model = advi.Model(
        lambda z, d: advi.Terms(
            -0.005 * z["w"] @ z["w"], rows=-0.5 * (d["y"] - d["x"] @ z["w"]) ** 2
        ),
        {"w": advi.real(dim)},
    )
    fit = advi.fit(model, data, batch_size=100, max_steps=2500, diagnose=False)
    best = np.linalg.lstsq(x.astype(float), data["y"].astype(float), rcond=None)[0]
    assert np.abs(fit.mean()["w"] - best).max() < np.sqrt(num) ** -1


def test_an_optimiser_that_was_still_moving_says_so(tmp_path):
    target = targets.conjugate_normal(n=60)
    sd = np.sqrt(target.cov[0, 0])
    rate = {"optimizer": optax.sgd(2e-4), "objective": advi.Elbo(draws=4)}
    fit = advi.fit(target.model, target.data, max_steps=100, **rate)
    assert abs(fit.mean()["x"][0] - target.mean[0]) > sd
    assert fit.status == "max_steps"
    assert "still moving at the end: the means drifted by up to" in fit.status.message
    assert fit.diagnostics["drift"] == fit._record.outcome.drift > MAX_DRIFT
    assert fit.verdict.level == "poor"
    assert "had not converged" in fit.verdict.reasons[0]
    fit.save(tmp_path / "moving.advi")
    assert advi.load(tmp_path / "moving.advi").diagnostics["drift"] == fit.diagnostics["drift"]
    unchecked = advi.fit(target.model, target.data, max_steps=100, diagnose=False, **rate)
    assert unchecked.verdict.level == "poor"  # known without looking
    assert unchecked.verdict.reasons == fit.verdict.reasons[:1]
    assert "more steps" in unchecked.verdict.action
    there = advi.fit(target.model, target.data, max_steps=4000, diagnose=False, **rate)
    assert there.diagnostics["drift"] < MAX_DRIFT
    assert "moving" not in there.status.message
    assert there.verdict.level == "not checked"
    assert there.verdict.reasons == ()


def test_what_has_no_sd_has_no_drift():
    target = targets.conjugate_normal(n=60)
    by_plan = advi.fit(target.model, target.data, diagnose=False)
    assert np.isnan(by_plan.diagnostics["drift"])
    few = {"batch_size": 6, "max_steps": 3, "diagnose": False}
    fit = advi.fit(target.model, target.data, family=advi.Point(), **few)
    assert np.isnan(fit.diagnostics["drift"])
    assert "give more steps" not in fit.status.message


# of rows in memory by another program of the same steps
@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_far_too_wide_is_told_by_its_rising_elbo(stream, whole, tmp_path):
    """The windows' distance says nothing there: it is measured by the fit's own sds."""
    given = handed_in("batches" if stream else "memory", None)
    slow = {"init": {"w": np.zeros(3), "s": 1.0}, "max_steps": 300, "diagnose": False}
    fit = advi.fit(MODEL, **given, **slow, optimizer=optax.adam(1e-5))
    assert off(fit, whole)[0] > 100
    assert fit.diagnostics["drift"] == np.inf
    assert "still moving at the end: the ELBO rose by" in fit.status.message
    assert fit.verdict.level == "poor"
    assert "the ELBO was still rising" in fit.verdict.reasons[0]
    fit.save(tmp_path / "wide.advi")
    assert advi.load(tmp_path / "wide.advi").diagnostics["drift"] == np.inf
