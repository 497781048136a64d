"""Data: dtypes, names, NaN, rows, and minibatches that add up to the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advi
from advi.data.batching import Batching
from advi.data.permutation import shuffled
from advi.data.source import InMemory, gather_program
from advi.data.spec import find_nan, prepare

DTYPES = [  # given, in a float32 fit, in a float64 fit
    ("float64", "float32", "float64"),
    ("float32", "float32", "float32"),
    ("float16", "float16", "float16"),
    ("int64", "int32", "int64"),
    ("uint64", "int32", "uint64"),
    ("int32", "int32", "int32"),
    ("uint8", "uint8", "uint8"),
    ("bool", "bool", "bool"),
]


def prepared(data, float_dtype="float32"):
    with jax.enable_x64(float_dtype == "float64"):
        return prepare(data, float_dtype)


@pytest.mark.parametrize(("given", "single", "double"), DTYPES)
def test_dtypes(given, single, double):
    values = np.array([0, 1, 1]).astype(given)
    for float_dtype, expected in (("float32", single), ("float64", double)):
        leaf, spec = prepared(values, float_dtype)
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == expected
        assert spec.leaves == (((3,), expected),)
        assert spec.float_dtype == float_dtype
        np.testing.assert_array_equal(leaf, values)


def test_jax_arrays_of_double_precision_are_narrowed():
    with jax.enable_x64(True):
        wide = jnp.array([1.0, 2.0])
    leaf, _ = prepared(wide)
    assert leaf.dtype == jnp.float32
    assert prepared(wide, "float64")[0].dtype == jnp.float64


def test_large_integers_need_x64():
    large = np.array([2**40, -(2**40)])
    with pytest.raises(ValueError, match="x64=True"):
        prepared(large)
    np.testing.assert_array_equal(prepared(large, "float64")[0], large)
    limits = np.array([-(2**31), 2**31 - 1])
    np.testing.assert_array_equal(prepared(limits)[0], limits)


@pytest.mark.parametrize(
    ("data", "names", "shapes"),
    [
        (None, (), ()),
        (2.5, ("data",), ((),)),
        ([1, 2, 3], ("data",), ((3,),)),
        ([[1.0, 2.0], [3.0, 4.0]], ("data",), ((2, 2),)),
        ((np.ones(2), np.ones((2, 3))), ("0", "1"), ((2,), (2, 3))),
        ({"y": [1, 2], "n": 3}, ("n", "y"), ((), (2,))),
        (
            {"obs": {"y": np.ones(4)}, "x": (1.0, np.zeros(0))},
            ("obs.y", "x.0", "x.1"),
            ((4,), (), (0,)),
        ),
    ],
)
def test_trees_and_names(data, names, shapes):
    out, spec = prepared(data)
    assert spec.names == names
    assert tuple(shape for shape, _ in spec.leaves) == shapes
    assert jax.tree.structure(out) == spec.treedef
    assert [leaf.shape for leaf in jax.tree.leaves(out)] == list(shapes)


def test_specs_depend_on_shapes_and_dtypes_only():
    _, one = prepared({"x": np.ones(3), "k": np.arange(2)})
    _, same = prepared({"x": [4.0, 5.0, 6.0], "k": np.arange(2, dtype=np.int32)})
    assert one == same
    assert hash(one) == hash(same)
    for other in ({"x": np.ones(4), "k": np.arange(2)}, {"x": np.arange(3), "k": np.arange(2)}):
        assert prepared(other)[1] != one
    assert prepared({"x": np.ones(3), "k": np.arange(2)}, "float64")[1] != one


def test_data_are_not_changed():
    given = {"x": np.arange(3.0), "y": [1, 2]}
    prepared(given)
    assert given["x"].dtype == np.float64
    assert given["y"] == [1, 2]


def test_data_that_change_later_are_not_those_of_a_fit():
    """JAX shares memory that begins at a multiple of 64 bytes, and would see the change."""
    memory = np.zeros(3 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    given = memory[start : start + 12].view(np.float32)
    moved, _ = prepared(given)
    given[:] = 1
    assert np.asarray(moved).tolist() == [0, 0, 0]


def test_keys_are_data():
    """A random key is a JAX array like any other."""
    noisy = advi.Model(
        lambda z, d: -0.5 * (z["x"] - jax.random.normal(d["key"])) ** 2, {"x": advi.real()}
    )
    data = {"key": jax.random.key(3)}
    fit = advi.fit(noisy, data, max_steps=20)
    assert np.isfinite(fit.elbo.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": np.ones(3), "n": np.arange(3)}, None),
        (None, None),
        ({"x": np.array([np.inf, 1.0])}, None),
        ({"a": 1.0, "x": np.array([0.0, np.nan])}, "'x', row 1 is NaN (1 NaN"),
        (np.array([[1, np.nan], [np.nan, np.nan]]), "'data', row 0 is NaN (3 NaN"),
        ({"b": {"s": np.nan}}, "'b.s' is NaN (1 NaN"),
        ((np.ones(2), np.array([np.nan], np.float16)), "'1', row 0 is NaN (1 NaN"),
    ],
)
def test_find_nan(data, words):
    expected = words and f"data leaf {words} in that leaf)"
    assert find_nan(*prepared(data)) == expected


# Rows and minibatches.

DATA = {"x": np.arange(20.0).reshape(10, 2), "y": np.arange(10.0), "w": np.arange(3.0), "c": 1.5}
PER_ROW = (False, False, True, True)  # leaves in JAX's order: c, w, x, y


def in_batches(data, batch_size, num_rows=10):
    return InMemory(*prepared(data), None).batched(num_rows, batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10])
def test_rows(batch_size):
    source = in_batches(DATA, batch_size)
    rows, spec = source.batching, source.batch_spec
    assert rows == Batching(10, batch_size)
    assert source.spec.per_row == spec.per_row == PER_ROW
    of_numpy = in_batches(DATA, np.int64(batch_size))
    assert rows == of_numpy.batching
    assert hash((rows, spec)) == hash((of_numpy.batching, of_numpy.batch_spec))
    assert rows.scale == 10 / batch_size
    assert rows.steps_per_epoch == 10 // batch_size
    shapes = dict(zip(spec.names, spec.leaves, strict=True))
    assert shapes["x"] == ((batch_size, 2), "float32")
    assert shapes["y"] == ((batch_size,), "float32")
    assert (shapes["w"], shapes["c"]) == (((3,), "float32"), ((), "float32"))
    assert spec.names == source.spec.names


index = jax.jit(Batching.index, static_argnums=0)


def batch(source, key, step):
    """Return the data of a step's batch."""
    return gather_program(source.spec)(source.example, index(source.batching, key, step))


@functools.partial(jax.jit, static_argnums=0)
def permutation(rows, key, epoch):
    places = jnp.arange(rows.num_rows)
    return shuffled(places, rows.num_rows, jax.random.fold_in(key, epoch))


def batches(source, epoch):
    rows = source.batching
    key, first = jax.random.key(0), epoch * rows.steps_per_epoch
    order = permutation(rows, key, epoch)
    return order, [batch(source, key, first + i) for i in range(rows.steps_per_epoch)]


# with rows left over, and all rows at once; the others show the same
@pytest.mark.parametrize(
    "batch_size", [3, 10, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 5))]
)
def test_an_epoch_sees_every_row_at_most_once(batch_size):
    order, parts = batches(in_batches(DATA, batch_size), epoch=2)
    assert sorted(order.tolist()) == list(range(10))
    seen = np.concatenate([part["y"] for part in parts])
    np.testing.assert_array_equal(seen, np.asarray(order)[: len(parts) * batch_size])
    for part in parts:
        # rows of different leaves stay together, and what has no rows is left alone
        np.testing.assert_array_equal(part["x"], DATA["x"][np.asarray(part["y"], int)])
        np.testing.assert_array_equal(part["w"], DATA["w"])
        assert float(part["c"]) == 1.5


def test_epochs_and_keys_order_the_rows_anew():
    rows = Batching(50, 10)
    keys = jax.random.key(0), jax.random.key(1)
    orders = [permutation(rows, key, epoch).tolist() for key in keys for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(rows, keys[1], 1).tolist() == orders[3]


@pytest.mark.parametrize("batch_size", [pytest.param(4, marks=pytest.mark.slow), 7])
def test_scaled_batches_are_unbiased_for_the_whole(batch_size):
    """Over all positions and many epochs the mean of shared + N/B sum(rows) is the total."""
    y = np.random.default_rng(0).standard_normal(12)
    source = in_batches({"y": y}, batch_size, 12)
    rows = source.batching

    def total(step):
        part = batch(source, jax.random.key(5), step)["y"]
        return advi.Terms(3.0, part).total(rows.scale)

    steps = np.arange(2000 * rows.steps_per_epoch)
    values = np.asarray(jax.jit(jax.vmap(total))(steps), float)
    means = values.reshape(2000, -1).mean(1)  # independent between epochs
    error = 5 * means.std() / np.sqrt(len(means)) + 1e-5  # single precision of the sum
    assert abs(means.mean() - (3.0 + y.sum())) < error


def test_rows_are_found_by_their_leading_axis():
    _, spec = prepared(DATA)
    assert spec.by_row(10).per_row == PER_ROW
    assert spec.by_row(3).per_row == (False, True, False, False)
    assert prepared(None)[1].by_row(5).per_row == ()
    with pytest.raises(ValueError, match=r"length 4, .*c: a scalar, w: 3, x: 10, y: 10"):
        spec.by_row(4)
