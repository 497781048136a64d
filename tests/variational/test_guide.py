"""Guides: which family covers which latents, and the joint distribution of the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import advi
from advi.variational import resolve_family as guide_module
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from advi.variational.scale import TriangularScale

FR, LR, MF, POINT = advi.FullRank(), advi.LowRank(), advi.MeanField(), advi.Point()


def model_of(latents):
    return advi.Model(lambda z, data: 0.0, latents)


MODEL = model_of(
    {
        "a": advi.real(2),
        "s": {"b": advi.positive(), "c": advi.simplex(3)},
        "d": advi.real(3),
        "e": advi.real(),
    }
)
NAMES = ("a", "s.b", "s.c", "d", "e")  # flat coordinates 0-1, 2, 3-4, 5-7, 8

CASES = {
    "auto": ("auto", [(NAMES, FR)]),
    "mean field": ("mean_field", [(NAMES, MF)]),
    "full rank": ("full_rank", [(NAMES, FR)]),
    "instance": (advi.MeanField(), [(NAMES, MF)]),
    "empty dict": ({}, [(NAMES, FR)]),
    "one, rest automatic": ({"d": "mean_field"}, [(("d",), MF), (("a", "s.b", "s.c", "e"), FR)]),
    "point": ({"a": POINT}, [(("a",), POINT), (("s.b", "s.c", "d", "e"), FR)]),
    "subtree": ({"s": "mean_field"}, [(("s.b", "s.c"), MF), (("a", "d", "e"), FR)]),
    "tuple, in the model's order": (
        {("e", "a"): FR, "s.c": "mean_field"},
        [(("a", "e"), FR), (("s.c",), MF), (("s.b", "d"), FR)],
    ),
    "tuple with a subtree": ({("d", "s"): MF}, [(("s.b", "s.c", "d"), MF), (("a", "e"), FR)]),
    "interleaved": (
        {("a", "d"): FR, ("e", "s.b"): FR, "s.c": MF},
        [(("a", "d"), FR), (("s.b", "e"), FR), (("s.c",), MF)],
    ),
    "interleaved, with a point": (
        {("s.b", "e"): FR, "d": POINT, ("a", "s.c"): "full_rank"},
        [(("s.b", "e"), FR), (("d",), POINT), (("a", "s.c"), FR)],
    ),
    "reversed": (
        {"e": MF, "d": MF, "s.c": FR, "s.b": MF, "a": FR},
        [(("e",), MF), (("d",), MF), (("s.c",), FR), (("s.b",), MF), (("a",), FR)],
    ),
    "all mean field, by one": (dict.fromkeys(NAMES, MF), [((name,), MF) for name in NAMES]),
}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=CASES)
def guide(request):
    return resolve_family(MODEL, CASES[request.param][0])


JOINED = ["auto", "mean field", "subtree", "interleaved", "interleaved, with a point", "reversed"]


@pytest.fixture(params=JOINED)
def joined(request):
    return resolve_family(MODEL, CASES[request.param][0])


@pytest.mark.parametrize("case", CASES)
def test_blocks(case):
    family, expected = CASES[case]
    blocks = resolve_family(MODEL, family).blocks
    assert [(block.names, block.family) for block in blocks] == expected


def test_every_coordinate_is_in_one_block(guide):
    assert sorted(np.concatenate(guide.indices)) == list(range(MODEL.size))
    assert all(np.all(np.diff(index) > 0) for index in guide.indices)


def test_indices_follow_the_names():
    guide = resolve_family(MODEL, {("e", "a"): FR, "s.c": MF})
    assert [index.tolist() for index in guide.indices] == [[0, 1, 8], [3, 4], [2, 5, 6, 7]]


def moments(guide, seed=0):
    """A mean and a scale that the guide's blocks can hold."""
    rng = np.random.default_rng(seed)
    loc, scale = rng.standard_normal(MODEL.size), np.zeros((MODEL.size, MODEL.size))
    for block, index in zip(guide.blocks, guide.indices, strict=True):
        dim = len(index)
        tril = np.tril(rng.standard_normal((dim, dim)), -1) + np.diag(rng.uniform(0.2, 2, dim))
        part = {FR: tril, MF: np.diag(np.diag(tril)), POINT: np.zeros((dim, dim))}[block.family]
        scale[np.ix_(index, index)] = part
    return loc, scale


def test_gaussian_round_trip(guide):
    loc, scale = moments(guide)
    positive = np.where(np.eye(MODEL.size) * (scale == 0), 1.0, scale)
    params = guide.from_gaussian(Gaussian(loc, TriangularScale(positive)))
    got_loc, got_scale = guide.to_gaussian(params)
    np.testing.assert_array_equal(got_loc, loc)
    np.testing.assert_allclose(got_scale.tril(), scale, rtol=1e-13, atol=0)
    assert (got_scale.coupling == "none") == all(block.family != FR for block in guide.blocks)


def test_round_trip_of_a_diagonal(guide):
    loc, sd = np.arange(9.0), np.linspace(0.5, 2.0, 9)
    got_loc, scale = guide.to_gaussian(guide.from_gaussian(Gaussian.diagonal(loc, sd)))
    np.testing.assert_array_equal(got_loc, loc)
    points = np.isin(np.arange(9), [i for n in guide.estimated for i in range(*MODEL.spans[n])])
    np.testing.assert_allclose(scale.diagonal, np.where(points, 0, sd), rtol=1e-13)


def joined_up(real):
    """Real values by latent as one vector, in the model's order."""
    return jnp.concatenate([value.ravel() for value in real.values()])


def test_draws_have_the_mean_and_the_covariance(joined):
    """The draw is loc + J e with J J' = L L', in the model's order."""
    guide = joined
    loc, scale = moments(guide)
    params = guide.from_gaussian(Gaussian(loc, TriangularScale(scale)).positive())
    params = jax.tree.map(jnp.asarray, params)
    draw = jax.jit(lambda params, eps: joined_up(guide.draw(params, eps)))
    np.testing.assert_allclose(draw(params, np.zeros(guide.noise_dim)), loc, rtol=1e-14)
    J = np.stack([draw(params, e) - loc for e in np.eye(guide.noise_dim)], 1)
    np.testing.assert_allclose(J @ J.T, scale @ scale.T, rtol=1e-12, atol=1e-14)


def test_density_and_entropy_are_those_of_the_joint_gaussian(joined):
    guide = joined
    loc, scale = moments(guide)
    params = guide.from_gaussian(Gaussian(loc, TriangularScale(scale)).positive())
    params = jax.tree.map(jnp.asarray, params)
    noisy = np.diag(scale) != 0
    L = scale[np.ix_(noisy, noisy)]
    reference = multivariate_normal(loc[noisy], L @ L.T)
    x = loc + np.random.default_rng(1).standard_normal(MODEL.size)

    def both(p, x):
        _, log_q = guide.draw_and_log_q(p, jnp.zeros(guide.noise_dim))
        entropy = -guide.negative_entropy(p, log_q).total()
        return entropy, guide.log_prob(p, guide.model.split(x)).total()

    entropy, log_prob = jax.jit(both)(params, x)
    np.testing.assert_allclose(entropy, reference.entropy(), rtol=1e-10)
    # scipy goes through the covariance, whose condition number is up to 1e4
    np.testing.assert_allclose(log_prob, reference.logpdf(x[noisy]), rtol=1e-8)


def test_names_reach_the_right_latents():
    """Interleaved blocks, seen through a fit: each latent has its own posterior."""
    center = {"a": [1.0, 2.0], "b": 3.0, "c": [4.0, 5.0], "d": 6.0}
    model = advi.Model(
        lambda z, d: -0.5 * sum(jnp.sum((z[k] - jnp.array(v)) ** 2) for k, v in center.items()),
        {k: advi.real(*np.shape(v)) for k, v in center.items()},
    )
    fit = advi.fit(model, family={("d", "a"): FR, ("c", "b"): FR})
    for name, value in center.items():
        # a Gaussian posterior of sd one: exact but for the stopping rule, 0.01 sd
        np.testing.assert_allclose(fit.mean()[name], value, atol=0.01)


def test_noise():
    guide = resolve_family(MODEL, {"d": POINT, "a": MF})
    assert guide.noise_dims == (0, 2, 4)
    assert guide.noise_dim == 6
    assert guide.estimated == {"d"}
    all_points = resolve_family(MODEL, POINT)
    assert all_points.noise_dim == 0
    assert all_points.estimated == set(NAMES)
    params = all_points.from_gaussian(Gaussian.diagonal(np.arange(9.0), 1.0))
    params = jax.tree.map(jnp.asarray, params)
    drawn, log_q = all_points.draw_and_log_q(params, jnp.zeros(0))
    np.testing.assert_array_equal(joined_up(drawn), np.arange(9.0))
    assert float(all_points.negative_entropy(params, log_q).total()) == 0.0


def test_auto_is_the_richest_family_that_the_dimension_allows():
    full, low = guide_module.AUTO_FULL_RANK_DIM, guide_module.AUTO_LOW_RANK_DIM
    for size, family in [(full, FR), (full + 1, LR), (low, LR), (low + 1, MF)]:
        [block] = resolve_family(model_of({"x": advi.real(size)}), "auto").blocks
        assert block.family == family


def test_auto_counts_the_coordinates_of_its_own_block():
    model = model_of({"x": advi.real(guide_module.AUTO_FULL_RANK_DIM), "y": advi.real(2)})
    guide = resolve_family(model, {"y": "mean_field"})
    assert [block.family for block in guide.blocks] == [MF, FR]


def test_what_auto_stands_for_can_be_given():
    guide = resolve_family(MODEL, {"a": "full_rank", "e": "auto"}, auto=MF)
    assert [block.family for block in guide.blocks] == [FR, MF, MF]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("auto", "full_rank"),
        ("mean_field", "mean_field"),
        (advi.Point(), "point"),
        ({"a": POINT, "s": MF}, "mean_field(s.b, s.c), full_rank(d, e), point(a)"),
        ({("d", "a"): FR, ("s", "e"): FR}, "full_rank(a, d), full_rank(s.b, s.c, e)"),
        ({"s": POINT, "d": POINT, "e": MF}, "mean_field(e), full_rank(a), point(s, d)"),
    ],
)
def test_description(family, words):
    assert resolve_family(MODEL, family).description == words


def test_equal_guides_find_the_same_programs():
    one, same = (resolve_family(MODEL, {("e", "a"): "full_rank"}) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != resolve_family(MODEL, {("e", "d"): "full_rank"})


def test_a_tuple_of_latents_is_named_by_position():
    model = model_of((advi.real(), (advi.real(), advi.real(2))))
    guide = resolve_family(model, {1: MF, "0": POINT})
    assert [block.names for block in guide.blocks] == [("1.0", "1.1"), ("0",)]


def test_a_full_rank_block_too_large_for_memory_is_refused_before_it_is_allocated():
    model = advi.Model(
        lambda z, d: -z["x"] @ z["x"] - z["y"], {"x": advi.real(50_000), "y": advi.real()}
    )
    with pytest.raises(ValueError, match=r"50001 coordinates .* 298 GiB; .*low_rank"):
        resolve_family(model, "full_rank")
    with pytest.raises(ValueError, match="50000 coordinates"):
        resolve_family(model, {"x": advi.FullRank()})
    assert resolve_family(model, "auto").description == "mean_field"
    assert resolve_family(model, {"y": "full_rank", "x": "mean_field"}).noise_dim == 50_001
