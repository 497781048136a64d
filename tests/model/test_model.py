"""Models: the tree of latents, its names and order, and the map to flat real coordinates."""

from collections import OrderedDict, namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import advi

Scale = namedtuple("Scale", ["within", "between"])


def total(z, data=None):
    return -sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(z))


def flat_tree():
    return {"mu": advi.real(), "tau": advi.positive(2)}


def nested():
    return {
        "tau": {"within": advi.positive(), "between": advi.positive(3)},
        "eta": (advi.real(2), [advi.simplex(3, 2), advi.interval(-1.0, 2.0)]),
        "alpha": advi.ordered(3),
    }


TREES = {
    "one latent": advi.real(2, 2),
    "flat": flat_tree(),
    "nested": nested(),
    "tuple": (advi.positive(), advi.real(3)),
    "list": [advi.positive(), {"b": advi.real(), "a": advi.positive()}],
    "named tuple": {"s": Scale(advi.positive(), advi.positive(2)), "m": advi.real()},
    "ordered dict": OrderedDict(b=advi.real(2), a=advi.positive()),
    "integer keys": {2: advi.real(), 1: advi.positive(2)},
    "constraints": {"p": constraints.unit_interval, "a": constraints.real},
    "matrices": {"R": advi.corr_cholesky(3), "S": advi.cov_matrix(2), "z": advi.zero_sum(3, 2)},
}


@pytest.fixture(params=TREES)
def model(request):
    return advi.Model(total, TREES[request.param])


NAMES = {
    "one latent": ["z"],
    "flat": ["mu", "tau"],
    "nested": ["tau.within", "tau.between", "eta.0", "eta.1.0", "eta.1.1", "alpha"],
    "tuple": ["0", "1"],
    "list": ["0", "1.b", "1.a"],
    "named tuple": ["s.within", "s.between", "m"],
    "ordered dict": ["b", "a"],
    "integer keys": ["2", "1"],
    "constraints": ["p", "a"],
    "matrices": ["R", "S", "z"],
}


@pytest.mark.parametrize("case", TREES)
def test_latents_are_named_by_path_in_declared_order(case):
    model = advi.Model(total, TREES[case])
    assert list(model.latents) == NAMES[case]
    assert list(model.spans) == NAMES[case]
    assert list(model.coordinates) == NAMES[case]


def test_spans_tile_the_flat_coordinates(model):
    covered = [i for start, stop in model.spans.values() for i in range(start, stop)]
    assert covered == list(range(model.size))
    sizes = [stop - start for start, stop in model.spans.values()]
    assert sizes == [latent.size for latent in model.latents.values()]


def test_unravel_gives_every_latent_its_shape_and_support(model):
    x = np.random.default_rng(0).standard_normal(model.size).astype(np.float32)
    values, log_dets = jax.jit(model.unravel)(x)
    assert set(values) == set(log_dets) == set(model.latents)
    for name, latent in model.latents.items():
        assert values[name].shape == latent.shape
        assert np.all(latent.support(np.asarray(values[name])))
        assert log_dets[name].shape == ()


def test_ravel_inverts_unravel(model):
    with jax.enable_x64(True):
        x = np.random.default_rng(1).standard_normal(model.size)
        back = jax.jit(lambda x: model.ravel(model.unravel(x)[0]))(x)
        # rounding only: double precision, values near one
        np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-12)


def test_log_dets_are_those_of_each_latent_alone():
    model = advi.Model(total, nested())
    with jax.enable_x64(True):
        x = np.random.default_rng(2).standard_normal(model.size)
        _, log_dets = jax.jit(model.unravel)(x)
        for name, latent in model.latents.items():
            part = x[slice(*model.spans[name])].reshape(latent.unconstrained_shape)
            expected = jax.jit(lambda part, t=latent.bijection: t.forward(part)[1].sum())(part)
            np.testing.assert_allclose(log_dets[name], expected, rtol=1e-14)


def test_trees_round_trip(model):
    by_name = {
        name: np.full(v.shape, float(k)) for k, (name, v) in enumerate(model.latents.items())
    }
    tree = model.to_tree(by_name)
    latents = jax.tree.leaves(tree)
    assert len(latents) == len(model.latents)
    back = model.from_tree(tree)
    assert list(back) == list(by_name)
    for name, value in by_name.items():
        np.testing.assert_array_equal(back[name], value)


def test_values_reach_the_log_joint_in_the_declared_tree():
    model = advi.Model(total, nested())
    values = {name: k for k, name in enumerate(model.latents)}
    tree = model.to_tree(values)
    assert tree == {"tau": {"within": 0, "between": 1}, "eta": (2, [3, 4]), "alpha": 5}


def test_from_tree_allows_a_leading_axis_and_any_order():
    model = advi.Model(total, flat_tree())
    z = {"tau": np.ones((7, 2)), "mu": np.zeros(7)}
    assert {name: v.shape for name, v in model.from_tree(z).items()} == {"mu": (7,), "tau": (7, 2)}


def test_from_tree_reads_names_of_nested_latents():
    model = advi.Model(total, {"s": {"a": advi.real(), "b": advi.real()}})
    assert model.from_tree({"s.a": 1.0, "s.b": 2.0}) == {"s.a": 1.0, "s.b": 2.0}


def test_coordinates_are_named_with_their_index():
    model = advi.Model(
        total, {"a": advi.real(), "s": {"w": advi.simplex(2, 2)}, "t": (advi.real(3),)}
    )
    assert model.coordinates == {
        "a": ("a",),
        "s.w": ("s.w[0,0]", "s.w[0,1]", "s.w[1,0]", "s.w[1,1]"),
        "t.0": ("t.0[0]", "t.0[1]", "t.0[2]"),
    }


def test_names_resolve_to_a_latent_or_a_subtree():
    model = advi.Model(total, nested())
    assert model.resolve("alpha") == ["alpha"]
    assert model.resolve("tau") == ["tau.within", "tau.between"]
    assert model.resolve("eta") == ["eta.0", "eta.1.0", "eta.1.1"]
    assert model.resolve("eta.1") == ["eta.1.0", "eta.1.1"]
    with pytest.raises(ValueError, match="unknown latent 'ta'"):  # a beginning is no subtree
        model.resolve("ta")


def test_a_bare_latent_is_a_model():
    model = advi.Model(lambda z, data: -0.5 * jnp.sum((z - 3) ** 2), advi.real(2))
    assert (model.size, list(model.latents)) == (2, ["z"])
    assert model.to_tree({"z": 1.0}) == 1.0
    fit = advi.fit(model)
    assert fit.sample(5).shape == (5, 2)
    # a Gaussian posterior of sd one: exact but for the stopping rule, 0.01 sd
    np.testing.assert_allclose(fit.mean(), [3.0, 3.0], atol=0.01)


def test_bare_constraints_are_scalar_latents():
    model = advi.Model(total, {"p": constraints.unit_interval, "a": constraints.positive})
    assert {name: latent.shape for name, latent in model.latents.items()} == {"p": (), "a": ()}
    assert model.latents["a"].support is constraints.positive


def test_tree_gives_real_latents_which_start_at_the_leaves():
    leaves = {"w": np.arange(6.0).reshape(2, 3), "b": (np.float32(1.0), np.zeros(0))}
    latents = advi.tree(leaves)
    model = advi.Model(total, latents)
    assert jax.tree.structure(model.to_tree(dict.fromkeys(model.latents, 0.0))) == (
        jax.tree.structure(leaves)
    )
    assert {name: v.shape for name, v in model.latents.items()} == {
        "w": (2, 3),
        "b.0": (),
        "b.1": (0,),
    }
    np.testing.assert_array_equal(latents["w"].init, leaves["w"])
    assert all(latent.support is constraints.real for latent in model.latents.values())


def test_models_are_equal_if_log_joint_and_latents_are():
    model = advi.Model(total, flat_tree())
    same = advi.Model(total, flat_tree())
    assert model == same
    assert hash(model) == hash(same)
    assert len({model, same}) == 1
    others = [
        advi.Model(lambda z, data: total(z), flat_tree()),
        advi.Model(total, {"mu": advi.real(), "tau": advi.positive(3)}),
        advi.Model(total, {"mu": advi.real(), "tau": advi.real(2)}),
        advi.Model(total, {"mu": advi.real(), "tau": advi.positive(2, transform="softplus")}),
        advi.Model(total, {"mu": advi.real(), "sigma": advi.positive(2)}),
        advi.Model(total, {"mu": advi.real(), "s": {"tau": advi.positive(2)}}),
        advi.Model(total, {"tau": advi.positive(2), "mu": advi.real()}),
    ]
    for other in others:
        assert model != other
    assert model != "model"


@pytest.mark.parametrize("low", [0.0, np.zeros(2), jnp.zeros(2), [0.0, 0.0]], ids=repr)
def test_models_with_bounds_hash(low):
    first, second = (advi.Model(total, {"x": advi.greater_than(low, 2)}) for _ in range(2))
    assert hash(first) == hash(second)
    assert first == second


def test_repr_lists_the_latents():
    lines = repr(advi.Model(total, flat_tree())).splitlines()
    assert lines[0] == "Model with 2 latents, 3 real coordinates"
    assert [line.split() for line in lines[1:]] == [
        ["support", "shape", "coordinates"],
        ["mu", "Real", "()", "1"],
        ["tau", "Positive", "(2,)", "2"],
    ]


@pytest.mark.parametrize("scale", [1.0, 2.5, 20])
def test_terms_total(scale):
    terms = advi.Terms(jnp.float32(-1.0), jnp.array([1.0, 2.0, 4.0]))
    assert float(terms.total(scale)) == -1.0 + scale * 7.0
    assert terms.total().shape == ()


def test_terms_total_without_rows_is_the_shared_part():
    assert float(advi.Terms(jnp.float32(3.0), jnp.zeros(0)).total(10.0)) == 3.0


@pytest.mark.parametrize(
    ("latent", "shape", "size"),
    [
        (advi.real(), (), 1),
        (advi.real(2, 3), (2, 3), 6),
        (advi.positive(4), (4,), 4),
        (advi.interval(0, 1, 2), (2,), 2),
        (advi.greater_than(1.0, 2), (2,), 2),
        (advi.less_than(1.0, 2), (2,), 2),
        (advi.unit_interval(), (), 1),
        (advi.simplex(4), (4,), 3),
        (advi.simplex(4, 5), (5, 4), 15),
        (advi.ordered(3, 2), (2, 3), 6),
        (advi.positive_ordered(3), (3,), 3),
        (advi.corr_cholesky(3), (3, 3), 3),
        (advi.corr_matrix(4, 2), (2, 4, 4), 12),
        (advi.cov_matrix(3), (3, 3), 6),
        (advi.scale_tril(3, 2), (2, 3, 3), 12),
        (advi.zero_sum(5), (5,), 4),
        (advi.unit_vector(3), (3,), 3),
        (advi.circular(2), (2,), 2),
    ],
    ids=lambda value: repr(value.support) if isinstance(value, advi.Latent) else "",
)
def test_helpers_have_the_support_s_axes_last(latent, shape, size):
    assert latent.shape == shape
    assert latent.size == size


def test_latents_of_no_size_come_out_empty():
    def log_joint(z, data):
        return -jnp.sum(z["none"] ** 2) - z["a"] ** 2 - z["one"].sum()

    latents = {"none": advi.real(0, 3), "a": advi.real(), "one": advi.simplex(1)}
    model = advi.Model(log_joint, latents)
    for family in ("mean_field", {"none": "full_rank"}, {("none", "one"): "low_rank"}):
        fit = advi.fit(model, family=family, diagnose=False)
        assert fit.sample(5)["none"].shape == (5, 0, 3)
        np.testing.assert_allclose(fit.sample(5)["one"], np.ones((5, 1)))
        assert fit.mean()["none"].shape == (0, 3)
    assert advi.check(model).ok


def test_what_has_no_coordinate_or_no_name_is_refused():
    for latents in ({"e": advi.real(0)}, {"e": advi.simplex(1)}):
        with pytest.raises(ValueError, match="'e' have no real coordinate"):
            advi.Model(total, latents)
    for helper in (advi.corr_cholesky, advi.corr_matrix, advi.cov_matrix, advi.simplex):
        with pytest.raises(ValueError, match="at least one entry"):
            helper(0)
    for latents in ({"": advi.real()}, {"a": {"": advi.real()}}):
        with pytest.raises(ValueError, match="one is named ''"):
            advi.Model(total, latents)


def test_repr_counts_in_singular():
    assert repr(advi.Model(total, {"a": advi.real()})).startswith(
        "Model with 1 latent, 1 real coordinate\n"
    )


def test_names_and_places_are_looked_up_once(monkeypatch):
    # of 3,000 latents in nested dicts, each is compared with few others
    calls = []

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            calls.append(1)
            return str.__eq__(self, other)

        def __lt__(self, other):
            return str.__lt__(self, other)

    names = [Name(f"x{i:04d}") for i in reversed(range(3000))]
    model = advi.Model(total, {"group": {name: advi.real() for name in names}})
    assert list(model.latents) == [f"group.{name}" for name in names]
    assert len(calls) < 50 * len(names)
