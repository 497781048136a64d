"""Ctrl-C at any moment of a fit returns a fit; what a stream raises does not lose one."""

import copy
import itertools
import pickle
import signal
import sys
import threading

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from advi.core import interrupts
from advi.data.reader import Reader
from advi.inference.stochastic import checkpoint, loop, steps_fit, warm_start
from advi.inference.stochastic.global_ends import GlobalEnds
from advi.model.density import Density
from benchmarks import interrupt

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 2)).astype(np.float32)
DATA = {"x": X, "y": X @ np.float32([1, -2]) + RNG.standard_normal(120).astype(np.float32)}
BATCHES = [{n: v[i : i + 20] for n, v in DATA.items()} for i in range(0, 120, 20)]


def log_joint(z, d):
    prior = -0.005 * z["w"] @ z["w"] - 0.5 * z["s"] ** 2
    off = (d["y"] - d["x"] @ z["w"]) / z["s"]
    return advi.Terms(prior, rows=-0.5 * off**2 - jnp.log(z["s"]))


def by_row(z, d):
    return advi.Terms(0.0, rows=-0.5 * z["h"] ** 2 - 0.5 * (d["y"] - z["h"]) ** 2)


LATENTS = {"w": advi.real(2), "s": advi.positive()}
MODEL = advi.Model(log_joint, LATENTS)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def after(monkeypatch, owner, name, calls=1):
    """Have Ctrl-C come in the middle of a call of a function, the first one or a later one."""
    function, count = getattr(owner, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(count) == calls:
            ctrl_c()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.fixture(autouse=True)
def _handler_is_put_back():
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupts.check()  # and nothing is left


def assert_kept(fit, word):
    assert fit.status == "interrupted"
    assert word in fit.status.message
    assert isinstance(fit.status.cause, KeyboardInterrupt)
    assert fit.verdict.level in ("not checked", "poor")
    assert "did not converge: interrupted" in fit.verdict.reasons[0]
    assert all(np.isfinite(leaf).all() for p in fit.posterior.params for leaf in p)
    assert repr(fit)


PATHS = {
    "plan": {"data": DATA},
    "optimizer": {"data": DATA, "optimizer": optax.adam(0.1)},
    "minibatches": {"data": DATA, "batch_size": 20},
    "stream": {"data": BATCHES, "num_rows": 120},
    "local": {"data": DATA, "batch_size": 20},
}


@pytest.mark.parametrize("path", PATHS)
def test_while_a_log_joint_is_traced(path):
    """Nothing is compiled any more; the fit is where it would have started."""
    latents = {"h": advi.real(local=True)} if path == "local" else LATENTS
    function = by_row if path == "local" else log_joint

    def interrupted(z, d):
        if not pressed:
            pressed.append(True)
            ctrl_c()
        return function(z, d)

    pressed = []
    fit = advi.fit(advi.Model(interrupted, latents), **PATHS[path])
    assert pressed
    assert_kept(fit, "start")
    assert fit.diagnostics["num_gradients"] == 0
    assert np.isnan(fit.elbo.value)


@pytest.mark.parametrize(
    ("path", "owner", "name", "calls", "word"),
    [
        ("plan", Density, "value_and_grad", 3, "start"),
        ("plan", Density, "value_and_grad", 36, "so far"),
        ("minibatches", Density, "value_and_grad", 40, "search for a start"),
        ("minibatches", warm_start, "toward_all_rows", 1, "search for a start"),
        ("stream", warm_start, "plan_on", 1, "search for a start"),
        ("stream", Reader, "__enter__", 1, "before the first chunk"),
        ("minibatches", steps_fit, "run_steps", 1, "before the first chunk"),
        ("optimizer", GlobalEnds, "start", 1, "before the first chunk"),
        ("stream", loop, "take_chunk", 3, "after step 384"),
        ("minibatches", loop, "take_chunk", 3, "after step 384"),
    ],
)
def test_wherever_it_comes(path, owner, name, calls, word, monkeypatch):
    after(monkeypatch, owner, name, calls)
    assert_kept(advi.fit(MODEL, **PATHS[path], max_steps=1000), word)


def test_what_the_search_for_a_start_had_is_kept(monkeypatch):
    whole = advi.fit(MODEL, DATA, diagnose=False)
    after(monkeypatch, warm_start, "toward_all_rows")
    fit = advi.fit(MODEL, **PATHS["minibatches"])
    off = (fit.mean()["w"] - whole.mean()["w"]) / whole.sd()["w"]
    assert np.abs(off).max() < 0.1


def test_in_the_last_evaluation_the_steps_are_kept(monkeypatch):
    whole = advi.fit(MODEL, DATA, batch_size=20, max_steps=2000, diagnose=False)
    after(monkeypatch, GlobalEnds, "select")
    fit = advi.fit(MODEL, DATA, batch_size=20, max_steps=2000)
    assert fit.status == "max_steps"
    assert "interrupted in the last evaluation" in fit.status.message
    assert isinstance(fit.status.cause, KeyboardInterrupt)
    assert fit.verdict.level == "not checked"
    assert fit.elbo.value == pytest.approx(whole.elbo.value, abs=4 * fit.elbo.mcse)
    np.testing.assert_array_equal(fit.mean()["w"], whole.mean()["w"])


def test_in_the_verdict_it_costs_the_verdict(monkeypatch):
    after(monkeypatch, sys.modules["advi.api.fit"], "examined")
    fit = advi.fit(MODEL, DATA)
    assert fit.status == "converged"
    assert fit.verdict.level == "not checked"


def test_in_a_write_of_a_checkpoint_nothing_is_lost(monkeypatch, tmp_path):
    arguments = {"batch_size": 20, "max_steps": 400, "diagnose": False}
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", np.inf)
    after(monkeypatch, checkpoint, "write", 3)
    fit = advi.fit(MODEL, DATA, checkpoint=tmp_path, **arguments)
    assert_kept(fit, "after step")
    again = advi.fit(MODEL, DATA, checkpoint=tmp_path, **arguments)
    alone = advi.fit(MODEL, DATA, **arguments)
    assert again.posterior.params[0].loc.tobytes() == alone.posterior.params[0].loc.tobytes()


@pytest.mark.parametrize("batches", [2, 9, 60])
def test_a_stream_that_hangs_is_not_waited_for(batches):
    """While it is read for a start, and while steps are taken; it is a thread that hangs."""
    calls, free = itertools.count(1), threading.Event()

    def epoch():
        for batch in BATCHES:
            if next(calls) == batches:
                ctrl_c()
                assert free.wait(60)
            yield batch

    fit = advi.fit(MODEL, epoch, num_rows=120, max_steps=5000)
    hanging = [t for t in threading.enumerate() if t.name == "advi-prefetch"]
    free.set()
    assert_kept(fit, "interrupted")
    assert hanging  # or it would have been waited for
    for thread in hanging:
        thread.join()


def test_the_first_batch_is_where_nothing_is_there_yet():
    def epoch():
        ctrl_c()
        yield from BATCHES

    with pytest.raises(KeyboardInterrupt):
        advi.fit(MODEL, epoch, num_rows=120)


def test_a_callback_is_stopped_where_it_is():
    def callback(progress):
        if progress.step >= 256:
            ctrl_c()
            raise AssertionError("not reached")

    assert_kept(advi.fit(MODEL, **PATHS["minibatches"], callback=callback), "after step 256")


def test_a_second_one_ends_what_does_not_look():
    def stuck(z, d):
        ctrl_c()
        ctrl_c()
        return log_joint(z, d)

    with pytest.raises(KeyboardInterrupt):
        advi.fit(advi.Model(stuck, LATENTS), DATA)


def test_a_handler_of_the_users_own_and_other_threads_are_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        after_step = advi.fit(MODEL, **PATHS["minibatches"], callback=lambda p: ctrl_c())
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen
    assert after_step.status == "converged"
    fits = []
    thread = threading.Thread(target=lambda: fits.append(advi.fit(MODEL, DATA, diagnose=False)))
    thread.start()
    thread.join()
    assert fits[0].status == "converged"


# What a stream raises.


def failing(error, after_batches):
    calls = itertools.count(1)

    def epoch():
        for batch in BATCHES:
            if next(calls) > after_batches:
                raise error
            yield batch

    return epoch


def test_a_stream_that_raises_under_way_leaves_the_fit_so_far():
    error = OSError("disk gone")
    fit = advi.fit(MODEL, failing(error, 900), num_rows=120, max_steps=5000)
    assert fit.status == "interrupted"
    assert fit.status.message.startswith("interrupted after step 768: OSError: disk gone")
    assert fit.status.cause is error
    assert np.isfinite(fit.elbo.value)


def test_a_stream_that_raises_in_the_search_for_a_start_leaves_what_was_found():
    whole = advi.fit(MODEL, DATA, diagnose=False)
    error = OSError("disk gone")
    fit = advi.fit(MODEL, failing(error, 8), num_rows=120, max_steps=5000)
    assert fit.status == "interrupted"
    assert fit.status.cause is error
    off = (fit.mean()["w"] - whole.mean()["w"]) / whole.sd()["w"]
    assert np.abs(off).max() < 0.1


def test_a_stream_that_raises_before_anything_is_there_raises():
    error = OSError("disk gone")
    for batches in (0, 3):
        with pytest.raises(OSError, match="disk gone") as caught:
            advi.fit(MODEL, failing(error, batches), num_rows=120)
        assert caught.value is error


def test_a_status_is_copied_without_its_cause():
    status = advi.fit(MODEL, failing(OSError("gone"), 900), num_rows=120, max_steps=5000).status
    for other in (copy.deepcopy(status), pickle.loads(pickle.dumps(status))):
        assert (other, other.message, other.cause) == (status, status.message, None)


@pytest.mark.slow
def test_fits_that_get_the_signal_at_any_moment_all_come_back():
    found = interrupt.run(12)
    assert all(r.fit for returns in found.values() for r in returns)
