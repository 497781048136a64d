"""svi(): steps as pure functions, against a closed form, and its errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax.scipy.special import logsumexp

import advi

ROWS, SIZE = 400, 50
Y = np.random.default_rng(0).normal(1.5, 1.0, ROWS).astype("f4")
POSTERIOR = Y.sum() / (ROWS + 1), (ROWS + 1) ** -0.5  # mean and sd, of a N(0, 1) prior


def log_joint(z, y):
    return advi.Terms(
        dist.Normal(0, 1).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["s"]),
        rows=dist.Normal(z["mu"], 1).log_prob(y),
    )


MODEL = advi.Model(log_joint, {"mu": advi.real(), "s": advi.positive()})
STEPS = advi.svi(MODEL, Y, optimizer=optax.adam(0.02), batch_size=SIZE)
BATCHES = Y.reshape(-1, SIZE)
START = STEPS.init(0)


def epochs(steps, state, num, batches=BATCHES):
    for _ in range(num):
        state, infos = jax.lax.scan(steps.step, state, batches)
    return state, infos


def test_scanned_steps_over_several_keys_reach_the_posterior():
    states = jax.vmap(STEPS.init)(jax.random.split(jax.random.key(1), 3))
    mapped = jax.vmap(STEPS.step, (0, None))
    many, infos = jax.lax.scan(mapped, states, np.tile(BATCHES, (100, 1)))
    assert STEPS.step is STEPS.step  # JAX traces another function anew
    assert infos.elbo.shape == infos.finite.shape == (100 * len(BATCHES), 3)
    for i in range(3):
        fit = STEPS.result(jax.tree.map(lambda leaf, i=i: leaf[i], many))
        assert fit.status == "max_steps"
        np.testing.assert_allclose(fit.mean()["mu"], POSTERIOR[0], atol=POSTERIOR[1] / 2)
        np.testing.assert_allclose(fit.sd()["mu"], POSTERIOR[1], rtol=0.2)


def test_steps_of_several_keys_are_those_of_each_alone():
    """A generator that takes the first key of a batch for all would give others."""
    keys = jax.random.split(jax.random.key(5), 3)
    _, infos = jax.vmap(STEPS.step, (0, None))(jax.vmap(STEPS.init)(keys), BATCHES[0])
    alone = [STEPS.step(STEPS.init(key), BATCHES[0])[1].elbo for key in keys]
    np.testing.assert_allclose(infos.elbo, alone, rtol=1e-5)
    assert len(np.unique(alone)) == 3


def test_a_result_is_a_function_of_its_state():
    state, _ = epochs(STEPS, START, 3)
    first, second = STEPS.result(state), STEPS.result(state)
    assert first.elbo == second.elbo
    assert first.mean() == second.mean()
    assert first.verdict == "poor"  # the steps have not converged
    long, _ = epochs(STEPS, START, 100)
    assert STEPS.result(long).check().verdict != "not checked"


def test_all_data_are_the_batch_where_there_is_no_size():
    steps = advi.svi(MODEL, Y, optimizer=optax.adam(0.02))
    state = steps.init(jax.random.key(0))
    own, given = steps.step(state), steps.step(state, Y)
    assert own[1].elbo == given[1].elbo
    assert "mean_field" in repr(steps)


def test_an_optimizer_knows_the_latents_by_name():
    frozen = optax.partition(
        {"move": optax.adam(0.1), "hold": optax.set_to_zero()}, {"mu": "move", "s": "hold"}
    )
    steps = advi.svi(MODEL, Y, optimizer=frozen, batch_size=SIZE)
    fit = steps.result(epochs(steps, steps.init(0), 5)[0])
    before = steps.result(steps.init(0))
    assert fit.mean()["s"] == before.mean()["s"]
    assert fit.mean()["mu"] != before.mean()["mu"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"mu": "move"}, "key path"),
        ({"mu": "move", "sd": "hold"}, "It has an unknown entry 'sd'; did you mean 's'"),
        ({"mu": "move", "s": "hold", "tau": "hold"}, "It has an unknown entry 'tau'. Known: mu, s"),
        ({"mu": "move", "s": "holds"}, r"Parameter labels: \['holds', 'move'\]"),
    ],
)
def test_names_that_an_optimizer_does_not_find_are_told(labels, told):
    kinds = {"move": optax.adam(0.1), "hold": optax.set_to_zero()}
    message = r"optimizer: .* a dict with the entries 'mu', 's'; expected labels.*Optax: ValueError"
    message += f".*{told}"
    with pytest.raises(ValueError, match=message):
        advi.svi(MODEL, Y, optimizer=optax.partition(kinds, labels))


def test_steps_that_are_not_finite_are_told_of():
    state, infos = epochs(STEPS, START, 1, np.full_like(BATCHES, np.nan))
    assert not infos.finite.any()
    assert STEPS.result(state).status == "diverged"
    state, _ = STEPS.step(state, BATCHES[0])
    assert "8 non-finite steps were skipped" in STEPS.result(state).status.message


OTHER = advi.svi(MODEL, Y, family="full_rank", batch_size=SIZE)
WRONG = {
    "too few rows": (lambda: STEPS.step(START, Y[:30]), r"got shape \(30,\); expected \(50,\)"),
    "all rows": (lambda: STEPS.step(START, Y), r"got shape \(400,\); expected \(50,\)"),
    "no batch": (lambda: STEPS.step(START), "expected a tree like the data"),
    "another tree": (lambda: STEPS.step(START, {"y": BATCHES[0]}), "a tree like the data"),
    "text": (lambda: STEPS.step(START, "abc"), "expected an array of float32"),
    "a list": (lambda: STEPS.step(START, [1.0] * SIZE), "expected an array of float32"),
    "integers": (lambda: STEPS.step(START, np.ones(SIZE, int)), "expected an array of float32"),
    "no state": (lambda: STEPS.step(None, BATCHES[0]), "state: got None"),
    "another's state": (lambda: STEPS.step(OTHER.init(0), BATCHES[0]), "of other parameters"),
    "its result": (lambda: STEPS.result(OTHER.init(0)), "of other parameters"),
    "several keys": (lambda: STEPS.init(jax.random.split(jax.random.key(0))), "one JAX key"),
    "a traced result": (lambda: jax.jit(STEPS.result)(START), "on the host"),
    "a table by row": (
        lambda: advi.svi(
            advi.Model(
                lambda z, y: advi.Terms(0.0, rows=-(y**2), prior=-(z["x"] ** 2)),
                {"x": advi.real(local=True)},
            ),
            Y,
            batch_size=SIZE,
        ),
        "advi.Amortised",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_says_what_was_expected(case):
    call, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_batch_in_double_precision_is_converted():
    info = STEPS.step(START, BATCHES[0].astype("f8"))[1]
    assert info.elbo == STEPS.step(START, jnp.asarray(BATCHES[0]))[1].elbo


@dataclasses.dataclass(frozen=True)
class Renyi(advi.Objective):
    """The Renyi bound (Li & Turner 2016), the ELBO for alpha near 1."""

    alpha: float = 0.5
    draws: int = 4

    def value(self, log_p, guide, params, eps, scale=1.0, step=0):
        def log_weight(e):
            real, log_q = guide.draw_and_log_q(params, e)
            return log_p(real).total(scale) - guide.block_terms(log_q).total(scale)

        log_weights = (1 - self.alpha) * jax.vmap(log_weight)(eps)
        return (logsumexp(log_weights) - np.log(len(eps))) / (1 - self.alpha)


def test_an_objective_needs_draws_and_a_value():
    bounds = []
    for alpha in (0.999, 0.5):
        steps = advi.svi(MODEL, Y, objective=Renyi(alpha), batch_size=SIZE)
        _, info = steps.step(steps.init(0), BATCHES[0])
        bounds.append(float(info.elbo))
    assert bounds[0] < bounds[1] < 0  # on the same draws a smaller alpha gives a higher bound


@dataclasses.dataclass(frozen=True)
class Returning(advi.Objective):
    """An objective that returns what it was given."""

    result: object = 0.0
    draws: int = 2

    def value(self, log_p, guide, params, eps, scale=1.0, step=0):
        return self.result


@dataclasses.dataclass(frozen=True)
class OfOne(Returning):
    def value(self, log_p):
        return 0.0


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        (Returning((1.0, 2.0)), TypeError, "Returning.value returned .*; expected a real scalar"),
        (Returning(None), TypeError, "Returning.value returned None .*; expected a real scalar"),
        (Returning(1j), TypeError, "Returning.value returned 1j .*; expected a real scalar"),
        (Returning(np.zeros(2)), TypeError, "got Returning, which has no hash; expected a frozen"),
        (Returning(draws=0), ValueError, "Returning draws: got 0"),
        (OfOne(), TypeError, "OfOne.value does not take .*; expected value.self, log_p, guide"),
        (Returning, TypeError, r"got the class Returning; call it: Returning\(...\)"),
        ("elbo", TypeError, "got 'elbo' .*your subclass of advi.Objective"),
    ],
)
def test_a_wrong_objective_is_named(objective, error, words):
    with pytest.raises(error, match=f"^objective: {words}"):
        advi.svi(MODEL, Y, objective=objective, batch_size=SIZE)


def test_an_objective_may_return_a_python_number():
    steps = advi.svi(MODEL, Y, objective=Returning(-2), batch_size=SIZE)
    assert float(steps.step(steps.init(0), BATCHES[0])[1].elbo) == -2
