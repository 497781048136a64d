"""Every mistake gives one clear error: what was got, what was expected, how to mend it.

A wrong argument is found before anything is compiled.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints

import advi

COMPILED = "/jax/core/compile/backend_compile_duration"
MAX_MESSAGE = 700  # characters: a paragraph, not a page


@pytest.fixture
def compiled():
    """The compilations that happen during a test, whatever ran before it."""
    jax.clear_caches()
    events = []

    def listen(event, duration, **_):
        if event == COMPILED:
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def raises(error, *parts, call):
    """Check that `call` raises this type of error, with all `parts` in its message."""
    with pytest.raises(error) as caught:
        call()
    # no subclass that JAX or NumPy raised
    assert caught.type is error or caught.type.__module__.startswith("advi.")
    message = str(caught.value)
    assert len(message) <= MAX_MESSAGE
    for part in parts:
        assert part in message, message


def density(z, data=None):
    return -0.5 * z["mu"] ** 2 - 0.5 * jnp.sum(z["tau"] ** 2)


def latents():
    return {"mu": advi.real(), "tau": advi.positive(2)}


MODEL = advi.Model(density, latents())
Y = np.arange(5.0)


def model(log_joint):
    return advi.Model(log_joint, latents())


def with_rows(shared=density, rows=lambda z, d: -((d["y"] - z["mu"]) ** 2)):
    return model(lambda z, d: advi.Terms(shared(z), rows(z, d)))


def test_the_listener_sees_compilations(compiled):
    jax.jit(lambda x: x * 17.25 - 3.5)(np.ones(29, np.float32))
    assert compiled


# What the log-joint returns and asks for.

RETURNS = {
    "vector": (lambda z, d: z["tau"], ValueError, "array of shape (2,)", "expected a scalar"),
    "vector (mend)": (lambda z, d: z["tau"], ValueError, ".sum()", "Terms(prior, rows="),
    "tuple": (lambda z, d: (z["mu"], z["mu"]), TypeError, "returned tuple", "advi.Terms"),
    "dict": (lambda z, d: {"lp": z["mu"]}, TypeError, "returned dict", "expected a scalar"),
    "None": (lambda z, d: None, TypeError, "returned NoneType", "expected a scalar"),
    "int": (lambda z, d: z["mu"].astype(int), TypeError, "dtype int32", "floating-point"),
    "bool": (lambda z, d: z["mu"] > 0, TypeError, "dtype bool", "floating-point"),
    "complex": (lambda z, d: z["mu"] + 1j, TypeError, "dtype complex64", "floating-point"),
}


@pytest.mark.parametrize("case", RETURNS)
@pytest.mark.parametrize("call", [advi.fit, advi.check])
def test_what_a_log_joint_may_not_return(case, call, compiled):
    log_joint, error, *parts = RETURNS[case]
    raises(error, "log_joint returned", *parts, call=lambda: call(model(log_joint)))
    assert not compiled


TERMS = {
    "shared vector": (
        with_rows(lambda z: z["tau"]),
        ValueError,
        "Terms.shared has shape (2,)",
        "expected a scalar",
        ".sum()",
    ),
    "shared None": (with_rows(lambda z: None), TypeError, "Terms.shared", "NoneType"),
    "shared int": (with_rows(lambda z: 0), TypeError, "Terms.shared", "int32", "floating"),
    "rows scalar": (
        with_rows(rows=lambda z, d: z["mu"]),
        ValueError,
        "Terms.rows has shape ()",
        "(B,)",
    ),
    "rows matrix": (
        with_rows(rows=lambda z, d: d["y"][:, None] * z["tau"]),
        ValueError,
        "Terms.rows has shape (5, 2)",
        "(B,)",
        "Sum over every other axis",
    ),
    "rows list": (with_rows(rows=lambda z, d: [z["mu"]] * 5), TypeError, "Terms.rows", "list"),
    "rows too few": (
        with_rows(rows=lambda z, d: d["y"][1:] * z["mu"]),
        ValueError,
        "Terms.rows has length 4",
        "c: a scalar",
        "y: 5",
        "one log-likelihood per data row",
    ),
}


@pytest.mark.parametrize("case", TERMS)
def test_terms_of_the_wrong_kind(case, compiled):
    wrong, error, *parts = TERMS[case]
    raises(error, *parts, call=lambda: advi.fit(wrong, {"y": Y, "c": 2.0}))
    assert not compiled


def test_an_index_of_a_float_type(compiled):
    wrong = model(lambda z, d: density(z) + z["tau"][d["group"]].sum())
    with pytest.raises(TypeError) as caught:
        advi.fit(wrong, {"group": np.array([0.0, 1.0]), "n": np.array([1, 2])})
    assert any("of a float type: group. " in note for note in caught.value.__notes__)
    assert not compiled


def test_misspelt_latent_in_the_log_joint(compiled):
    wrong = model(lambda z, d: density(z) + z["taau"].sum())
    parts = "'taau'", "did you mean 'tau'?", "mu, tau"
    raises(KeyError, *parts, call=lambda: advi.fit(wrong))
    assert not compiled


def test_misspelt_data_in_the_log_joint(compiled):
    wrong = model(lambda z, d: density(z) + d["sigmaa"])
    parts = "'sigmaa'", "did you mean 'sigma'?", "data: y", "data: sigma"
    raises(KeyError, *parts, call=lambda: advi.fit(wrong, {"y": Y, "sigma": 1.0}))
    assert not compiled


def test_latent_never_used(compiled):
    wrong = model(lambda z, d: -(z["mu"] ** 2) + 0 * len(z["tau"]))
    parts = "never uses 'tau'", "improper", "prior", "Latents used: mu"
    raises(ValueError, *parts, call=lambda: advi.fit(wrong))
    assert not compiled


# Latents and models.

MODELS = {
    "log-joint a string": (lambda: advi.Model("f", latents()), TypeError, "'f' (str)", "function"),
    "arguments swapped": (
        lambda: advi.Model(latents(), density),
        TypeError,
        "log_joint: got",
        "(dict)",
        "advi.Model(log_joint, latents)",
    ),
    "no latents": (lambda: advi.Model(density, {}), ValueError, "got {}", "advi.real()"),
    "empty subtree": (lambda: advi.Model(density, {"a": {}}), ValueError, "holds no latent"),
    "latents None": (lambda: advi.Model(density, None), TypeError, "got None", "expected"),
    "real without a call": (
        lambda: advi.Model(density, {"mu": advi.real}),
        TypeError,
        "latent 'mu'",
        "function real",
        "Call it",
    ),
    "number": (lambda: advi.Model(density, {"mu": 3}), TypeError, "'mu'", "3 (int)", "Latent"),
    "string": (lambda: advi.Model(density, {"mu": "real"}), TypeError, "'mu'", "'real' (str)"),
    "distribution": (
        lambda: advi.Model(density, {"mu": dist.Normal(0, 1)}),
        TypeError,
        "latent 'mu':",
        "Normal",
    ),
    "two latents of one name": (
        lambda: advi.Model(density, {"a.b": advi.real(), "a": {"b": advi.real()}}),
        ValueError,
        "'a.b'",
    ),
    "bare simplex": (
        lambda: advi.Model(density, {"w": constraints.simplex}),
        ValueError,
        "latent 'w'",
        "at least 1 axes, got ()",
        "advi.simplex(k)",
    ),
    "bare corr_cholesky": (
        lambda: advi.Model(density, {"R": constraints.corr_cholesky}),
        ValueError,
        "latent 'R'",
        "at least 2 axes, got ()",
    ),
    "constraint class": (
        lambda: advi.Model(density, {"w": constraints.interval}),
        TypeError,
        "latent 'w'",
        "Interval",
    ),
    "support a string": (lambda: advi.Latent("positive"), TypeError, "'positive' (str)", "advi."),
    "shape an int": (lambda: advi.Latent(constraints.real, 3), TypeError, "shape", "3 (int)"),
    "shape a tuple": (lambda: advi.real((3, 2)), TypeError, "shape", "(3, 2)"),
    "shape a float": (lambda: advi.real(2.5), TypeError, "shape", "2.5"),
    "shape a string": (lambda: advi.real("3"), TypeError, "shape", "'3'"),
    "shape negative": (lambda: advi.real(-1), ValueError, "shape", "-1"),
    "init of wrong shape": (
        lambda: advi.positive(3, init=1.0),
        ValueError,
        "init: got an array of shape ()",
        "(3,)",
    ),
    "unknown transform": (
        lambda: advi.positive(transform="softpluss"),
        ValueError,
        "'softpluss'",
        "did you mean 'softplus'?",
        "exp, softplus",
    ),
    "transform that does not apply": (
        lambda: advi.real(transform="exp"),
        ValueError,
        "transform='exp'",
        "Real()",
        "leave transform out",
    ),
    "transform registered twice": (
        lambda: advi.register_transform(constraints.positive)(lambda c: None),
        ValueError,
        "Positive",
        "registered already",
        "replace=True",
    ),
    "transform of no constraint": (
        lambda: advi.register_transform("positive"),
        TypeError,
        "'positive' (str)",
        "constraint",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_wrong_latents_and_models(case, compiled):
    call, error, *parts = MODELS[case]
    raises(error, *parts, call=call)
    assert not compiled


BOUNDS = {
    "text": (lambda: advi.interval("a", 1.0), TypeError, "a bound", "'a' (str)", "numbers"),
    "None": (lambda: advi.greater_than(None), TypeError, "a bound", "None (NoneType)"),
    "complex": (lambda: advi.less_than(1j), TypeError, "a bound", "1j (complex)", "real numbers"),
    "ragged": (
        lambda: advi.greater_than([[1.0], [1.0, 2.0]]),
        TypeError,
        "a bound",
        "not an array",
    ),
    "not one shape": (
        lambda: advi.interval(np.zeros(2), np.ones(3), 3),
        ValueError,
        "(2,) and (3,)",
        "broadcast",
    ),
    "not the latent's": (
        lambda: advi.greater_than(np.zeros(3)),
        ValueError,
        "shape (3,)",
        "the latent's shape ()",
    ),
    "init: text": (lambda: advi.real(init="a"), TypeError, "init: got 'a'", "numbers"),
    "init: complex": (lambda: advi.real(init=1j), TypeError, "init: got 1j", "real numbers"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_wrong_bounds_and_starts(case, compiled):
    call, error, *parts = BOUNDS[case]
    raises(error, *parts, call=call)
    assert not compiled


def test_bounds_of_every_entry():
    assert advi.interval(np.zeros((2, 1)), np.ones(3), 2, 3).shape == (2, 3)


DISCRETE = [
    constraints.nonnegative_integer,
    constraints.positive_integer,
    constraints.boolean,
    constraints.integer_interval(0, 4),
]


@pytest.mark.parametrize("support", DISCRETE, ids=str)
def test_integer_latents(support, compiled):
    parts = "discrete", str(support), "continuous latents", "logsumexp"
    raises(TypeError, *parts, call=lambda: advi.Latent(support))
    raises(TypeError, "latent 'k'", *parts, call=lambda: advi.Model(density, {"k": support}))
    assert not compiled


# Data.

COLUMN = np.array(["low", "high", None], dtype=object)  # as pandas keeps text
DATA = {
    "text": (np.array(["a", "b"]), TypeError, "data leaf 'y'", "(2,)", "dtype <U1", "numbers"),
    "text (mend)": (np.array(["a", "b"]), TypeError, "numpy.unique", "return_inverse=True"),
    "text column": (COLUMN, TypeError, "data leaf 'y'", "dtype object", "numbers"),
    "one string": ("a", TypeError, "data leaf 'y'", "numbers"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), TypeError, "datetime64", "numbers"),
    "function": (density, TypeError, "data leaf 'y'", "numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], TypeError, "data leaf 'y'", "[[1.0, 2.0], [3.0]] (list)"),
    "long double": (np.ones(2, np.longdouble), TypeError, "data leaf 'y'", "numbers"),
    "large integers": (
        np.array([1, 2**40]),
        ValueError,
        "data leaf 'y'",
        str(2**40),
        "32-bit",
        "x64=True",
    ),
    "large negative integers": (np.array([1, -(2**40)]), ValueError, "'y'", str(-(2**40))),
    "large unsigned integers": (np.array([2**63], np.uint64), ValueError, "'y'", str(2**63)),
}
if np.dtype(np.longdouble) == np.float64:  # where the platform has no other
    del DATA["long double"]


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("call", [advi.fit, advi.check])
def test_data_of_the_wrong_kind(case, call, compiled):
    y, error, *parts = DATA[case]
    wanted = model(lambda z, d: density(z) + jnp.sum(d["y"]))
    raises(error, *parts, call=lambda: call(wanted, {"x": 1.0, "y": y}))
    assert not compiled


@pytest.mark.parametrize("x64", [False, True])
def test_nested_data_are_named_by_their_path(x64, compiled):
    wanted = model(lambda z, d: density(z) + d["obs"][1]["y"].sum())
    data = {"obs": (1.0, {"y": np.array(["a"])})}
    raises(TypeError, "data leaf 'obs.1.y'", call=lambda: advi.fit(wanted, data, x64=x64))
    assert not compiled


HOLED = np.array([[1.0, 2.0], [0.5, 1.5], [1.0, np.nan], [np.nan, 1.0]])


def squares(z, d):
    return density(z) - jnp.sum((d["y"] - z["mu"]) ** 2)


@pytest.mark.parametrize("settings", [{}, {"optimizer": optax.adam(0.1), "max_steps": 2}])
def test_nan_in_the_data_is_named_with_leaf_and_row(settings):
    parts = "not finite at the start: nan", "'y', row 2 is NaN", "2 NaN", "remove or mask"
    data = {"x": np.ones(4), "y": HOLED}
    raises(ValueError, *parts, call=lambda: advi.fit(model(squares), data, **settings))


def test_nan_in_a_row_is_named_with_the_rows():
    wrong = with_rows()
    data = {"y": np.array([1.0, 2.0, np.nan, 3.0])}
    parts = "Rows that are not finite: [2]", "'y', row 2 is NaN"
    raises(ValueError, *parts, call=lambda: advi.fit(wrong, data))


def test_nan_that_does_not_reach_the_log_joint_does_no_harm():
    def masked(z, d):
        seen = ~jnp.isnan(d["y"])
        r = jnp.where(seen, d["y"], 0.0) - z["mu"]
        return -0.5 * z["mu"] ** 2 - 0.5 * jnp.sum(seen * r**2)

    y = HOLED.ravel()
    fit = advi.fit(advi.Model(masked, {"mu": advi.real()}), {"y": y}, key=1)
    num = np.isfinite(y).sum()
    assert fit.status == "converged"
    # a Gaussian posterior: exact but for the stopping rule, 0.01 sd
    assert abs(fit.mean()["mu"] - np.nansum(y) / (num + 1)) < 0.01 / np.sqrt(num + 1)
    assert np.isfinite(fit.elbo.value)


@pytest.mark.parametrize(("value", "word"), [(-np.inf, "-inf"), (np.nan, "nan")])
def test_not_finite_at_the_start(value, word):
    wrong = model(lambda z, d: density(z) + value)
    parts = (
        f"not finite at the start: {word}",
        "mu = 0",
        "tau = [1",
        "supports of the latents",
        "init={",
    )
    raises(ValueError, *parts, call=lambda: advi.fit(wrong))


# The arguments of fit.

KNOWN = [name for name in inspect.signature(advi.fit).parameters if name not in ("model", "data")]
UNKNOWN = {
    "learning_rate": "Known: ",
    "optimiser": "did you mean 'optimizer'?",
    "batchsize": "did you mean 'batch_size'?",
    "num_steps": "did you mean 'max_steps'?",
    "familly": "did you mean 'family'?",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_argument(name, compiled):
    parts = f"unknown argument {name!r}", UNKNOWN[name], ", ".join(KNOWN)
    raises(TypeError, *parts, call=lambda: advi.fit(MODEL, **{name: 0.1}))
    assert not compiled


ARGUMENTS = {
    "a function for a model": (
        {"model": density},
        TypeError,
        "model: got",
        "function",
        "advi.Model(log_joint, latents)",
    ),
    "family: misspelt string": (
        {"family": "fullrank"},
        ValueError,
        "'fullrank'",
        "did you mean 'full_rank'?",
        "auto, mean_field, full_rank",
    ),
    "family: misspelt string for a latent": (
        {"family": {"mu": "meanfield"}},
        ValueError,
        "'meanfield'",
        "did you mean 'mean_field'?",
    ),
    "family: misspelt latent": (
        {"family": {"taau": "mean_field"}},
        ValueError,
        "latent 'taau'",
        "did you mean 'tau'?",
        "mu, tau",
    ),
    "family: misspelt latent in a tuple": (
        {"family": {("mu", "taau"): "full_rank"}},
        ValueError,
        "latent 'taau'",
        "did you mean 'tau'?",
    ),
    "family: latent named twice": (
        {"family": {"mu": "mean_field", ("mu", "tau"): "full_rank"}},
        ValueError,
        "'mu' is named twice",
        "('mu', 'tau')",
        "at most once",
    ),
    "family: no latent": ({"family": {(): "full_rank"}}, ValueError, "family", "()", "latent"),
    "family: class": ({"family": advi.MeanField}, TypeError, "class MeanField", "MeanField()"),
    "family: class for a latent": ({"family": {"mu": advi.Point}}, TypeError, "Point()"),
    "family: class of a held latent": ({"family": {"mu": advi.Fixed}}, TypeError, "Fixed(value)"),
    "family: number": ({"family": 3}, TypeError, "family: got 3 (int)", "expected 'auto'"),
    "family: None": ({"family": None}, TypeError, "family: got None", "expected 'auto'"),
    "family: array": ({"family": np.ones(2)}, TypeError, "family: got an array", "expected"),
    "objective without optimizer": (
        {"objective": advi.Elbo()},
        ValueError,
        "objective",
        "optimizer",
        "leave it out",
    ),
    "objective: class": ({"objective": advi.Elbo}, TypeError, "objective: got", "call it: Elbo("),
    "optimizer: string": ({"optimizer": "adam"}, TypeError, "'adam' (str)", "optax.adam(1e-2)"),
    "optimizer: function": ({"optimizer": optax.adam}, TypeError, "function adam", "Optax"),
    "optimizer: rate": ({"optimizer": 1e-3}, TypeError, "0.001 (float)", "optax.adam(1e-2)"),
    "max_steps: 0": ({"max_steps": 0}, ValueError, "max_steps: got 0", "integer >= 1"),
    "max_steps: negative": ({"max_steps": -5}, ValueError, "max_steps: got -5", "integer >= 1"),
    "max_steps: float": ({"max_steps": 1e4}, ValueError, "10000.0 (float)", "integer >= 1"),
    "max_steps: bool": ({"max_steps": True}, ValueError, "True (bool)", "integer >= 1"),
    "restarts: None": ({"restarts": None}, ValueError, "restarts: got None", "integer >= 1"),
    "x64: array": ({"x64": np.array([True, False])}, TypeError, "x64: got an array", "or None"),
    "x64: number": ({"x64": 1}, TypeError, "x64: got 1 (int)", "True, False or None"),
    "diagnose": ({"diagnose": np.array([True, False])}, TypeError, "diagnose: got an array"),
    "progress": ({"progress": "no"}, TypeError, "progress: got 'no' (str)", "True or False"),
    "callback: no argument": ({"callback": lambda: 1}, TypeError, "callback: got", "one argument"),
    "data: names of two types": (
        {"data": {"y": 1.0, 0: 2.0}},
        TypeError,
        "names cannot be sorted",
        "one type",
    ),
    "x64: string": ({"x64": "yes"}, TypeError, "x64: got 'yes' (str)", "True, False or None"),
    "callback: number": ({"callback": 1}, TypeError, "callback: got 1 (int)", "a function"),
    "init: number": ({"init": 3}, TypeError, "init: got 3 (int)", "a Fit, or a dict"),
    "init: model": ({"init": MODEL}, TypeError, "init: got", "a Fit, or a dict"),
    "init: unknown name": (
        {"init": {"taau": np.ones(2)}},
        ValueError,
        "'taau'",
        "did you mean 'tau'?",
        "mu, tau",
    ),
    "init: wrong shape": (
        {"init": {"tau": np.ones(3)}},
        ValueError,
        "init['tau']",
        "(3,)",
        "expected shape (2,)",
    ),
    "init: text": ({"init": {"mu": "a"}}, TypeError, "init['mu']", "'a'"),
    "init: outside the support": (
        {"init": {"tau": np.array([1.0, -1.0])}},
        ValueError,
        "init['tau']",
        "-1",
        "support Positive",
    ),
    "init: NaN": ({"init": {"mu": np.nan}}, ValueError, "init['mu']", "nan", "support Real"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(case, compiled):
    arguments, *expected = ARGUMENTS[case]
    error, *parts = expected
    raises(error, *parts, call=lambda: advi.fit(**{"model": MODEL, **arguments}))
    assert not compiled


BATCHES = {
    "too large": (6, ValueError, "batch_size: got 6", "1 to 5, the number of rows"),
    "zero": (0, ValueError, "batch_size: got 0", "1 to 5, the number of rows"),
    "negative": (-2, ValueError, "batch_size: got -2", "1 to 5"),
    "float": (2.0, TypeError, "batch_size: got 2.0 (float)", "an integer"),
    "bool": (True, TypeError, "batch_size: got True (bool)", "an integer"),
    "string": ("all", TypeError, "batch_size: got 'all' (str)", "an integer"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_wrong_batch_size(case, compiled):
    batch_size, error, *parts = BATCHES[case]
    raises(error, *parts, call=lambda: advi.fit(with_rows(), {"y": Y}, batch_size=batch_size))
    assert not compiled


def test_batches_of_a_scalar_log_joint(compiled):
    parts = "batch_size=2", "returned a scalar", "advi.Terms(shared, rows)", "leave batch_size out"
    raises(ValueError, *parts, call=lambda: advi.fit(model(squares), {"y": Y}, batch_size=2))
    assert not compiled


def test_batches_of_no_data(compiled):
    wrong = with_rows(rows=lambda z, d: -((Y - z["mu"]) ** 2))
    parts = "batch_size=2", "data is None", "instead of closing over"
    raises(ValueError, *parts, call=lambda: advi.fit(wrong, batch_size=2))
    assert not compiled


NESTED = advi.Model(
    lambda z, d: -(z["s"]["a"] ** 2) - z["s"]["b"] ** 2, {"s": {"a": advi.real(), "b": advi.real()}}
)


def test_init_of_nested_latents(compiled):
    raises(ValueError, "'s'", "s.a, s.b", call=lambda: advi.fit(NESTED, init={"s": 1.0}))
    raises(ValueError, "'s.c'", "s.a, s.b", call=lambda: advi.fit(NESTED, init={"s": {"c": 1.0}}))
    assert not compiled


OFF_SUPPORT = {  # values whose inverse is finite all the same
    "simplex": (advi.simplex(3), [0.2, 0.2, 0.2]),
    "zero_sum": (advi.zero_sum(3), [1.0, 1.0, 1.0]),
    "corr_cholesky": (advi.corr_cholesky(2), [[1.0, 0.0], [3.0, 4.0]]),
    "cov_matrix": (advi.cov_matrix(2), [[1.0, 0.3], [-0.3, 1.0]]),
    "unit_vector": (advi.unit_vector(2), [3.0, 4.0]),
}


@pytest.mark.parametrize("case", OFF_SUPPORT)
def test_init_next_to_the_support(case, compiled):
    latent, value = OFF_SUPPORT[case]
    wanted = advi.Model(lambda z, d: -jnp.sum(z["w"] ** 2), {"w": latent})
    parts = "init['w']", "inside the support"
    raises(ValueError, *parts, call=lambda: advi.fit(wanted, init={"w": np.array(value)}))
    assert not compiled


BAD_KEYS = {
    "negative": -1,
    "float": 1.5,
    "string": "a",
    "bool": True,
    "None": None,
    "list": [0, 1],
    "integers": np.arange(2),
}
BAD_KEYS_FROM_JAX = {
    "array of keys": lambda: jax.random.split(jax.random.key(0), 3),
    "array of raw keys": lambda: jax.random.split(jax.random.PRNGKey(0), 3),
}
KEY_PARTS = "key: got", "expected a non-negative integer or one JAX key", "key=jax.random.key(0)"


@pytest.mark.parametrize("case", BAD_KEYS)
@pytest.mark.parametrize("call", [advi.fit, advi.check])
def test_bad_keys(case, call, compiled):
    raises(TypeError, *KEY_PARTS, call=lambda: call(MODEL, key=BAD_KEYS[case]))
    assert not compiled


@pytest.mark.parametrize("case", BAD_KEYS_FROM_JAX)
def test_arrays_of_keys(case):
    keys = BAD_KEYS_FROM_JAX[case]()
    raises(TypeError, *KEY_PARTS, "array of shape (3", call=lambda: advi.fit(MODEL, key=keys))


@pytest.mark.parametrize("draws", [0, -1, 2.0, True, "8"])
def test_draws_of_an_objective(draws, compiled):
    parts = f"draws: got {draws!r}", "expected an integer >= 1"
    raises(ValueError, *parts, call=lambda: advi.Elbo(draws=draws))
    assert not compiled


def test_estimator_of_an_objective():
    parts = "'slt'", "did you mean 'stl'?", "auto, entropy, stl"
    raises(ValueError, *parts, call=lambda: advi.Elbo(estimator="slt"))


@pytest.mark.parametrize("model", [density, None])
def test_check_of_no_model(model, compiled):
    raises(TypeError, "model: got", "advi.Model", call=lambda: advi.check(model))
    assert not compiled


def test_check_of_a_wrong_precision(compiled):
    parts = "x64: got 'yes' (str)", "True, False or None"
    raises(TypeError, *parts, call=lambda: advi.check(MODEL, x64="yes"))
    assert not compiled


# The result.


@pytest.fixture(scope="module")
def fit():
    return advi.fit(MODEL, max_steps=3)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3", None])
def test_number_of_draws(fit, n):
    raises(ValueError, f"n: got {n!r}", "expected an integer >= 1", call=lambda: fit.sample(n))


@pytest.mark.parametrize("case", BAD_KEYS)
def test_key_of_a_sample(fit, case):
    raises(TypeError, *KEY_PARTS, call=lambda: fit.sample(2, key=BAD_KEYS[case]))


@pytest.mark.parametrize("q", [1.5, -0.1, [0.5, 2.0], np.nan], ids=str)
def test_quantiles_outside_the_unit_interval(fit, q):
    raises(ValueError, "q: got", str(q), "between 0 and 1", call=lambda: fit.quantile(q))


@pytest.mark.parametrize("q", ["a", None, {"a": 1}, [0.1, "b"]], ids=str)
def test_quantiles_that_are_no_numbers(fit, q):
    raises(TypeError, "q: got", "expected numbers", call=lambda: fit.quantile(q))


NAMES = {
    "cov": lambda f, names: f.cov(names),
    "plot": lambda f, names: f.plot(names),
    "plot_forest": lambda f, names: f.plot_forest(names),
    "plot_pairs": lambda f, names: f.plot_pairs(names),
}


@pytest.mark.parametrize("method", NAMES)
def test_names_that_are_none(fit, method):
    for names in (3, [3], [["mu"]]):
        raises(TypeError, "names: got", "a name, or", call=lambda n=names: NAMES[method](fit, n))
    raises(ValueError, "names: got none", call=lambda: NAMES[method](fit, []))


def test_a_callback_that_returns_an_array():
    parts = "callback: returned an array of shape (2,)", "something true"
    raises(TypeError, *parts, call=lambda: advi.fit(MODEL, callback=lambda p: np.ones(2)))


def test_names_of_fits(fit):
    raises(TypeError, "the names 0", "text", call=lambda: advi.compare({0: fit}))


@pytest.mark.parametrize("known", [3, ["a"], dict], ids=str)
def test_classes_that_are_none(fit, known, tmp_path):
    fit.save(tmp_path / "a")
    raises(TypeError, "known: got", "classes", call=lambda: advi.load(tmp_path / "a", known=known))


@pytest.mark.parametrize("call", [advi.load, lambda path: advi.fit(MODEL, max_steps=1).save(path)])
def test_names_that_no_file_has(call):
    raises(ValueError, "path: got", "the name of a file", call=lambda: call("a\0b"))


def test_covariance_of_an_unknown_latent(fit):
    parts = "'taau'", "did you mean 'tau'?", "mu, tau"
    raises(ValueError, *parts, call=lambda: fit.cov(["mu", "taau"]))


WRONG_POINTS = {
    "latent missing": ({"mu": 0.0}, "missing: ['tau']"),
    "latent unknown": ({"mu": 0.0, "tau": np.ones(2), "nu": 0.0}, "unknown: ['nu']"),
    "no tree": (0.0, "['mu', 'tau']"),
    "wrong shape": ({"mu": 0.0, "tau": np.ones(3)}, "tau: got", "(3,)", "expected shape (2,)"),
    "scalar for a vector": ({"mu": 0.0, "tau": 1.0}, "tau: got", "()", "expected shape (2,)"),
    "unequal leading axes": ({"mu": np.zeros(2), "tau": np.ones((3, 2))}, "[(2,), (3,)]"),
    "one leading axis": ({"mu": np.zeros(2), "tau": np.ones(2)}, "leading axes"),
    "two leading axes": ({"mu": np.zeros((2, 2)), "tau": np.ones((2, 2, 2))}, "[(2, 2)]"),
}


@pytest.mark.parametrize("case", WRONG_POINTS)
def test_log_density_of_the_wrong_values(fit, case):
    z, *parts = WRONG_POINTS[case]
    raises(ValueError, "expected", *parts, call=lambda: fit.log_prob(z))


WRONG_VALUES = {
    "text": ({"mu": "a", "tau": np.ones(2)}, "mu: got 'a' (str)"),
    "complex": ({"mu": 1j, "tau": np.ones(2)}, "mu: got 1j (complex)", "real numbers"),
    "None": ({"mu": None, "tau": np.ones(2)}, "mu: got None"),
    "ragged": ({"mu": 0.0, "tau": [[1.0], [1.0, 2.0]]}, "tau: got", "not an array"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_log_density_of_what_are_no_numbers(fit, case):
    z, *parts = WRONG_VALUES[case]
    raises(TypeError, *parts, call=lambda: fit.log_prob(z))


def test_log_density_of_a_wrapped_latent():
    wrapped = advi.Model(lambda z, d: jnp.cos(z["angle"]), {"angle": advi.circular()})
    fit = advi.fit(wrapped, max_steps=1)
    parts = "'angle'", "no closed form", "sample()"
    raises(ValueError, *parts, call=lambda: fit.log_prob({"angle": 0.0}))


def test_warm_start_from_another_model(fit, compiled):
    parts = "init: got a fit of", "expected", "'s.a'"
    raises(ValueError, *parts, call=lambda: advi.fit(NESTED, init=fit))
    wider = advi.Model(density, {"mu": advi.real(), "tau": advi.positive(3)})
    raises(ValueError, "(2,)", "(3,)", call=lambda: advi.fit(wider, init=fit))
    assert not compiled


# What looks like a mistake and is none.


def test_lists_of_numbers_are_values(fit):
    started = advi.fit(MODEL, init={"tau": [1.0, 2.0]}, max_steps=3)
    assert started.status == "max_steps"
    listed = fit.log_prob({"mu": 0.0, "tau": [1.0, 2.0]})
    np.testing.assert_array_equal(listed, fit.log_prob({"mu": 0.0, "tau": np.array([1.0, 2.0])}))
