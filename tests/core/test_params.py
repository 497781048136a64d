"""Encoders and decoders by a library of networks, and what their parameters cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import advi

eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

N, D, K, NOISE = 300, 5, 2, 0.5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, K)) @ RNG.standard_normal((K, D)) + NOISE * RNG.standard_normal((N, D))
DATA = {"x": (X - X.mean(0)).astype(np.float32)}


class Encoder(eqx.Module):
    """Means that are linear in the row, and sds that are the same in all."""

    mean: eqx.nn.Linear
    log_sd: jax.Array

    def __init__(self, key):
        self.mean = eqx.nn.Linear(D, K, key=key)
        self.log_sd = jnp.zeros(K)

    def __call__(self, x):
        return self.mean(x), self.log_sd


def split(network):
    return eqx.partition(network, eqx.is_inexact_array)


ENCODER, ENCODER_REST = split(Encoder(jax.random.key(0)))
# of no layers but one, and with two activations, which are no arrays
DECODER, DECODER_REST = split(eqx.nn.MLP(K, D, width_size=1, depth=0, key=jax.random.key(1)))


def encode(params, row):
    return eqx.combine(params, ENCODER_REST)(row["x"])


def log_joint(z, d):
    mean = jax.vmap(eqx.combine(z["decoder"], DECODER_REST))(z["h"])
    rows = -0.5 * ((d["x"] - mean) / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi))
    prior = -0.5 * z["h"] ** 2 - 0.5 * np.log(2 * np.pi)
    return advi.Terms(0.0, rows=rows.sum(-1), prior=prior.sum(-1))


MODEL = advi.Model(log_joint, {"h": advi.real(K, local=True), "decoder": advi.tree(DECODER)})


def test_equinox_networks():
    """Of an encoder that can be exact the ELBO is the evidence that the decoder has."""
    assert list(MODEL.latents) == ["h", "decoder.layers.0.weight", "decoder.layers.0.bias"]
    family = {"h": advi.Amortised(encode, ENCODER), "decoder": advi.Point()}
    fit = advi.fit(MODEL, DATA, family=family, batch_size=100, max_steps=3000)
    decoder = eqx.combine(fit.mean()["decoder"], DECODER_REST)
    w, b = (np.asarray(v, float) for v in (decoder.layers[0].weight, decoder.layers[0].bias))
    evidence = multivariate_normal(b, w @ w.T + NOISE**2 * np.eye(D)).logpdf(DATA["x"])
    assert fit.elbo.value / N == pytest.approx(evidence.mean(), abs=0.02)
    assert fit.sample(2, data={"x": DATA["x"][:7]})["h"].shape == (2, 7, K)


def with_batch_norm(params, row):
    return row["x"][:K] - jax.lax.pmean(row["x"][:K], "batch"), params


def with_state(params, row):
    return row["x"][:K], params, {"mean": row["x"]}


SCALE = np.zeros(K, np.float32)
MISTAKES = {
    "a network with its activations": (
        lambda: advi.Amortised(encode, eqx.combine(DECODER, DECODER_REST)),
        r"Amortised params, activation: got .*equinox.partition\(network, .*close over the rest",
    ),
    "the same of a decoder": (
        lambda: advi.tree(eqx.combine(DECODER, DECODER_REST)),
        "tree, activation: got .*expected arrays of floats",
    ),
    "a step count": (
        lambda: advi.Amortised(encode, {"w": SCALE, "count": np.zeros((), int)}),
        "count: got an array .*int64; expected arrays of floats.*State.* is not supported",
    ),
    "a random key": (lambda: advi.tree({"key": jax.random.key(0)}), "key: got an array .*key<"),
    "Flax's variables": (
        lambda: advi.Amortised(encode, {"params": {"w": SCALE}, "batch_stats": {"mean": SCALE}}),
        "'batch_stats'; expected the parameters alone. State.* is not supported",
    ),
    "batch normalisation": (
        lambda: advi.fit(
            MODEL, DATA, batch_size=9, family={"h": advi.Amortised(with_batch_norm, SCALE)}
        ),
        "rows beside its own.*expected a function of one row. State.* is not supported",
    ),
    "state that is returned": (
        lambda: advi.fit(
            MODEL, DATA, batch_size=9, family={"h": advi.Amortised(with_state, SCALE)}
        ),
        r"expected the parameters of one row.*State.* is not supported",
    ),
    "None for a latent": (
        lambda: advi.Model(log_joint, {"h": None, "decoder": advi.tree(DECODER)}),
        "'h': got None",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_parameter_is_refused(mistake):
    make, words = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=words):
        make()
