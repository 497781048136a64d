"""A fit that read its rows a few at a time is checked on all of them, handed in again."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import advi

N, BATCH = 600, 50
RNG = np.random.default_rng(0)
MIXED = np.array([[1.0, 0.9], [0.0, 0.4]])  # predictors are correlated
X = (RNG.standard_normal((N, 2)) @ MIXED).astype(np.float32)
Y = (X @ np.array([1.0, -2.0]) + RNG.standard_normal(N)).astype(np.float32)
DATA = {"x": X, "y": Y}
BATCHES = [{n: v[i : i + BATCH] for n, v in DATA.items()} for i in range(0, N, BATCH)]


def log_joint(z, d):
    return advi.Terms(-0.005 * z["w"] @ z["w"], rows=-0.5 * (d["y"] - d["x"] @ z["w"]) ** 2)


MODEL = advi.Model(log_joint, {"w": advi.real(2)})


def fit(data=BATCHES, **arguments):
    whole = not isinstance(data, dict)
    return advi.fit(MODEL, data, **({"num_rows": N} if whole else {}),
                    **{"family": "full_rank", "max_steps": 2000} | arguments)  # fmt: skip


@pytest.fixture(scope="module")
def streamed():
    return fit()


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, leaf in DATA.items():
        np.save(folder / f"{name}.npy", leaf)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DATA}


def test_the_verdict_on_a_stream_names_the_check(streamed):
    for found in (streamed, fit(diagnose=False, max_steps=1000)):
        assert found.verdict.level == "not checked"
        assert "call fit.check(data=...)" in found.verdict.action


def test_all_rows_in_any_form_give_one_verdict(streamed, mapped):
    by_loader = [{n: v[i : i + 35] for n, v in DATA.items()} for i in range(0, N, 35)]
    figures = []
    for data in (DATA, BATCHES, lambda: iter(by_loader), mapped):
        found = streamed.check(data)
        assert found.verdict == "good"
        figures.append([*found.diagnostics["mean_shift"].values(), found.khat])
    np.testing.assert_allclose(figures, [figures[0]] * 4, atol=0.05)
    assert streamed.verdict == "not checked"  # a fit is not changed


def test_a_good_verdict_is_that_of_the_same_fit_in_memory(streamed):
    """With an exact posterior: the check finds the distance from it."""
    precision = X.T.astype(float) @ X + 0.01 * np.eye(2)
    exact = np.linalg.solve(precision, X.T.astype(float) @ DATA["y"])
    off = np.abs(np.asarray(streamed.mean()["w"]) - exact) / np.sqrt(
        np.diag(np.linalg.inv(precision))
    )
    found = list(streamed.check(BATCHES).diagnostics["mean_shift"].values())
    np.testing.assert_allclose(found, off, atol=0.03)


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ({"family": "mean_field"}, "means_only"),  # sds too small
        ({"optimizer": optax.sgd(1e-9)}, "poor"),  # hardly moved, and so without a drift
        pytest.param(
            {"init": {"w": np.zeros(2)}, "optimizer": optax.adam(1e-3), "max_steps": 300},
            "poor",
            marks=pytest.mark.slow,  # short: the other two
        ),
    ],
)
def test_a_fit_that_is_wrong_is_not_good(arguments, level):
    found = fit(**arguments)
    for data in (DATA, BATCHES):
        assert found.check(data).verdict == level


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {n: v[:60] for n, v in DATA.items()},
            "got 60 rows; expected all 600 .* counted 10 times, lies about 3 of its sds",
        ),
        ({"x": X}, "got the leaves x; expected a tree like that of the fit, with x, y"),
        ([{"x": X}], "got the leaves x; expected"),
        (BATCHES[:3], "epoch 1 of the stream had 150 rows; expected num_rows=600"),
        (BATCHES * 2, "one epoch of the stream had over num_rows=600 rows"),
    ],
)
def test_other_rows_are_refused(streamed, data, words):
    with pytest.raises(ValueError, match=words):
        streamed.check(data)


@pytest.mark.slow  # short: rows of a stream, above
def test_mapped_rows_that_are_too_few_are_refused(mapped):
    found = fit(mapped, batch_size=BATCH, max_steps=1000)
    assert found.check(mapped).verdict == found.check(DATA).verdict == "good"
    with pytest.raises(ValueError, match="got 40 rows; expected all 600"):
        found.check({n: v[:40] for n, v in mapped.items()})


def test_an_error_of_the_stream_is_its_own(streamed):
    def broken():
        yield BATCHES[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        streamed.check(broken)


def test_a_fit_that_holds_its_rows_takes_the_same_again():
    found = advi.fit(MODEL, DATA, family="full_rank", diagnose=False)
    assert found.check(DATA).verdict == found.check().verdict == "good"
    with pytest.raises(ValueError, match="got 60 rows; expected all 600"):
        found.check({n: v[:60] for n, v in DATA.items()})
    with pytest.raises(ValueError, match="data: the draws of this fit are corrected"):
        found.corrected().check(DATA)
    scalar = advi.Model(lambda z, y: -0.5 * jnp.sum((y - z["m"]) ** 2), {"m": advi.real()})
    with pytest.raises(ValueError, match="data: the log-joint returns a scalar"):
        advi.fit(scalar, DATA["y"], family="mean_field", diagnose=False).check(DATA["y"])


@pytest.mark.slow  # short: the same of a log-joint, above
def test_a_numpyro_model_is_checked_on_all_rows():
    def regression(x, y):
        w = numpyro.sample("w", dist.Normal(0, 10).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    found = advi.fit(
        advi.from_numpyro(regression), BATCHES, num_rows=N, family="full_rank", max_steps=2000
    )
    assert found.check(DATA).verdict == found.check(BATCHES).verdict == "good"
