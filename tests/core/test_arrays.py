"""Containers that mean more than their numbers are refused by name, wherever they are given."""

import decimal
import fractions

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from scipy import sparse

import advi
from advi.core.arrays import numbers, real_numbers
from advi.model.latents import Latent


class Quantity(np.ndarray):
    """An array with a unit, as astropy's and unyt's are."""

    def __new__(cls, values, unit):
        made = np.asarray(values, float).view(cls)
        made.unit = unit
        return made

    def __array_finalize__(self, of):
        self.unit = getattr(of, "unit", None)


class Wrapped:
    """Values with a unit, as Pint's are: no array, but it gives one."""

    def __init__(self, values, units):
        self.magnitude, self.units = np.asarray(values, float), units

    def __array__(self, dtype=None, copy=None):
        return self.magnitude


class Column:
    """A column that counts what is missing, by a method as in Polars or a number as in Arrow."""

    def __init__(self, values, null_count):
        self.values, self.null_count = np.asarray(values, float), null_count

    def __array__(self, dtype=None, copy=None):
        return self.values


class Masking:
    """What masks only as it gives its numbers, as netCDF4's variables do."""

    def __array__(self, dtype=None, copy=None):
        return np.ma.array([1.0, 2.0], mask=[False, True])


class Tensor:
    """What has a gradient and no array, as PyTorch's tensors may."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Use tensor.detach().numpy() instead.")


MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
REFUSED = {
    "masked": (MASKED, "1 masked entry of 3 in a MaskedArray", "Leave these rows out"),
    "masked matrix": (np.ma.masked_less(np.eye(3), 0.5), "6 masked entries of 9"),
    "list of masked": ([MASKED, MASKED], "1 masked entry"),
    "the masked constant": ([1.0, np.ma.masked], "1 masked entry"),
    "masked as it is read": (Masking(), "1 masked entry of 2"),
    "unit": (Quantity([1.0, 2.0], "km"), "a Quantity in the unit km", "to_value(unit)"),
    "list of units": ([Quantity(1.0, "km")] * 2, "in the unit km"),
    "wrapped unit": (Wrapped([1.0], "metre"), "a Wrapped in the unit metre", "magnitude"),
    "unknown subclass": (np.ones(2).view(Quantity), "a kind of array of its own", "numpy.asarray"),
    "matrix": (np.ones((1, 2)).view(np.matrix), "a matrix, a kind of array of its own"),
    "nullable integers": (pd.Series([1, None], dtype="Int64"), "1 missing entry of 2 in a Series"),
    "nullable floats": (pd.array([None, None], dtype="Float64"), "2 missing entries"),
    "nulls by a method": (Column([1, 2], lambda: 1), "1 missing entry of 2 in a Column"),
    "nulls by a number": (Column([1, 2], 2), "2 missing entries"),
    "category": (pd.Series(["a", "b"], dtype="category"), "of categories", "x.cat.codes"),
    "numeric category": (pd.Categorical([10, 20]), "of categories", "x.codes"),
    "dates": (pd.Series(pd.to_datetime(["2020-01-01"])), "timedelta64(1, 'D')"),
    "durations": (pd.to_timedelta([1, 2], "D"), "expected numbers"),
    "time zones": (pd.Series(pd.to_datetime(["2020-01-01"]).tz_localize("UTC")), "(Timestamp)"),
    "table": (pd.DataFrame({"a": [1.0], "b": [2.0]}), "the columns 'a', 'b'", "by name"),
    "data set": (xr.Dataset({"a": ("x", [1.0])}), "Dataset"),
    "sparse": (sparse.csr_matrix(np.eye(2)), "a sparse csr_matrix", "x.toarray()"),
    "records": (np.rec.array([(1, 2.0)], dtype="i4,f4"), "the fields f0, f1", "x.dtype.names"),
    "structured": (np.zeros(2, [("a", int)]), "the fields a"),
    "with a gradient": (Tensor(), "(Tensor), not an array: Use tensor.detach()"),
    "ragged": ([[1.0], [1.0, 2.0]], "not an array", "several arrays"),
    "decimals": ([decimal.Decimal(1)], "(Decimal)", "numpy.asarray(x, float)"),
    "a fraction": (fractions.Fraction(1, 2), "Fraction", "expected numbers"),
    "text": (["1"], "['1'] (list)", "expected numbers"),
    "none inside": ([1.0, None], "(NoneType, float)"),
    "an object": (object(), "expected numbers"),
    "a huge integer": (2**70, "expected numbers"),
}
TAKEN = {
    "nothing masked": np.ma.array([1.0, 2.0], mask=[False, False]),
    "no mask": np.ma.array([1.0, 2.0]),
    "a pure number": Quantity([1.0, 2.0], ""),
    "a wrapped pure number": Wrapped([1.0, 2.0], "dimensionless"),
    "nothing missing": pd.Series([1, 2], dtype="Int64"),
    "nothing missing in a column": Column([1, 2], lambda: 0),
    "column": pd.Series([1.0, 2.0], index=["unit", "mask"]),
    "index": pd.Index([1, 2]),
    "labelled": xr.DataArray([1.0, 2.0], dims="x", attrs={"units": "m"}),
    "big-endian": np.array([1.0, 2.0], ">f4"),
    "big-endian integers": np.array([1, 2], ">i8"),
    "bfloat16": np.array([1, 2], ml_dtypes.bfloat16),
    "list of arrays": [np.float32(1), jnp.float32(2)],
    "list": [1, 2],
    "tuple": (1, 2.0),
    "range": range(1, 3),
    "JAX": jnp.array([1.0, 2.0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_more_than_its_numbers_is_refused(name):
    value, *parts = REFUSED[name]
    with pytest.raises(TypeError) as caught:
        numbers("here", value)
    for part in ("here: ", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", TAKEN)
def test_what_means_no_more_than_its_numbers_is_taken(name):
    taken = numbers("here", TAKEN[name])
    assert type(taken) is np.ndarray or isinstance(taken, jax.Array)
    assert taken.dtype.isnative
    np.testing.assert_array_equal(np.asarray(taken, float), [1.0, 2.0])


@pytest.mark.parametrize("value", [1j, np.array([1 + 0j]), jax.random.key(0)])
def test_real_numbers(value):
    with pytest.raises(TypeError, match=r"here: got .*; expected real numbers"):
        real_numbers("here", value)


# Every way in.

Y = np.linspace(-1.0, 1.0, 6)


def rows(z, d):
    return advi.Terms(-0.5 * z["m"] ** 2, rows=dist.Normal(z["m"], d["s"]).log_prob(d["y"]))


def local(z, d):
    prior = dist.Normal(0.0, 1.0).log_prob(z["h"])
    return advi.Terms(0.0, rows=dist.Normal(z["h"], 1.0).log_prob(d["y"]), prior=prior)


def encode(params, row):
    return params["a"] * row["y"][None], params["b"][None]


ROWS = advi.Model(rows, {"m": advi.real()})
LOCAL = advi.Model(local, {"h": advi.real(local=True)})
START = {"a": np.float32(0.5), "b": np.float32(0.0)}
BAD = np.ma.array(Y, mask=Y > 0.9)
GOOD, WRONG = {"y": Y, "s": 1.0}, {"y": BAD, "s": 1.0}
SCALAR = np.ma.masked_equal(1.0, 1.0)


@pytest.fixture(scope="module")
def fit():
    return advi.fit(ROWS, GOOD, diagnose=False)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "y.npy"
    np.save(path, Y)
    return np.load(path, mmap_mode="r")


@pytest.fixture(scope="module")
def encoded():
    family = advi.Amortised(encode, START)
    return advi.fit(LOCAL, {"y": Y}, family=family, batch_size=3, max_steps=1, diagnose=False)


STEPS = {"max_steps": 1, "batch_size": 3}
ROUTES = {
    "data": (lambda f: advi.fit(ROWS, WRONG), "data leaf 'y'"),
    "nothing else": (lambda f: advi.fit(ROWS, BAD), "data leaf 'data'"),
    "check": (lambda f: advi.check(ROWS, WRONG), "data leaf 'y'"),
    "steps": (lambda f: advi.fit(ROWS, WRONG, **STEPS), "data leaf 'y'"),
    "eval_data": (lambda f: advi.fit(ROWS, GOOD, eval_data=WRONG, **STEPS), "leaf 'y'"),
    "stream": (lambda f: advi.fit(ROWS, [WRONG], num_rows=6, max_steps=1), "data leaf 'y'"),
    "init": (lambda f: advi.fit(ROWS, GOOD, init={"m": SCALAR}), "init['m']"),
    "predict": (lambda f: f.predict(lambda z, d: d["y"], 2, WRONG), "data leaf 'y'"),
    "log_likelihood": (lambda f: f.log_likelihood(WRONG, 2), "data leaf 'y'"),
    "loo": (lambda f: f.loo(WRONG, 100), "data leaf 'y'"),
    "compare": (lambda f: advi.compare({"a": f}, WRONG), "data leaf 'y'"),
    "log_prob": (lambda f: f.log_prob({"m": SCALAR}), "m: "),
    "init of a latent": (lambda f: Latent(dist.constraints.real, init=SCALAR), "init: "),
    "bound": (lambda f: advi.greater_than(SCALAR), "a bound of a support: "),
    "tree": (lambda f: advi.tree({"w": BAD}), "tree, w: "),
    "encoder": (lambda f: advi.Amortised(encode, {**START, "a": SCALAR}), "Amortised params, a"),
}


@pytest.mark.parametrize("name", ROUTES)
def test_every_way_in_refuses_it_by_name(name, fit):
    call, place = ROUTES[name]
    with pytest.raises(TypeError) as caught:
        call(fit)
    assert place in str(caught.value)
    assert "1 masked entry of" in str(caught.value)


def test_a_sparse_matrix_is_no_stream():
    with pytest.raises(TypeError, match="data leaf 'data': got a sparse csr_array"):
        advi.fit(ROWS, sparse.csr_array(np.eye(2)))


def test_rows_on_disk_and_new_rows(mapped, encoded):
    with pytest.raises(TypeError, match=r"data leaf 's': got 1 masked entry"):
        advi.fit(ROWS, {"y": mapped, "s": SCALAR}, **STEPS)
    with pytest.raises(TypeError, match=r"data leaf 'y': got 1 masked entry"):
        encoded.sample(1, data={"y": BAD})
    with pytest.raises(TypeError, match=r"data leaf 'y': got 1 masked entry"):
        encoded.log_marginal({"y": BAD}, 2)


@pytest.mark.parametrize("kind", ["nothing masked", "nothing missing", "big-endian"])
def test_what_is_taken_gives_the_same_fit(kind):
    model = advi.Model(lambda z, d: dist.Normal(z["m"], 1.0).log_prob(d).sum(), {"m": advi.real()})
    expected = advi.fit(model, np.array([1.0, 2.0]), diagnose=False).mean()["m"]
    got = advi.fit(model, TAKEN[kind], diagnose=False).mean()["m"]
    # integers are integers: the log-joint is another, its numbers are not
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_big_endian_rows_on_disk(tmp_path):
    path = tmp_path / "y.npy"
    np.save(path, Y.astype(">f8"))
    big = np.load(path, mmap_mode="r")
    fits = [
        advi.fit(ROWS, {"y": y, "s": 1.0}, batch_size=3, max_steps=4, diagnose=False, init={"m": 1})
        for y in (big, big.astype("<f8"))
    ]
    np.testing.assert_array_equal(fits[0].mean()["m"], fits[1].mean()["m"])
    assert fits[0].predict(lambda z, d: d["y"], 1, {"y": big, "s": 1.0}).shape == (1, 6)
