"""The Optax path: optimisers, averaging, minibatches, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advi
from advi.inference.stochastic import averaging, loop
from advi.inference.stochastic.by_latent import by_latent
from advi.inference.stochastic.loop import CHUNK, MAX_BAD_RUN
from advi.variational.resolve_family import resolve_family
from tests import targets

OPTIMISERS = {
    "adam": optax.adam(0.01),
    "sgd": optax.sgd(1e-3),
    "lbfgs": optax.lbfgs(),
    "polyak": optax.polyak_sgd(max_learning_rate=0.01),
    "chain": optax.chain(optax.clip_by_global_norm(10.0), optax.adam(0.01)),
    "plateau": optax.chain(
        optax.adam(0.01), optax.contrib.reduce_on_plateau(patience=200, factor=0.5)
    ),
}


# what an optimiser does knows nothing of the family: one kind of parameters for most of them.
# Always run are one of gradients alone, one that takes the value, and a chain with a part that
# does; Adam and the line search of a full-rank factor are below
SLOW = {"sgd", "lbfgs", "chain"}
CASES = [pytest.param(n, "mean_field", marks=[pytest.mark.slow] * (n in SLOW)) for n in OPTIMISERS]
CASES.append(pytest.param("adam", "full_rank", marks=pytest.mark.slow))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_any_optimiser_reaches_the_conjugate_posterior(name, family):
    target = targets.conjugate_normal()
    steps = 200 if name == "lbfgs" else 4000
    fit = advi.fit(
        target.model,
        target.data,
        family=family,
        optimizer=OPTIMISERS[name],
        max_steps=steps,
        key=1,
        diagnose=False,
    )
    sd = np.sqrt(target.cov[0, 0])
    assert fit.status == "max_steps"
    assert abs(fit.mean()["x"][0] - target.mean[0]) < 0.01 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.01
    assert abs(fit.elbo.value - target.log_evidence) < 1e-3


# test_gradient_of_both_estimators_is_unbiased has the other in short
@pytest.mark.parametrize("estimator", [pytest.param("entropy", marks=pytest.mark.slow), "stl"])
def test_full_rank_by_adam_on_a_correlated_gaussian(estimator):
    target = targets.gaussian([1.0, -1.0, 0.5], np.array([[1, 0.7, 0], [0.7, 1, 0.2], [0, 0.2, 1]]))
    fit = advi.fit(
        target.model,
        target.data,
        family="full_rank",
        optimizer=optax.adam(0.02),
        objective=advi.Elbo(draws=8, estimator=estimator),
        max_steps=4000,
        diagnose=False,
    )
    # averaged iterates: 2,000 steps of 8 draws leave about 1 % of Monte Carlo error
    np.testing.assert_allclose(fit.cov(), target.cov, atol=0.03)


def test_line_search_gets_fixed_draws(caplog):
    """optax.lbfgs converges to rounding, which noisy draws would not allow.

    Numbers of different kinds are not mixed, as in the test of that below.
    """
    target = targets.ill_conditioned(5, 100, seed=4)
    with jax.log_compiles(), jax.numpy_dtype_promotion("strict"):
        fit = advi.fit(
            target.model,
            target.data,
            family="full_rank",
            optimizer=OPTIMISERS["lbfgs"],
            max_steps=200,
            diagnose=False,
        )
    # its state begins with Python numbers, which the first chunk of steps makes arrays
    assert sum("XLA compilation of jit(chunk)" in text for text in caplog.messages) == 1
    tail = fit.elbo_trace[-20:]
    assert np.ptp(tail) < 1e-4
    sd = np.sqrt(np.diag(target.cov))
    np.testing.assert_allclose((fit.mean()["x"] - target.mean) / sd, 0, atol=0.01)
    np.testing.assert_allclose(fit.sd()["x"], sd, rtol=0.01)
    assert abs(fit.elbo.value) < 1e-3


def test_average_covers_the_last_half_to_three_quarters():
    params = np.float32(0)
    average = averaging.TailAverage(params, params, np.int32(0), np.int32(0))
    with_step = jax.jit(averaging.with_step)
    for step in range(1, 101):
        average = with_step(average, np.float32(step), np.int32(step))
        last_power = 1 << ((step - 1).bit_length() - 1) if step > 1 else 0
        first = last_power // 2 + 1
        assert float(averaging.tail_average(average)) == pytest.approx(
            np.mean(np.arange(first, step + 1))
        )


def test_trace_has_every_step_and_averages_beat_the_last_iterate():
    target = targets.conjugate_normal()
    fit = advi.fit(
        target.model,
        target.data,
        optimizer=optax.sgd(5e-3),
        objective=advi.Elbo(draws=1),
        max_steps=250,
        diagnose=False,
    )
    assert fit.elbo_trace.shape == (250,)
    assert fit.diagnostics["num_gradients"] == 250


def test_minibatch_rows_are_scaled_and_shared_terms_are_not():
    target = targets.conjugate_normal(n=60)
    full = advi.fit(target.model, target.data, diagnose=False)
    fit = advi.fit(
        target.model,
        target.data,
        batch_size=7,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 8000)),
        max_steps=8000,
        diagnose=False,
    )
    sd = np.sqrt(target.cov[0, 0])
    assert abs(fit.mean()["x"][0] - full.mean()["x"][0]) < 0.05 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.03
    assert abs(fit.elbo.value - target.log_evidence) < 0.01


def test_minibatch_default_optimiser():
    target = targets.conjugate_normal(n=60)
    fit = advi.fit(target.model, target.data, batch_size=16, diagnose=False)
    sd = np.sqrt(target.cov[0, 0])
    assert abs(fit.mean()["x"][0] - target.mean[0]) < 0.05 * sd
    assert abs(fit.sd()["x"][0] / sd - 1) < 0.03


def test_epochs_visit_every_row_once():
    from advi.data.source import InMemory
    from advi.data.spec import prepare

    source = InMemory(*prepare(np.arange(10), "float32"), None).batched(10, 5)
    key = jax.random.key(0)

    def batch(step):
        return source.spec.gather(source.example, source.batching.index(key, step))

    seen = np.asarray(jax.jit(jax.vmap(batch))(np.arange(6)))
    for epoch in range(3):
        epoch_rows = seen[2 * epoch : 2 * epoch + 2]
        assert sorted(epoch_rows.ravel()) == list(range(10))
    assert not np.array_equal(seen[0], seen[2])


@pytest.mark.parametrize("num", [1, 2, 3, 65_536, 65_537])
def test_shuffled_is_a_permutation(num):
    from advi.data.permutation import shuffled

    program = jax.jit(lambda key: shuffled(jnp.arange(num), num, key))
    order = np.asarray(program(jax.random.key(1)))
    np.testing.assert_array_equal(np.sort(order), np.arange(num))


def test_shuffled_places_are_uniform_and_uncorrelated():
    from advi.data.permutation import shuffled

    def orders_of(key):
        one = jax.vmap(lambda key: shuffled(jnp.arange(37), 37, key))
        return one(jax.random.split(key, 6000))

    orders = np.asarray(jax.jit(orders_of)(jax.random.key(2)))
    assert np.all(np.sort(orders, axis=1) == np.arange(37))
    for place in (0, 1, 36):
        counts = np.bincount(orders[:, place], minlength=37)
        expected = 6000 / 37
        # chi-square with 36 degrees of freedom: mean 36, sd 8.5
        assert np.sum((counts - expected) ** 2 / expected) < 36 + 5 * 8.5
    centred = orders - 18.0
    # neighbours in a random order have correlation -1 / (n - 1)
    correlation = np.mean(centred[:, 1:] * centred[:, :-1]) / np.mean(centred**2)
    assert abs(correlation + 1 / 36) < 5 / np.sqrt(6000 * 36)


def sometimes_nan(z, data):
    """A standard normal whose log density is NaN beyond 1.5: about an eighth of the draws."""
    return jnp.where(jnp.abs(z["x"]) > 1.5, jnp.nan, -0.5 * z["x"] ** 2)


def test_non_finite_steps_are_skipped_and_counted():
    model = advi.Model(sometimes_nan, {"x": advi.real()})
    steps = {"optimizer": optax.sgd(0.01), "objective": advi.Elbo(draws=2), "max_steps": 300}
    fit = advi.fit(model, diagnose=False, **steps)
    bad = int(np.sum(~np.isfinite(fit.elbo_trace)))
    assert 0 < bad < 300
    assert f"{bad} non-finite steps were skipped" in fit.status.message
    assert np.all(np.isfinite(fit.posterior.params[0].loc))


def test_steps_taken_anew_after_a_bad_one_are_the_same_steps():
    """Only steps from the bad one on may differ from those of a density that is finite there."""

    def log_joint(z, finite):
        beyond = jnp.where(finite, -0.2, jnp.nan)
        return jnp.where(jnp.abs(z["x"]) > 0.5, beyond, -0.5 * z["x"] ** 2)

    fits = [
        advi.fit(
            advi.Model(log_joint, {"x": advi.real()}),
            finite,
            optimizer=optax.adam(0.001),
            objective=advi.Elbo(draws=2),
            max_steps=700,
            diagnose=False,
        )
        for finite in (False, True)
    ]
    got, wanted = (np.asarray(fit.elbo_trace) for fit in fits)
    first = int(np.argmin(np.isfinite(got)))
    assert CHUNK < first < 700
    assert first % CHUNK > 0
    np.testing.assert_allclose(got[:first], wanted[:first], rtol=1e-6)
    assert np.isfinite(fits[0].posterior.params[0].loc).all()


def program_misses(**call):
    """Return the programs of steps that a fit compiles."""
    before = loop._chunk_program.cache_info().misses
    model = advi.Model(lambda z, d: -0.5 * z["x"] ** 2, {"x": advi.real()})
    advi.fit(model, diagnose=False, **call)
    return loop._chunk_program.cache_info().misses - before


def test_an_optimiser_that_starts_with_infinities_has_no_bad_steps():
    optimizer = optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau())
    assert program_misses(optimizer=optimizer, max_steps=10) == 1


def test_a_gradient_that_an_optimiser_keeps_for_later_is_looked_at():
    """Accumulated over 1000 steps, a gradient that is not a number would show far too late."""
    optimizer = optax.MultiSteps(optax.sgd(0.01), 1000).gradient_transformation()

    def log_joint(z, data):
        # finite everywhere, but its gradient is not a number beyond 0.2
        return -0.5 * z["x"] ** 2 + jnp.sqrt(jnp.where(z["x"] > 0.2, z["x"] - z["x"], 1.0))

    model = advi.Model(log_joint, {"x": advi.real()})
    fit = advi.fit(
        model, optimizer=optimizer, objective=advi.Elbo(draws=2), max_steps=200, diagnose=False
    )
    assert np.isfinite(fit.elbo_trace).all()
    assert "non-finite steps were skipped" in fit.status.message


def test_a_run_of_non_finite_steps_ends_the_fit_with_step_latent_and_value():
    def log_joint(z, data):
        # finite where the fit starts, nowhere beyond
        inside = jnp.abs(z["b"]) < 3.0
        return -0.5 * z["a"] ** 2 + jnp.where(inside, z["b"] * 5.0, jnp.nan)

    model = advi.Model(log_joint, {"a": advi.real(), "b": advi.real()})
    fit = advi.fit(model, optimizer=optax.sgd(0.01), max_steps=5000, diagnose=False)
    assert fit.status == "diverged"
    assert len(fit.elbo_trace) < 5000
    assert f"{MAX_BAD_RUN} steps in a row, from step" in fit.status.message
    assert "b = " in fit.status.message
    assert fit.sample(2)["b"].shape == (2,)


def test_ctrl_c_and_callback_keep_the_steps_taken():
    target = targets.conjugate_normal()
    call = {"optimizer": OPTIMISERS["adam"], "diagnose": False}

    def ctrl_c(progress):
        if progress.step >= 300:
            raise KeyboardInterrupt

    fit = advi.fit(target.model, target.data, callback=ctrl_c, **call)
    assert fit.status == "interrupted"
    assert len(fit.elbo_trace) == 384  # the chunk after which Ctrl-C came is kept
    stopped = advi.fit(target.model, target.data, callback=lambda p: p.step >= 300, **call)
    assert stopped.status == "interrupted"
    assert len(stopped.elbo_trace) == 384


def test_same_key_same_bits():
    target = targets.conjugate_normal(n=60)
    fits = [
        advi.fit(target.model, target.data, batch_size=16, max_steps=50, key=key, diagnose=False)
        for key in (1, 1, jax.random.key(2))
    ]
    first, second, third = (fit.posterior.params[0].loc.tobytes() for fit in fits)
    assert first == second != third


def test_gradient_of_both_estimators_is_unbiased():
    """Against the closed-form gradient of the ELBO on a Gaussian, to 4 standard errors."""
    from advi.model.terms import Terms
    from advi.variational.draws import fresh
    from advi.variational.gaussian import Gaussian
    from advi.variational.scale import TriangularScale

    precision = np.float32([[2.0, 0.5], [0.5, 1.0]])
    model = advi.Model(lambda z, d: -z["x"].sum(), {"x": advi.real(2)})
    guide = resolve_family(model, "full_rank")
    loc, scale = np.array([0.3, -0.2]), np.array([[0.7, 0.0], [0.2, 1.3]])
    params = guide.from_gaussian(Gaussian(loc, TriangularScale(scale)))
    params = jax.tree.map(np.float32, params)

    def log_p(real):
        return Terms(-0.5 * real["x"] @ precision @ real["x"], jnp.zeros(0))

    expected_loc = -precision @ loc
    # d/dL of -tr(P L L')/2 + log det L; the diagonal is parametrised by its log
    dense = -precision @ scale
    expected_raw = np.tril(dense, -1) + np.diag(np.diag(dense) * np.diag(scale) + 1)

    objectives = [advi.Elbo(estimator=estimator) for estimator in ("entropy", "stl")]

    @jax.jit
    def gradients(key):
        def one(key):
            eps = fresh(key, 6, 2)
            return [
                jax.grad(lambda p, o=o: o.value(log_p, guide, p, eps))(params) for o in objectives
            ]

        return jax.vmap(one)(jax.random.split(key, 4000))

    for [grads] in jax.device_get(gradients(jax.random.key(0))):
        for got, want in zip(grads, (expected_loc, expected_raw), strict=True):
            error = np.mean(got, 0) - want
            mcse = np.std(got, 0) / np.sqrt(4000)
            assert np.all(np.abs(error) < 4 * mcse + 1e-5)


# short: test_steps_in_float64_take_strict_promotion of tests/inference/plan/test_ending.py, and
# test_line_search_gets_fixed_draws
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"batch_size": 16}, marks=pytest.mark.slow),
        {"optimizer": optax.adam(0.05)},
        pytest.param({"optimizer": optax.lbfgs()}, marks=pytest.mark.slow),
    ],
)
def test_numbers_of_different_kinds_are_not_mixed(arguments):
    """Which a user may have forbidden JAX to do; Optax itself does it."""
    target = targets.conjugate_normal(n=60)
    data = {name: np.float32(leaf) for name, leaf in target.data.items()}
    with jax.numpy_dtype_promotion("strict"):
        fit = advi.fit(target.model, data, max_steps=200, diagnose=False, **arguments)
    assert fit.status == "max_steps"
    assert np.isfinite(fit.elbo.value)


def own(rate):
    """An optimiser whose state begins with a Python number."""

    def update(updates, step, params=None):
        return jax.tree.map(lambda leaf: -rate(step) * leaf, updates), step + 1

    return optax.GradientTransformation(lambda params: 0, update)


def by_name(slow, fast):
    label = {"a": "slow", "b": "fast"}
    return optax.partition({"slow": optax.sgd(slow), "fast": optax.sgd(fast)}, label)


RATES = {  # what makes an optimiser from a setting, and two settings
    "rate": (optax.adam, 1e-2, 2e-2),
    "schedule": (lambda n: optax.adam(optax.cosine_decay_schedule(1e-2, n)), 100, 200),
    "boundary": (lambda n: optax.sgd(optax.piecewise_constant_schedule(0.1, {n: 0.5})), 10, 20),
    "chain": (lambda most: optax.chain(optax.clip(most), optax.adam(1e-2)), 1.0, 2.0),
    "masked": (lambda which: optax.masked(optax.sgd(0.1), {"a": which, "b": not which}), 0, 1),
    "partition": (lambda slow: by_name(slow, 0.3 - slow), 0.1, 0.2),
    "injected": (lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate), 0.1, 0.2),
    "array": (lambda rate: optax.scale_by_learning_rate(np.float32(rate)), 0.1, 0.2),
    "number": (lambda fall: own(lambda step: 0.1 / (1 + fall * step)), 0, 1),
}


@pytest.mark.parametrize("name", RATES)
def test_optimisers_are_one_only_if_they_take_the_same_steps(name):
    model = advi.Model(lambda z, d: z["a"] + z["b"].sum(), {"a": advi.real(), "b": advi.real(2)})
    guide = resolve_family(model, "mean_field")
    make, *settings = RATES[name]
    one, other = (by_latent(make(setting), guide, "float32") for setting in settings)
    again = by_latent(make(settings[0]), guide, "float32")
    assert (one, hash(one)) == (again, hash(again))
    assert one != other
