"""Which functions keep rows apart, by their traces."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from advi.core.jaxprs.independent_rows import MIXED, row_axes, same_for_each_row

NUM, FEW, LEVELS = 600, 20, 3  # rows, rows of a part, levels of a group


def traced(function, num):
    rows = {"x": (num, 2), "y": (num,), "g": (num,)}
    kinds = {"x": "float32", "y": "float32", "g": "int32"}
    z = jax.ShapeDtypeStruct((LEVELS,), "float32")
    data = {name: jax.ShapeDtypeStruct(shape, kinds[name]) for name, shape in rows.items()}
    return jax.make_jaxpr(lambda w, g, x, y: function(w, {"g": g, "x": x, "y": y}))(
        z, data["g"], data["x"], data["y"]
    )


def axis_of(function):
    """Return the axis of the rows in a function's result, `MIXED` where they meet."""
    part = traced(function, FEW)
    return row_axes(part, [None, 0, 0, 0], FEW)[0]


def along_classes(w, d):
    logits = jnp.concatenate([jnp.zeros((len(d["y"]), 1)), d["x"] * w[:2]], axis=1)
    return dist.CategoricalLogits(logits).log_prob(d["g"])


APART = {
    "product": lambda w, d: d["x"] @ w[:2],
    "effects": lambda w, d: w[d["g"]] - d["y"],
    "one entry along the rows": lambda w, d: d["y"] / w[:1],
    "density": lambda w, d: dist.Normal(d["x"] @ w[:2], jnp.exp(w[:1])).log_prob(d["y"]),
    "classes": along_classes,
    "mixture": lambda w, d: jax.scipy.special.logsumexp(w - d["y"][:, None] ** 2, axis=1),
    "a column": lambda w, d: d["x"][:, 1] * w[0],
    "two axes": lambda w, d: jnp.einsum("ni,nj->n", d["x"], d["x"] * w[:2]),
    "sorted columns": lambda w, d: jnp.sort(d["x"], axis=1)[:, 0] + w[0],
    "same for all": lambda w, d: jnp.broadcast_to(w[0], (len(d["y"]),)),
}
MEET = {
    "mean": lambda w, d: d["y"] - d["y"].mean(),
    "neighbours": lambda w, d: d["y"] - jnp.roll(d["y"], 1),
    "sums": lambda w, d: jnp.cumsum(d["y"]) * w[0],
    "place": lambda w, d: d["y"] * jnp.arange(len(d["y"])),
    "reversed": lambda w, d: d["y"][::-1],
    "sorted": lambda w, d: jnp.sort(d["y"]),
    "other rows": lambda w, d: d["y"][d["g"]],
    "flat": lambda w, d: d["x"].ravel()[: len(d["y"])],
    "a loop": lambda w, d: jax.lax.scan(lambda c, y: (c + y, c), w[0], d["y"])[1],
}


@pytest.mark.parametrize("name", APART)
def test_rows_are_kept_apart(name):
    function = APART[name]
    assert axis_of(function) == 0
    assert same_for_each_row(traced(function, NUM), traced(function, FEW), NUM, FEW)


@pytest.mark.parametrize("name", MEET)
def test_rows_that_meet_are_found(name):
    assert axis_of(MEET[name]) == MIXED


def test_sums_over_rows_are_mixed_and_priors_have_no_rows():
    assert axis_of(lambda w, d: d["y"].sum() * w[0]) == MIXED
    assert axis_of(lambda w, d: (w**2).sum()) is None


def test_numbers_of_rows_and_values_that_differ_are_found():
    of_length = lambda w, d: d["y"] / len(d["y"])  # noqa: E731
    given = {NUM: np.arange(3.0), FEW: np.arange(3.0) + 1}
    by_constant = lambda w, d: d["y"] * (w * given[len(d["y"])]).sum()  # noqa: E731
    for function in (of_length, by_constant):
        assert axis_of(function) == 0
        assert not same_for_each_row(traced(function, NUM), traced(function, FEW), NUM, FEW)
