"""Minibatches against the whole: log-joints they are right for, and ways to get them wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.model.checks import minibatch_bias as unbiased

RNG = np.random.default_rng(0)
X = RNG.standard_normal((100, 3))
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5]) + RNG.standard_normal(100)}
LATENTS = {"w": advi.real(3), "s": advi.positive()}


def prior(z):
    return -0.5 * z["w"] @ z["w"] - z["s"]


def rows(z, d):
    return -0.5 * ((d["y"] - d["x"] @ z["w"]) / z["s"]) ** 2 - jnp.log(z["s"])


def found(log_joint, data=DATA):
    return advi.check(advi.Model(log_joint, LATENTS), data)


def right(z, d):
    return advi.Terms(prior(z), rows(z, d))


def weighted(z, d):
    return advi.Terms(d["of prior"] * prior(z), d["of rows"] * rows(z, d))


def found_weighted(num_rows, of_prior=1.0, of_rows=1.0):
    some = {"x": X[:num_rows], "y": DATA["y"][:num_rows]}
    return found(weighted, some | {"of prior": of_prior, "of rows": of_rows})


@pytest.mark.parametrize("num_rows", [2, 31])
def test_a_right_log_joint_has_no_problem(num_rows):
    checkup = found_weighted(num_rows)
    assert checkup.ok, checkup.problems
    assert any("equal on average" in note for note in checkup.notes)


def test_large_terms_beside_small_ones_are_no_problem():
    for weights in ((1.0, 1e6), (1e6, 1.0)):
        assert found_weighted(31, *weights).ok


def scaled_by_hand(z, d):
    return advi.Terms(prior(z), 100 / d["y"].shape[0] * rows(z, d))


def prior_shared_out(z, d):
    return advi.Terms(0.0, rows(z, d) + prior(z) / d["y"].shape[0])


def centred(z, d):
    x = d["x"] - d["x"].mean(0)
    return advi.Terms(prior(z), rows(z, {"x": x, "y": d["y"]}))


def autoregression(z, d):
    before = jnp.concatenate([jnp.zeros(1), d["y"][:-1]])
    return advi.Terms(prior(z), rows(z, {"x": d["x"], "y": d["y"] - before}))


def rows_in_shared(z, d):
    return advi.Terms(prior(z) + rows(z, d).sum(), jnp.zeros(d["y"].shape[0]))


def normaliser_in_shared(z, d):
    normaliser = d["y"].shape[0] * jnp.log(z["s"])
    return advi.Terms(prior(z) - normaliser, rows(z, d) + jnp.log(z["s"]))


WRONG = {
    scaled_by_hand: "the term of one row changes",
    prior_shared_out: "the term of one row changes",
    centred: "the term of one row changes",
    autoregression: "the term of one row changes",
    rows_in_shared: "Terms.shared changes with the batch",
    normaliser_in_shared: "Terms.shared changes with the batch",
}


JOINTS = [right, *WRONG]


def found_of(log_joint, among=JOINTS):
    """By one program for all that it is among, of which `d["which"]` picks it."""

    def any_of_them(z, d):
        return jax.tree.map(
            lambda *values: d["which"] @ jnp.stack(values), *(one(z, d) for one in among)
        )

    return found(any_of_them, DATA | {"which": np.eye(len(among))[among.index(log_joint)]})


@pytest.mark.parametrize("log_joint", WRONG)
def test_a_wrong_log_joint_is_a_problem_in_words(log_joint):
    [problem] = found_of(log_joint).problems
    assert problem.startswith("minibatches are biased, by ")
    assert WRONG[log_joint] in problem
    # only what is wrong is named
    assert ("Terms.shared changes" in problem) != ("one row changes" in problem)


@pytest.mark.parametrize(
    ("log_joint", "words"),
    [
        (lambda z, d: advi.Terms(prior(z), rows(z, d) + jnp.zeros(100)), "incompatible shapes"),
        (lambda z, d: advi.Terms(prior(z), rows(z, DATA) + 0 * d["y"].sum()), "has length 100"),
    ],
)
def test_a_number_of_rows_from_elsewhere_is_a_problem(log_joint, words):
    [problem] = found(log_joint).problems
    assert words in problem
    assert problem.count("Take every row, and the number of rows, from `data`.") == 1


def other_of_few(z, d):
    """A stopped gradient in the values of one batch, and what is missing of them."""
    terms = rows(z, d)
    held = jax.lax.stop_gradient(terms) + jnp.where(d["missing"], jnp.nan, 0.0)
    return advi.Terms(prior(z), terms if d["y"].shape[0] > 20 else held)


def test_a_gradient_alone_may_be_biased():
    """The value itself is right."""
    [problem] = found(other_of_few, DATA | {"missing": False}).problems
    assert "the terms agree, but their gradients do not" in problem


def test_batches_that_are_not_finite_are_a_problem():
    [problem] = found(other_of_few, DATA | {"missing": True}).problems
    assert problem.startswith("minibatches are biased, by nan")


def test_many_rows_are_examined_by_a_part(monkeypatch):
    monkeypatch.setattr(unbiased, "MAX_ROWS", 64)
    two = [right, scaled_by_hand]
    checkup = found_of(right, two)
    assert checkup.ok
    assert any("against the 64 rows" in note for note in checkup.notes)
    assert not found_of(scaled_by_hand, two).ok


def test_one_row_or_none_of_data_has_no_minibatches():
    checkup = found(right, {"x": X[:1], "y": DATA["y"][:1]})
    assert checkup.ok
    assert not any("on average" in note for note in checkup.notes)
    closed = advi.check(advi.Model(lambda z, d: right(z, DATA), LATENTS))
    assert closed.ok
