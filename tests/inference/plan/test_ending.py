"""Fits that end in an unusual way: what there is comes back, and says why."""

import asyncio
import os
import signal
import stat

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi

rng = np.random.default_rng(0)
X = rng.standard_normal((2000, 2))
BATCHES = [
    {"x": X[i : i + 100], "y": X[i : i + 100] @ np.array([1.0, -2.0])} for i in range(0, 2000, 100)
]


def regression(z, d):
    off = d["y"] - d["x"] @ z["w"]
    return advi.Terms(-0.005 * z["w"] @ z["w"], rows=-0.5 * off**2)


LINEAR = advi.Model(regression, {"w": advi.real(2)})
NORMAL = advi.Model(lambda z, d: -0.5 * jnp.sum(z["x"] ** 2), {"x": advi.real(2)})


def test_a_fit_by_steps_that_lost_its_scale_comes_back_as_diverged():
    fit = advi.fit(NORMAL, optimizer=optax.sgd(5.0), max_steps=300)
    assert fit.status == "diverged"
    assert fit.verdict == "poor"
    assert "nothing to compare" in fit.verdict.reasons[-1]


class WordlessError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        (70, OSError("disk"), "before the first chunk of steps ended"),
        (400, WordlessError(), "its text cannot be told"),
        (400, asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_a_stream_that_breaks_after_its_start_was_found_gives_a_fit(batches, error, words):
    read = [0]

    def epoch():
        for batch in BATCHES:
            read[0] += 1
            if read[0] > batches:
                raise error
            yield batch

    fit = advi.fit(LINEAR, epoch, num_rows=2000, max_steps=2000)
    assert fit.status == "interrupted"
    assert words in fit.status.message
    assert fit.status.cause is error
    np.testing.assert_allclose(fit.mean()["w"], [1, -2], atol=0.1)


def test_ctrl_c_before_a_plan_has_begun_gives_the_start():
    sent = []

    def model(y):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("o", dist.Normal(a, 1), obs=y)

    fit = advi.fit(advi.from_numpyro(model), {"y": 1.0})
    assert fit.status == "interrupted"
    assert "where it would have started" in fit.status.message


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 20}, pytest.param({"optimizer": optax.sgd(1e-4)}, marks=pytest.mark.slow)],
)
def test_steps_in_float64_take_strict_promotion(arguments):
    def log_joint(z, d):
        return advi.Terms(-0.5 * z["x"] ** 2, rows=-0.5 * (d - z["x"]) ** 2)

    model, y = advi.Model(log_joint, {"x": advi.real()}), BATCHES[0]["y"]
    with jax.numpy_dtype_promotion("strict"):
        fit = advi.fit(model, y, max_steps=3, x64=True, diagnose=False, **arguments)
    assert fit.status == "max_steps"


def test_a_point_estimate_has_no_posterior_to_check():
    fit = advi.fit(NORMAL, family=advi.Point())
    assert "no posterior to compare with" in str(fit.verdict)
    assert "check()" not in str(fit.verdict)
    assert fit.check().verdict == "not checked"
    for correction in (fit.corrected, fit.linear_response):
        with pytest.raises(ValueError, match="no posterior to compare with"):
            correction()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_fit_replaces_no_pipe(tmp_path):
    fit = advi.fit(NORMAL, diagnose=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        fit.save(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
