"""What is seen of a fit by steps while it goes on, and the parameters that it keeps."""

import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from tests.inference.stochastic.test_interrupts import ctrl_c

RNG = np.random.default_rng(0)
N = 120
Y = (2 + RNG.standard_normal(N)).astype(np.float32)
HELD_OUT = {"y": (2 + RNG.standard_normal(40)).astype(np.float32)}
BATCHES = [{"y": Y[i : i + 12]} for i in range(0, N, 12)]


def log_joint(z, d):
    return advi.Terms(-0.5 * z["x"] ** 2, rows=-0.5 * (d["y"] - z["x"]) ** 2)


MODEL = advi.Model(log_joint, {"x": advi.real()})


def growing(step):
    """A rate at which the steps arrive, and are then led away again."""
    return jnp.where(step < 150, 2e-3, 0.0166)


# of points, whose last parameters are those of the last step
CALL = {
    "family": advi.Point(),
    "batch_size": 12,
    "optimizer": optax.sgd(growing),
    "max_steps": 300,
    "eval_data": HELD_OUT,
    "eval_every": 40,
    "diagnose": False,
}


def fit(data=None, **arguments):
    return advi.fit(MODEL, {"y": Y} if data is None else data, **{**CALL, **arguments})


def bits(found):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found.posterior.params)]


@pytest.fixture(scope="module")
def best():
    return fit(keep_best=True)


@pytest.mark.parametrize(("every", "steps"), [(40, [40, 80, 120, 160, 200, 240, 280, 300]),
                                              (200, [200, 300]), (500, [300])])  # fmt: skip
def test_the_held_out_elbo_is_evaluated_when_asked_for(every, steps):
    seen = []
    found = fit(eval_every=every, callback=lambda p: seen.append((p.step, p.eval_elbo)))
    assert found.eval_trace.steps.tolist() == steps
    assert [step for step, elbo in seen if math.isfinite(elbo)] == steps
    assert {128, 256, 300} <= {step for step, _ in seen}
    assert bits(found) == bits(fit(eval_every=None)) == bits(fit(eval_every=None, eval_data=None))


def test_a_stream_is_read_as_often_with_shorter_chunks(monkeypatch):
    monkeypatch.setattr("advi.data.reader.BLOCK_STEPS", 64)
    few = {"num_rows": N, "batch_size": None, "max_steps": 200}
    found = fit(BATCHES, **few, eval_every=24)
    assert found.eval_trace.steps.tolist() == [*range(24, 200, 24), 200]
    assert bits(found) == bits(fit(BATCHES, **few, eval_every=None, eval_data=None))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"eval_every": 0}, ValueError, "eval_every: got 0"),
        ({"eval_every": 2.5}, ValueError, "eval_every: got 2.5"),
        ({"eval_every": True}, ValueError, "eval_every: got True"),
        ({"keep_best": "last"}, TypeError, "keep_best: got 'last'"),
        ({"eval_data": None}, ValueError, "eval_every: the held-out ELBO needs rows"),
        (
            {"eval_data": None, "eval_every": None, "keep_best": True},
            ValueError,
            "keep_best: the held-out ELBO needs rows",
        ),
        ({"optimizer": None, "batch_size": None}, ValueError, "eval_data: the automatic plan"),
        ({"eval_data": BATCHES}, TypeError, r"eval_data: got [\s\S]*not read from a stream"),
        ({"eval_data": lambda: BATCHES}, TypeError, r"eval_data: got .*not read from a stream"),
    ],
)
def test_what_a_path_would_ignore_is_refused(arguments, error, words):
    with pytest.raises(error, match=f"^{words}"):
        fit(**arguments)


def test_the_best_parameters_are_kept(best):
    steps, values = best.eval_trace
    at = int(steps[np.argmax(values)])
    assert at < 160  # and later ones are led away
    assert f"the parameters are those of step {at}, where the held-out" in best.status.message
    assert bits(best) == bits(fit(max_steps=at))
    assert bits(best) != bits(fit())
    assert best.elbo.value > fit().elbo.value


def test_parameters_of_the_end_are_kept_where_they_are_the_best():
    """The average of a distribution's steps is better than any of them."""
    settling = {"family": "mean_field", "optimizer": optax.adam(0.05), "max_steps": 1000}
    settling["eval_data"] = {"y": Y}
    found = fit(**settling, keep_best=True)
    assert "the parameters are those of the end" in found.status.message
    assert bits(found) == bits(fit(**settling))


def test_a_nan_among_held_out_rows_is_named_before_the_start():
    bad = {"y": np.where(np.arange(40) == 3, np.nan, HELD_OUT["y"])}
    for keep_best in (True, False):
        with pytest.raises(ValueError, match=r"^eval_data: .* data leaf 'y', row 3 is NaN \(1 NaN"):
            fit(eval_data=bad, keep_best=keep_best)


def test_a_held_out_elbo_that_is_never_finite_is_told():
    def bounded(z, d):
        rows = -0.5 * (d["y"] - z["x"]) ** 2
        return advi.Terms(-0.5 * z["x"] ** 2, rows=jnp.where(d["y"] < 50, rows, -jnp.inf))

    model = advi.Model(bounded, {"x": advi.real()})
    call = CALL | {"eval_data": {"y": np.float32([2, 99])}, "max_steps": 40}
    message = advi.fit(model, {"y": Y}, **call, keep_best=True).status.message
    assert "the held-out ELBO was never finite, so that keep_best had no parameters" in message


def test_a_callback_that_stops_early_gets_the_best(best):
    def patient(progress):
        return progress.step >= 200

    found = fit(keep_best=True, callback=patient)
    assert found.status == "interrupted"
    assert bits(found) == bits(best)


def test_ctrl_c_gets_the_best(best):
    found = fit(keep_best=True, callback=lambda p: ctrl_c() if p.step >= 200 else None)
    assert isinstance(found.status.cause, KeyboardInterrupt)
    assert "the parameters are those of step" in found.status.message
    assert bits(found) == bits(best)


def test_a_checkpoint_holds_the_best(best, tmp_path):
    arguments = {"keep_best": True, "checkpoint": tmp_path / "run"}
    stopped = fit(**arguments, callback=lambda p: p.step >= 200)
    assert bits(stopped) == bits(best)
    resumed = fit(**arguments)
    resumed.save(tmp_path / "a")
    best.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for changed in ({"keep_best": False}, {"eval_every": 41}):
        with pytest.raises(ValueError, match=f"another fit.*{next(iter(changed))}"):
            fit(**{**arguments, **changed})
    with pytest.raises(ValueError, match="the values of eval_data"):
        fit(**arguments, eval_data={"y": Y[:40]})


def test_a_callback_may_ask_for_gradient_and_fit():
    """Of a point on all rows the gradient of the loss is x + sum(x - y)."""
    asked, kept = [], []

    def callback(progress):
        kept.append(progress)
        x = float(progress.fit().mean()["x"])
        asked.append((progress.gradient_norm(), abs(x + np.sum(x - Y))))

    whole = {"batch_size": None, "optimizer": optax.sgd(1e-5), "max_steps": 256}
    found = fit(**whole, callback=callback)
    np.testing.assert_allclose(*np.transpose(asked), rtol=1e-4)
    assert bits(found) == bits(fit(**whole))
    assert kept[0].elbo_per_row == kept[0].elbo / N
    assert kept[-1].eval_elbo_per_row == found.eval_trace.values[-1] / N
    assert 0 < kept[0].seconds < kept[-1].seconds
    assert math.isnan(kept[0].gradient_norm())
    with pytest.raises(RuntimeError, match="known while the callback runs"):
        kept[0].fit()


@pytest.mark.slow  # short: of an encoder, and of a point, above
@pytest.mark.parametrize("way", ["table", "line search", "stream"])
def test_a_gradient_is_known_of_every_kind_of_steps(way):
    norms = []
    local = advi.Model(
        lambda z, d: advi.Terms(0.0, rows=-0.5 * (z["x"] ** 2 + (d["y"] - z["x"]) ** 2)),
        {"x": advi.real(local=True)},
    )
    model, data, arguments = {
        "table": (local, {"y": Y}, {"batch_size": 12}),
        "line search": (MODEL, {"y": Y}, {"optimizer": optax.lbfgs()}),
        "stream": (MODEL, BATCHES, {"num_rows": N}),
    }[way]

    def callback(progress):
        norms.append(progress.gradient_norm())

    def found(**more):
        return bits(advi.fit(model, data, max_steps=256, diagnose=False, **arguments, **more))

    assert found(callback=callback) == found()
    assert len(norms) >= 2
    assert np.all(np.isfinite(norms))


def test_the_fit_so_far_is_that_of_its_steps():
    """Of a distribution it is the average, as after Ctrl-C."""
    so_far = {}
    arguments = {"family": "mean_field", "optimizer": optax.adam(0.05), "eval_every": None}

    def callback(progress):
        so_far[progress.step] = progress.fit()
        if progress.step == 256:
            ctrl_c()

    stopped = fit(**arguments, callback=callback)
    assert list(so_far) == [128, 256]
    assert bits(so_far[256]) == bits(stopped) != bits(so_far[128])
    assert so_far[256].elbo == stopped.elbo
    assert so_far[128].status == "interrupted"
    assert "the fit so far, after step 128" in str(so_far[128])
    assert len(so_far[128].elbo_trace) == 128


def test_progress_that_is_kept_holds_no_arrays(monkeypatch):
    from advi.inference.stochastic import loop

    states, kept, take = [], [], loop.take_chunk

    def taken(steps, state, data, num):
        new, elbos = take(steps, state, data, num)
        states.append(weakref.ref(new.key))
        return new, elbos

    monkeypatch.setattr(loop, "take_chunk", taken)
    fit(callback=kept.append)
    assert len(kept) == len(states) > 5
    assert [state() for state in states] == [None] * len(states)


def test_progress_of_the_plan_has_what_it_knows():
    kept = []
    advi.fit(MODEL, {"y": Y}, family="mean_field", callback=kept.append, diagnose=False)
    assert kept[-1].elbo_per_row == kept[-1].elbo / N
    assert math.isnan(kept[-1].eval_elbo_per_row)
    assert math.isnan(kept[-1].gradient_norm())
    assert kept[-1].seconds > 0
    with pytest.raises(RuntimeError, match="nor in the automatic plan"):
        kept[-1].fit()
    assert math.isnan(advi.Progress("start", 1, -3.0).elbo_per_row)


def test_new_rows_are_reconstructed_while_an_autoencoder_is_trained():
    def by_row(z, d):
        rows = -0.5 * ((d["x"] - z["h"] @ z["w"]) ** 2).sum(-1)
        return advi.Terms(0.0, rows=rows, prior=-0.5 * (z["h"] ** 2).sum(-1))

    model = advi.Model(by_row, {"h": advi.real(1, local=True), "w": advi.real(1, 3)})
    start = {"a": np.ones((3, 1), np.float32), "s": np.zeros((1,), np.float32)}
    encoder = advi.Amortised(lambda p, row: (row["x"] @ p["a"], p["s"]), start)
    x = RNG.standard_normal((60, 3)).astype(np.float32)
    made = []

    def callback(progress):
        made.append(progress.fit().predict(lambda z, d: z["h"] @ z["w"], 2, data={"x": x[:5]}))
        assert progress.gradient_norm() > 0

    advi.fit(
        model, {"x": x}, family={"h": encoder, "w": advi.Point()}, batch_size=20, max_steps=200,
        eval_data={"x": x[:10]}, eval_every=100, keep_best=True, callback=callback,
    )  # fmt: skip
    assert [v.shape for v in made] == [(2, 5, 3)] * 3
    assert not np.array_equal(made[0], made[-1])
