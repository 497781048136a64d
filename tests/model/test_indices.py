"""Indices in the data that lie outside of the array they point into."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi
from advi.data.spec import prepare
from advi.model.indices import check_data_indices
from advi.model.trace import trace

Y = np.zeros(6, np.float32)


def normal(x, loc=0.0):
    return dist.Normal(loc, 1).log_prob(x).sum()


def looped(b, d):
    def step(total, row):
        return total + normal(row[1], b[row[0]]), None

    return jax.lax.scan(step, 0.0, (d["g"], d["y"]))[0]


# functions of an array of five entries and the data
READS = {
    "read": lambda b, d: normal(d["y"], b[d["g"]]),
    "codes from 1": lambda b, d: normal(d["y"], b[d["g"] + 1 - 1]),
    "take": lambda b, d: normal(d["y"], jnp.take(b, d["g"])),
    "along": lambda b, d: jnp.take_along_axis(jnp.tile(b, (6, 1)), d["g"][:, None], 1).sum(),
    "two axes": lambda b, d: normal(d["y"], (b[:, None] * jnp.ones(5))[d["g"], d["g"]]),
    "rows of vmap": lambda b, d: jax.vmap(lambda g, y: normal(y, b[g]))(d["g"], d["y"]).sum(),
    "jit": lambda b, d: jax.jit(lambda g: normal(d["y"], b[g]))(d["g"]),
    "loop": looped,
    "one": lambda b, d: normal(d["y"], b[d["g"][-1]]),
    "floats": lambda b, d: normal(d["y"], b[d["g"].astype(float).astype(int)]),
    "segments": lambda b, d: jax.ops.segment_sum(b[0] * d["y"], d["g"], num_segments=5).sum(),
    "written": lambda b, d: normal(jnp.zeros(5).at[d["g"]].add(b[0])),
    "set": lambda b, d: normal(b.at[d["g"]].set(0.0)),
}
INTENDED = {
    "clip": lambda b, d: normal(d["y"], jnp.take(b, d["g"], mode="clip")),
    "filled": lambda b, d: normal(d["y"], b.at[d["g"]].get(mode="fill", fill_value=0.0)),
    "take and fill": lambda b, d: normal(d["y"], jnp.take(b, d["g"], mode="fill", fill_value=0)),
    "clipped": lambda b, d: normal(d["y"], b[jnp.clip(d["g"], 0, 4)]),
    "clipped by row": lambda b, d: jax.vmap(lambda g: b[jnp.minimum(g, 4)])(d["g"]).sum(),
    "from the end": lambda b, d: normal(d["y"], b[d["g"] - 5]),
    "elsewhere": lambda b, d: normal(d["y"], b[jnp.where(d["g"] < 5, d["g"], 0)]),
    "one-hot": lambda b, d: normal(d["y"], jax.nn.one_hot(d["g"], 5) @ b),
    "counted": lambda b, d: normal(d["y"], b[0]) + 0 * jnp.sum(d["g"]),
}


def model_of(read):
    return advi.Model(lambda z, d: normal(z["b"]) + read(z["b"], d), {"b": advi.real(5)})


def codes(last):
    return {"g": np.array([0, 1, 2, 3, 4, last]), "y": Y}


def look(read, data):
    model = model_of(read)
    with jax.enable_x64(False):
        data, spec = prepare(data, "float32")
        check_data_indices(model, trace(model, spec), spec, data)


@pytest.mark.parametrize("case", READS)
def test_an_index_outside_is_named_with_its_leaf_and_the_length(case):
    look(READS[case], codes(4))
    with pytest.raises(ValueError, match=r"an index from data leaf 'g' is 5.*length 5; .*0 to 4"):
        advi.fit(model_of(READS[case]), codes(5))


@pytest.mark.parametrize("case", INTENDED)
def test_indices_that_are_meant_are_left_alone(case):
    look(INTENDED[case], codes(5))


def test_check_names_an_index_outside_and_not_what_follows_from_it():
    [problem] = advi.check(model_of(READS["read"]), codes(5)).problems
    assert "an index from data leaf 'g' is 5 at row 5" in problem


def test_new_codes_are_named_by_all_that_takes_data():
    def model(g, y):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([5]).to_event(1))
        with numpyro.plate("rows", 6):
            numpyro.sample("y", dist.Normal(b[g], 1), obs=y)

    model = advi.from_numpyro(model)
    with pytest.raises(ValueError, match=r"data leaf 'g' is 5 at row 5.*into latent 'b'"):
        advi.fit(model, codes(5))
    fit = advi.fit(model, codes(4), diagnose=False)
    with pytest.raises(ValueError, match="fn: an index from data leaf 'g' is 99"):
        fit.predict(lambda z, d: z["b"][d["g"]], 3, {"g": np.array([99])})
    assert fit.predict(lambda z, d: z["b"][d["g"]], 3, {"g": np.array([4])}).shape == (3, 1)
    with pytest.raises(ValueError, match="data leaf 'g' is 5"):
        fit.log_likelihood(codes(5))


def by_row(z, d):
    return advi.Terms(normal(z["b"]), rows=dist.Normal(z["b"][d["g"]], 1).log_prob(d["y"]))


def test_held_out_rows():
    def log_joint(z, d):
        rows = dist.Normal(z["b"][d["g"]], 1).log_prob(d["y"])
        return advi.Terms(normal(z["b"]), rows)

    model = advi.Model(log_joint, {"b": advi.real(5)})
    with pytest.raises(ValueError, match=r"^eval_data: an index from data leaf 'g' is 5 at row 5"):
        advi.fit(model, codes(4), batch_size=3, max_steps=2, eval_data=codes(5))


def test_batches_streams_and_rows_on_disk(tmp_path):
    model = advi.Model(by_row, {"b": advi.real(5)})
    with pytest.raises(ValueError, match="data leaf 'g' is 5 at row 5"):
        advi.fit(model, codes(5), batch_size=2)
    with pytest.raises(ValueError, match=r"batch 2 of epoch 1: .* data leaf 'g' is 5 at row 5"):
        advi.fit(model, [codes(4), codes(5)], num_rows=12)
    np.save(tmp_path / "g.npy", codes(5)["g"])
    on_disk = {"g": np.load(tmp_path / "g.npy", mmap_mode="r"), "y": Y}
    with pytest.raises(ValueError, match="data leaf 'g' is 5 at row 5"):
        advi.fit(model, on_disk, batch_size=2)
