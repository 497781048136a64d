"""Every argument of `fit` does something on every path, or is refused there."""

import inspect

import numpy as np
import optax
import pytest

import advi

Y = np.arange(12, dtype=np.float32)
BATCHES = [{"y": Y[:4]}, {"y": Y[4:8]}, {"y": Y[8:]}]


def log_joint(z, d):
    return advi.Terms(-0.5 * z["x"] ** 2, rows=-0.5 * (d["y"] - z["x"]) ** 2)


def by_row(z, d):
    return advi.Terms(0.0, rows=-0.5 * (z["x"] ** 2 + (d["y"] - z["x"]) ** 2))


MODEL = advi.Model(log_joint, {"x": advi.real()})
LOCAL = advi.Model(by_row, {"x": advi.real(local=True)})


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("mapped") / "y.npy"
    np.save(path, Y)
    return {"y": np.load(path, mmap_mode="r")}


@pytest.fixture(scope="module")
def before():
    return advi.fit(MODEL, {"y": Y}, max_steps=3, diagnose=False)


def call(path, mapped, before):
    """The arguments of a fit on a path."""
    steps = {"max_steps": 8, "batch_size": 4}
    return {
        "plan": {"data": {"y": Y}, "family": "mean_field"},
        "warm plan": {"data": {"y": Y}, "family": "mean_field", "init": before},
        "optimizer": {"data": {"y": Y}, "max_steps": 8, "optimizer": optax.adam(0.1)},
        "minibatches": {"data": {"y": Y}, **steps},
        "warm minibatches": {"data": {"y": Y}, **steps, "init": before},
        "stream": {"data": BATCHES, "num_rows": 12, "max_steps": 8},
        "mapped": {"data": mapped, **steps},
        "local": {"model": LOCAL, "data": {"y": Y}, **steps},
    }[path]


PATHS = ["plan", "warm plan", "optimizer", "minibatches", "warm minibatches", "stream", "mapped",
         "local"]  # fmt: skip
PLANS, STEPS = PATHS[:2], PATHS[2:]
REFUSED = {
    "restarts": (3, PATHS[1:]),
    "compile": (True, STEPS),
    "objective": (advi.Elbo(), PLANS),
    "eval_data": ({"y": Y[:2]}, [*PLANS, "local"]),  # a table has no parameters for other rows
    "eval_every": (4, PATHS),  # without eval_data, as here; with it, tests of held-out rows
    "keep_best": (True, PATHS),
    "checkpoint": ("never", [*PLANS, "stream", "mapped"]),
    # of local latents it says which axis the rows are
    "num_rows": (12, [p for p in PATHS if p not in ("stream", "local")]),
}
# of these it is seen below that they do something
TAKEN = {"family", "optimizer", "batch_size", "max_steps", "key", "init", "x64", "callback"}
# and these are about what is shown, and about whether a fit is examined
OTHER = {"model", "data", "coords", "progress", "diagnose"}


def test_all_arguments_are_thought_of():
    assert set(inspect.signature(advi.fit).parameters) == {*REFUSED, *TAKEN, *OTHER}


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for name, (_, paths) in REFUSED.items() for path in paths]
)
def test_an_argument_that_a_path_would_ignore_is_refused(path, name, mapped, before, monkeypatch):
    def compiled(*_):
        raise AssertionError("nothing is to be compiled for a wrong argument")

    monkeypatch.setattr("advi.model.density.compiled_density", compiled)
    monkeypatch.setattr("advi.inference.stochastic.loop._chunk_program", compiled)
    arguments = {"model": MODEL, "diagnose": False, **call(path, mapped, before)}
    with pytest.raises(ValueError, match=f"^{name}: "):
        advi.fit(**{**arguments, name: REFUSED[name][0]})


# On the paths where it is not refused, another value gives another result.
CHANGES = {
    "family": {"family": "full_rank"},
    "objective": {"objective": advi.Elbo(draws=6)},
    "optimizer": {"optimizer": optax.sgd(1e-3)},
    "batch_size": {"batch_size": 3},
    "max_steps": {"max_steps": 2},
    "key": {"key": 5},
    "init": {"init": {"x": 3.0}},
    "x64": {"x64": True},
    "callback": {"callback": lambda progress: True},
}


# a stream takes the steps of minibatches: what compiles them anew is tried on these alone
COMPILED = {"family", "objective", "optimizer", "batch_size", "x64"}
LONG = {"family", "x64"}  # in every run on the plan
PATHS_AND_CHANGES = [
    pytest.param("plan", set(CHANGES), id="plan"),
    pytest.param("minibatches", set(CHANGES) - LONG, id="minibatches"),
    pytest.param("minibatches", LONG, id="minibatches-compiled", marks=pytest.mark.slow),
    pytest.param("stream", set(CHANGES) - COMPILED, id="stream"),
    pytest.param("stream", COMPILED, id="stream-compiled", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("path", "names"), PATHS_AND_CHANGES)
def test_an_argument_that_is_taken_changes_the_fit(path, names, mapped, before):
    arguments = {"model": MODEL, "diagnose": False, **call(path, mapped, before)}

    def outcome(**changes):
        fit = advi.fit(**{**arguments, **changes})
        found = [np.asarray(leaf).tobytes() for p in fit.posterior.params for leaf in p]
        return found, fit.elbo, fit.status.message, fit.posterior.guide.description

    plain = outcome()
    for name in sorted(names):
        change = CHANGES[name]
        if path not in REFUSED.get(name, ((), ()))[1]:
            assert outcome(**change) != plain, name


@pytest.mark.parametrize("name", ["max_steps", "restarts"])
@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_counts_are_positive_integers(name, number):
    with pytest.raises(ValueError, match=f"{name}: got .*expected an integer >= 1"):
        advi.fit(MODEL, {"y": Y}, **{name: number})


def test_rows_of_mapped_local_latents_may_be_told(mapped):
    data = {"y": mapped["y"], "grid": np.zeros(5, np.float32)}
    arguments = {"batch_size": 4, "max_steps": 2, "family": advi.Amortised(encode, np.zeros(1))}
    fit = advi.fit(LOCAL, data, num_rows=12, **arguments)
    assert fit.status == "max_steps"
    with pytest.raises(ValueError, match="do not say how many rows there are"):
        advi.fit(LOCAL, data, **arguments)


def encode(params, row):
    return params * row["y"], params - 1.0
