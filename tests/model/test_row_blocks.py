"""Blocks of many rows: the same log density, read once for all points."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi
from advi.core.axes import check_coords
from advi.data.open_source import open_source
from advi.model import row_blocks as module
from advi.model.block_sample import BlockSample
from advi.model.density import Density
from advi.model.resolve import resolve_model, traced_model
from tests.blocks import blocks_of

NUM = 700  # no multiple of a block
RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.standard_normal((NUM, 2)),
    "g": np.sort(RNG.integers(0, 3, NUM)),
    "y": RNG.standard_normal(NUM),
    "scale": np.array(2.0),
}
LATENTS = {"w": advi.real(2), "a": advi.real(3), "s": advi.positive()}
POINTS = RNG.standard_normal((11, 6))


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Take blocks of 64 rows from 500 on."""
    with blocks_of(monkeypatch, 64, least=500):
        yield


def rows(z, d):
    return dist.Normal(d["x"] @ z["w"] + z["a"][d["g"]], d["scale"] * z["s"]).log_prob(d["y"])


def log_joint(z, d):
    return advi.Terms(-(z["w"] ** 2).sum() - (z["a"] ** 2).sum() - z["s"], rows=rows(z, d))


def density(function=log_joint, data=DATA, latents=LATENTS, **settings):
    source = open_source(data, None, None, "float32", check_coords(None))
    model = function if hasattr(function, "bind") else advi.Model(function, latents)
    of_rows, _ = traced_model(resolve_model(model, source), source)
    return Density(of_rows, source.example, source.spec, **settings)


def whole(**settings):
    """Return the same log density without blocks."""
    found = density(**settings)
    found.blocks = None
    return found


def test_blocks_give_values_gradients_and_products():
    by_blocks, together = density(), whole()
    assert by_blocks.blocks is not None
    for ours, theirs in zip(
        by_blocks.value_and_grad(POINTS), together.value_and_grad(POINTS), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(by_blocks.value(POINTS), together.value(POINTS), rtol=1e-5)


@pytest.mark.parametrize("settings", [{"scale": 3.0}, {"weights": RNG.uniform(0, 2, NUM)}])
def test_blocks_weight_their_rows(settings):
    ours, theirs = (make(**settings).value_and_grad(POINTS) for make in (density, whole))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-3)


def test_values_are_summed_in_double_precision():
    data = {"y": np.full(NUM, 1e4) + RNG.integers(0, 9, NUM)}
    found = density(
        lambda z, d: advi.Terms(0.0, rows=d["y"] + 0 * z["m"]), data, {"m": advi.real()}
    )
    # about 7e6, where numbers of single precision are half apart
    assert found.value(np.zeros((1, 1)))[0] == data["y"].sum()


@pytest.mark.parametrize(
    "function",
    [
        lambda z, d: advi.Terms(-(z["w"] ** 2).sum(), rows=rows(z, d) / len(d["y"])),
        lambda z, d: advi.Terms(d["y"].sum() * z["s"], rows=rows(z, d)),
        lambda z, d: advi.Terms(0.0, rows=rows(z, d) - rows(z, d).mean()),
        lambda z, d: advi.Terms(0.0, rows=rows(z, d) + jnp.zeros(NUM)),
        lambda z, d: rows(z, d).sum(),
    ],
    ids=["number of rows", "shared sum", "mean of rows", "fixed length", "scalar"],
)
def test_terms_that_are_not_by_row_are_evaluated_together(function):
    assert density(function).blocks is None


def test_few_rows_and_local_latents_are_evaluated_together(monkeypatch):
    local = {"h": advi.real(local=True)}
    by_row = lambda z, d: advi.Terms(0.0, rows=-((d["y"] - z["h"]) ** 2))  # noqa: E731
    assert density(by_row, {"y": DATA["y"]}, local).blocks is None
    monkeypatch.setattr(module, "MIN_ROWS", NUM + 1)
    module.row_blocks.cache_clear()
    assert density().blocks is None


def test_a_plate_of_numpyro_is_read_in_blocks():
    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, s), obs=y)

    data = {name: DATA[name] for name in ("x", "y")}
    assert density(advi.from_numpyro(model), data).blocks is not None


def test_a_sample_has_the_programs_of_all_rows():
    by_blocks = density()
    by_blocks.value_and_grad(POINTS)
    some = BlockSample(by_blocks, np.random.default_rng(0))
    values, _ = some.value_and_grad(POINTS)
    assert some.data["y"].shape == (64,)
    # an unbiased estimate: within a few standard errors of the rows
    errors = np.abs(values / by_blocks.value_and_grad(POINTS)[0] - 1)
    assert np.median(errors) < 0.5
