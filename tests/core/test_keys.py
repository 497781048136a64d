"""Keys: every form of one, separate streams, the same bits again, no global state."""

import ast
import itertools
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.api.compare import DRAWS
from advi.core.keys import Stream, device_key, host_rng, key_words
from advi.variational import draws

MODEL = advi.Model(lambda z, data: -0.5 * jnp.sum(z["x"] ** 2), {"x": advi.real(3)})


def test_words_of_every_form_of_a_key():
    assert key_words(7) == key_words(np.int64(7)) == key_words(np.uint8(7)) == (7,)
    assert key_words(2**70) == (2**70,)
    words = key_words(jax.random.key(7))
    assert words == key_words(jax.random.PRNGKey(7)) == key_words(np.asarray(jax.random.PRNGKey(7)))
    assert len(key_words(jax.random.key(7, impl="rbg"))) == 4


FORMS = {
    "integer": 3,
    "typed": jax.random.key(3),
    "raw": jax.random.PRNGKey(3),
    "rbg": jax.random.key(3, impl="rbg"),
    "split": jax.random.split(jax.random.key(3))[0],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_key_gives_the_same_stream(form):
    key = FORMS[form]
    np.testing.assert_array_equal(
        host_rng(key, Stream.LOO).random(8), host_rng(key, Stream.LOO).random(8)
    )
    one, same = (jax.random.key_data(device_key(key, Stream.STEPS)) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_streams_differ_within_and_between_keys():
    keys = [0, 1, 2, jax.random.key(1), jax.random.key(2), *jax.random.split(jax.random.key(0), 3)]
    first = [host_rng(key, stream).random() for key, stream in itertools.product(keys, Stream)]
    children = [child.random() for child in host_rng(0, Stream.PLAN).spawn(20)]
    asked = [host_rng(0, stream).random() for stream in Stream if stream > 100]
    assert len(set(first)) == len(first)
    assert len({*asked, *children}) == len(asked) + len(children)


def test_device_keys_differ_within_and_between_keys():
    keys = [0, 1, 2, *jax.random.split(jax.random.key(0), 3)]
    made = {
        tuple(np.asarray(jax.random.key_data(device_key(key, stream))).tolist())
        for key, stream in itertools.product(keys, Stream)
    }
    assert len(made) == len(keys) * len(Stream)
    assert jnp.issubdtype(device_key(0, Stream.STEPS).dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_and_its_draws_are_a_function_of_the_key(form):
    key = FORMS[form]
    one, same = (advi.fit(MODEL, key=key) for _ in range(2))
    assert one.elbo == same.elbo
    for a, b in zip(
        jax.tree.leaves(one.posterior.params), jax.tree.leaves(same.posterior.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.sample(4, key=key)["x"], same.sample(4, key=key)["x"])
    assert not np.any(one.sample(4, key=key)["x"] == one.sample(4, key=99)["x"])


@pytest.mark.parametrize("key", [0, 5])
def test_samples_are_no_draws_that_the_fit_has_seen(key, monkeypatch):
    """A fit and `sample` with the same key, by default both zero, use separate streams."""
    seen = []

    def recorded(make):
        def recorder(*args):
            E = make(*args)
            seen.append(E)
            return E

        return recorder

    for name in ("fixed", "antithetic"):
        monkeypatch.setattr(draws, name, recorded(getattr(draws, name)))
    fit = advi.fit(MODEL, family="mean_field", key=key, x64=True)
    during = np.concatenate(seen)
    loc, sd = fit.posterior.gaussian.loc, fit.posterior.gaussian.scale.sd
    E = (np.asarray(fit.sample(300, key=key)["x"]) - loc) / sd
    nearest = np.abs(E[:, None] - during[None]).max(-1).min()
    assert nearest > 1e-6  # equal draws are within rounding, 1e-15


def test_every_stream_is_drawn_from_in_one_place():
    """Named there, so that no two uses can come to share draws."""
    used = []
    for path in Path(advi.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("host_rng", "device_key"):
                _, stream = node.args
                assert getattr(stream.value, "id", "") == "Stream", f"{path}:{node.lineno}"
                used.append(Stream[stream.attr])
    assert sorted(used) == sorted(Stream)


def test_fits_are_compared_on_draws_that_they_have_not_seen(monkeypatch):
    seen = []
    antithetic = draws.antithetic
    monkeypatch.setattr(
        draws, "antithetic", lambda *args: (seen.append(antithetic(*args)), seen[-1])[1]
    )
    fit = advi.fit(MODEL, family="mean_field", diagnose=False)
    assert seen
    during = np.concatenate(seen)
    seen.clear()
    advi.compare({"one": fit})
    [judged] = seen
    assert judged.shape == (DRAWS, 3)
    assert not (judged[:, None] == during[None]).all(-1).any()


def test_global_random_state_is_neither_read_nor_changed():
    states = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    one = advi.fit(MODEL, key=2)
    first = one.sample(3)["x"]
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert random.getstate() == states[1]
    np.random.seed(17)  # noqa: NPY002
    random.seed(17)
    np.testing.assert_array_equal(advi.fit(MODEL, key=2).sample(3)["x"], first)
