"""Files of fits whose latents lie in nodes that no file can hold, and of latents that are held."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.core import archive
from advi.core.archive import ArchiveError
from advi.core.status import Estimate, Status
from advi.data.spec import prepare
from advi.model.density import Density
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.results.fit import Fit
from advi.results.storage import KIND, VERSION
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family


class Pair(NamedTuple):
    first: object
    second: object


def fit_of(latents, family: Any = "mean_field"):
    """A fit of some latents, at random parameters."""
    guide = resolve_family(advi.Model(lambda z, data: 0.0, latents), family)
    loc = np.random.default_rng(0).standard_normal(guide.model.size)
    params = guide.params_of(Gaussian.diagonal(loc, 0.5), np.float32)
    density = Density(guide.model, *prepare(None, "float32"), guide.estimated)
    outcome = Outcome(Status("converged", "made"), Estimate(-1.0, 0.1), [], 1)
    return Fit(FitRecord(GlobalPosterior(guide, params, density), outcome))


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


LATENTS = {"of": [Pair(advi.real(2), {"b": advi.positive()}), advi.real()], "a": advi.real()}
VALUES = {"of": [Pair(np.zeros(2), {"b": 1.0}), 0.0]}


@pytest.fixture(scope="module")
def fit():
    return fit_of(LATENTS)


@pytest.fixture
def file(fit, tmp_path):
    fit.save(tmp_path / "a.advi")
    return tmp_path / "a.advi"


def test_a_none_of_parameters_stays(tmp_path):
    params = {"w": np.ones(2), "rest": [None, np.zeros(1)], "act": None}
    for latents, values in (({"net": advi.tree(params)}, {"net": params}),
                            (advi.tree(params), params)):  # fmt: skip
        fit = fit_of(latents)
        assert jax.tree.structure(fit.mean()) == jax.tree.structure(values)
        assert np.isfinite(fit.log_prob(values))
        fit.save(tmp_path / "a.advi")
        same(advi.load(tmp_path / "a.advi", like=values).mean(), fit.mean())
    ordered = advi.Model(lambda z, data: 0.0, {"b": advi.real(), "a": advi.tree(params)})
    assert list(ordered.latents) == ["b", "a.rest.1", "a.w"]
    with pytest.raises(TypeError, match=r"latent 's.tau': got None"):
        advi.Model(lambda z, data: 0.0, {"net": advi.tree(params), "s": {"tau": None}})


def test_nodes_become_dicts_by_their_keys(fit, file):
    loaded = advi.load(file)
    [pair, other], expected = loaded.mean()["of"], fit.mean()["of"]
    same(pair, {"first": expected[0].first, "second": expected[0].second})
    same(other, expected[1])
    assert str(loaded.summary()) == str(fit.summary())
    assert np.array_equal(loaded.sample(3)["a"], fit.sample(3)["a"])


def test_a_tree_like_the_latents_puts_them_back(fit, file):
    for like in (VALUES, LATENTS, fit.mean()):
        loaded = advi.load(file, like=like)
        same(loaded.sample(3), fit.sample(3))
        same(loaded.log_prob(fit.mean()), fit.log_prob(fit.mean()))
    same(pickle.loads(pickle.dumps(fit)).mean(), fit.mean())


def test_latents_that_are_no_dict(tmp_path):
    fit = fit_of(Pair(advi.real(2), advi.positive()))
    fit.save(tmp_path / "a")
    assert set(advi.load(tmp_path / "a").mean()) == {"first", "second"}
    same(advi.load(tmp_path / "a", like=Pair(np.zeros(2), 0.0)).mean(), fit.mean())


PAIR = VALUES["of"][0]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"off": VALUES["of"]}, "like: unknown latent 'off'; did you mean 'of'"),
        ({"of": [PAIR]}, "it lacks of.1.$"),
        ({"of": [PAIR, {"c": 0.0}]}, "it lacks of.1; the fit lacks of.1.c"),
        ({"of": [PAIR, np.zeros(3)]}, r"like: of.1 has shape \(3,\); expected \(\)"),
        (Pair(0.0, 0.0), "it lacks of.0.first, .*; the fit lacks first, second"),
    ],
)
def test_a_tree_unlike_the_latents_is_refused(file, like, message):
    with pytest.raises(ValueError, match=message):
        advi.load(file, like=like)


def test_modules_of_equinox(tmp_path):
    eqx = pytest.importorskip("equinox")
    network = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)
    fit = fit_of({"net": advi.tree(arrays)}, advi.Point())
    fit.save(tmp_path / "a")
    plain = advi.load(tmp_path / "a").mean()["net"]
    assert plain["layers"][0]["weight"].shape == (4, 2)
    loaded = advi.load(tmp_path / "a", like={"net": arrays}).mean()
    same(loaded, fit.mean())
    assert eqx.combine(loaded["net"], rest)(jnp.ones(2)).shape == (3,)
    with pytest.raises(ValueError, match=r"the fit lacks net.activation, .*its arrays alone"):
        advi.load(tmp_path / "a", like={"net": network})


def test_states_of_flax(tmp_path):
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    _, state = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    fit = fit_of({"net": advi.tree(state)}, advi.Point())
    fit.save(tmp_path / "a")
    assert advi.load(tmp_path / "a").mean()["net"]["kernel"]["value"].shape == (2, 3)
    same(advi.load(tmp_path / "a", like={"net": state}).mean(), fit.mean())


HELD = {"of": advi.Fixed([Pair([1.0, 2.0], {"b": 3.0}), 4.0])}


def test_a_file_has_the_lowest_version_that_it_needs(fit, file, tmp_path):
    assert archive.read(file, KIND, 1).document  # which the first version of advi reads
    held = fit_of(LATENTS, HELD)
    held.save(tmp_path / "held")
    with pytest.raises(ArchiveError, match="later version"):
        archive.read(tmp_path / "held", KIND, 1)
    loaded = advi.load(tmp_path / "held", like=VALUES)
    same(loaded.mean(), held.mean())
    assert loaded.posterior.model.size == 1


@pytest.mark.parametrize(
    "held",
    [
        {"held": ["of.0.first", "of.0.second.b", "of.2"]},
        {"held": ["of.0.first", "of.0.second.b"]},
        {"held": ["of.0.second.b", "of.0.first", "of.1"]},
        {"held": ["of.0.first", "of.0.first", "of.1"]},
        {"held": "abc"},
        {},
        {"held.1": np.array(np.nan, np.float32)},
        {"held.1": np.array(1)},
        {"held.1": np.zeros(10**6, np.float32)},
        {"held.3": np.zeros(())},
    ],
)
def test_values_that_do_not_fit_are_refused(held, tmp_path):
    fit_of(LATENTS, HELD).save(tmp_path / "a")
    document, arrays, _ = archive.read(tmp_path / "a", KIND, VERSION)
    document = {key: value for key, value in document.items() if key != "held"}
    document["held"] = ["of.0.first", "of.0.second.b", "of.1"]
    for name, value in held.items():
        (document if name == "held" else arrays)[name] = value
    if not held:
        del document["held"]
    archive.write(tmp_path / "a", KIND, VERSION, document, arrays)
    with pytest.raises(ArchiveError):
        advi.load(tmp_path / "a")
