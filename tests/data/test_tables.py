"""Tables are dicts of their columns, on every way into a fit."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi
from advi.data.spec import prepare

pd = pytest.importorskip("pandas")
N = 60
RNG = np.random.default_rng(0)
COLUMNS = {"x": RNG.standard_normal(N), "group": RNG.integers(0, 3, N), "y": RNG.standard_normal(N)}
FRAME = pd.DataFrame(COLUMNS)


def polars():
    return pytest.importorskip("polars").from_pandas(FRAME)


def arrow():
    return pytest.importorskip("pyarrow").Table.from_pandas(FRAME)


def dataset():
    xarray = pytest.importorskip("xarray")
    return xarray.Dataset({name: ("row", column) for name, column in COLUMNS.items()})


TABLES = {
    "pandas": lambda: FRAME,
    "polars": polars,
    "arrow": arrow,
    "xarray": dataset,
    "records": lambda: FRAME.to_records(index=False),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_the_dict_of_its_columns(kind):
    exact = prepare(COLUMNS, "float32")
    for data, spec in (prepare(TABLES[kind](), "float32"), prepare({**COLUMNS}, "float32")):
        assert spec.shapes == exact[1].shapes
        for name, column in exact[0].items():
            np.testing.assert_array_equal(np.asarray(data[name]), np.asarray(column))


def log_joint(z, d):
    prior = dist.Normal(0, 1).log_prob(z["a"]).sum() + dist.Normal(0, 1).log_prob(z["b"])
    return advi.Terms(prior, dist.Normal(z["a"][d["group"]] + z["b"] * d["x"], 1).log_prob(d["y"]))


MODEL = advi.Model(log_joint, {"a": advi.real(3), "b": advi.real()})


def same(fit, other):
    for name, mean in other.mean().items():
        np.testing.assert_array_equal(np.asarray(fit.mean()[name]), np.asarray(mean))


def test_fits_of_a_table_in_memory_in_batches_and_on_new_rows():
    whole = advi.fit(MODEL, FRAME)
    same(whole, advi.fit(MODEL, COLUMNS))
    assert whole.log_likelihood(FRAME[:7]).shape == (1000, 7)
    predicted = whole.predict(lambda z, d: z["b"] * d["x"], 10, FRAME[:7])
    assert predicted.shape == (10, 7)
    settings = {"max_steps": 20, "diagnose": False}
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]
    frames = [FRAME[part] for part in parts]
    dicts = [{name: column[part] for name, column in COLUMNS.items()} for part in parts]
    streamed = [advi.fit(MODEL, batches, num_rows=N, **settings) for batches in (frames, dicts)]
    same(*streamed)
    same(advi.fit(MODEL, FRAME, batch_size=20, **settings),
         advi.fit(MODEL, COLUMNS, batch_size=20, **settings))  # fmt: skip
    assert advi.check(MODEL, FRAME).problems == ()


def by_column(x, group, y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group] + b * x, 1), obs=y)


def by_table(table, sign=1):
    by_column(table["x"] * sign, table["group"], table["y"])


@pytest.mark.parametrize(
    ("model", "data"), [(by_column, FRAME), (by_table, (FRAME,)), (by_table, {"table": FRAME})]
)
def test_a_numpyro_model_takes_columns_by_name_or_a_table_as_an_argument(model, data):
    fit = advi.fit(advi.from_numpyro(model), data, diagnose=False)
    assert float(fit.mean()["b"]) == pytest.approx(
        float(advi.fit(MODEL, COLUMNS).mean()["b"]), 1e-3
    )


def test_a_table_is_the_one_argument_of_a_numpyro_model():
    fit = advi.fit(advi.from_numpyro(by_table, sign=1), FRAME, diagnose=False)
    assert fit.mean()["a"].shape == (3,)


WRONG = {
    "text": (
        lambda: FRAME.assign(name="a", kind=np.array(["b"] * N, object)),
        r"text in the columns 'name', 'kind'; .* data\['name'\].astype\('category'\)",
    ),
    "text in polars": (
        lambda: pytest.importorskip("polars").DataFrame({"name": ["a"]}),
        r"text in the columns 'name'; .* data\['name'\].cast\(polars.Categorical\)",
    ),
    "text in arrow": (
        lambda: pytest.importorskip("pyarrow").table({"k": ["a"]}),
        r"text in the columns 'k'; .* data\['k'\].dictionary_encode\(\)",
    ),
    "missing categories": (
        lambda: FRAME.assign(k=pd.Categorical(["a", None] * (N // 2))),
        rf"missing values in the columns 'k' \({N // 2}\)",
    ),
    "missing categories in polars": (
        lambda: (pl := pytest.importorskip("polars")).DataFrame(
            {"k": pl.Series(["a", None], dtype=pl.Categorical)}
        ),
        r"missing values in the columns 'k' \(1\)",
    ),
    "missing categories in arrow": (
        lambda: pytest.importorskip("pyarrow").table({"k": pd.Categorical(["a", None])}),
        r"missing values in the columns 'k' \(1\)",
    ),
    "missing categories in a dict": (
        lambda: {**COLUMNS, "k": pd.Series(["a", None], dtype="category")},
        r"got a Series with missing values in the columns 'k' \(1\)",
    ),
    "missing": (
        lambda: FRAME.assign(
            n=pd.array([1, None] + [3] * (N - 2), dtype="Int64"),
            m=pd.array([None, None] + [3] * (N - 2), dtype="Int64"),
        ),
        r"missing values in the columns 'n' \(1\), 'm' \(2\)",
    ),
    "missing in polars": (
        lambda: pytest.importorskip("polars").DataFrame({"n": [1, None], "m": [None, None]}),
        r"missing values in the columns 'n' \(1\), 'm' \(2\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_text_and_missing_values_are_named_by_column(case):
    table, message = WRONG[case]
    with pytest.raises(TypeError, match=message):
        advi.fit(MODEL, table())


def test_missing_numbers_are_named_by_column_where_they_count():
    wrong = FRAME.assign(y=jnp.where(np.arange(N) < 2, np.nan, COLUMNS["y"]))
    with pytest.raises(ValueError, match=r"data leaf 'y', row 0 is NaN \(2 NaN"):
        advi.fit(MODEL, wrong)
