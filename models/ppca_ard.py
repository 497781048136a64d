"""Probabilistic principal components with automatic relevance determination, on many rows.

Every row has a code of its own, z_n ~ N(0, I), and x_n ~ N(W z_n, s^2). Column m of the loadings W
has a width a_m of its own, W_dm ~ N(0, (s a_m)^2), whose posterior shrinks to nothing where the
data do not need that direction: their subspace's dimension is found. The codes are local latents.
Their exact posterior has a mean linear in x_n and one covariance for all rows, which a linear
encoder holds.

``python -m models.ppca_ard --rows 1000000`` simulates as many rows around an 11-dimensional
subspace of 100 dimensions, a stand-in for the taxi paths of the paper.

References
----------
Kucukelbir et al. (2017), Automatic Differentiation Variational Inference, section 4.3: the model.
Tipping & Bishop (1999), Probabilistic Principal Component Analysis: the exact posterior of a code.
"""

import argparse
import time
from typing import Any

import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array
from numpy.typing import NDArray

import advi

BATCH_SIZE, RATE = 256, 0.03
RELEVANT = 0.05  # of the largest norm of a column of the loadings, above which it counts

Rows = dict[str, NDArray[np.float32]]


def data(rows: int, dim: int = 100, subspace: int = 11, noise: float = 0.5, seed: int = 0) -> Rows:
    """Return simulated rows around a random subspace."""
    rng = np.random.default_rng(seed)
    loadings = rng.standard_normal((dim, subspace))
    codes = rng.standard_normal((rows, subspace))
    x = codes @ loadings.T + noise * rng.standard_normal((rows, dim))
    return {"x": x.astype(np.float32)}


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats."""
    widths = dist.Normal(0, z["s"] * z["a"])
    shared = (
        dist.LogNormal(0, 1).log_prob(z["s"])
        + dist.InverseGamma(1, 1).log_prob(z["a"]).sum()
        + widths.log_prob(z["w"]).sum()
    )
    rows = dist.Normal(z["z"] @ z["w"].T, z["s"]).log_prob(d["x"]).sum(-1)
    return advi.Terms(shared, rows=rows, prior=dist.Normal(0, 1).log_prob(z["z"]).sum(-1))


def encode(params: Any, row: Any) -> tuple[Array, Array]:
    """Return the mean and the log sd of one row's code."""
    return params["A"] @ row["x"], params["log_sd"]


def model(dim: int, codes: int, x: NDArray) -> tuple[advi.Model, dict[str, Any]]:
    """Return the model and its families, begun at the first rows' principal components.

    Parameters
    ----------
    dim, codes
        Dimensions of a row and of its code, the latter more than are thought to be needed.
    x
        (n, dim) some rows.
    """
    sd, directions = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)[1:]
    loadings = directions[:codes].T * sd[:codes]
    latents = {
        "z": advi.real(codes, local=True),
        "w": advi.real(dim, codes, init=loadings),
        "a": advi.positive(codes),
        "s": advi.positive(),
    }
    start = {
        "A": np.linalg.pinv(loadings).astype(np.float32),
        "log_sd": np.full(codes, -1, np.float32),
    }
    return advi.Model(log_joint, latents), {"z": advi.Amortised(encode, start)}


def fit(rows: Rows, codes: int, steps: int) -> advi.Fit:
    """Fit by Adam, at a rate that falls to zero."""
    ppca, family = model(rows["x"].shape[1], codes, rows["x"][:2000])
    return advi.fit(
        ppca,
        rows,
        family=family,
        batch_size=BATCH_SIZE,
        optimizer=optax.adam(optax.cosine_decay_schedule(RATE, steps)),
        max_steps=steps,
    )


def norms(fitted: advi.Fit) -> NDArray[np.float64]:
    """Return the norms of the columns of the loadings, the largest first."""
    return np.sort(np.linalg.norm(np.asarray(fitted.mean()["w"]), axis=0))[::-1]


def main(arguments: list[str] | None = None) -> None:
    """Simulate, fit, and print the norms of the directions and how many are relevant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--subspace", type=int, default=11)
    parser.add_argument("--codes", type=int, default=20, help="dimensions that the model may use")
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args(arguments)

    rows = data(args.rows, args.dim, args.subspace)
    print(f"data: simulated, {args.rows:,} rows around {args.subspace} of {args.dim} dimensions")
    begin = time.perf_counter()
    fitted = fit(rows, args.codes, args.steps)
    print(f"fitted in {time.perf_counter() - begin:.0f} s: {fitted.status.message}")
    lengths = norms(fitted)
    relevant = int((lengths > RELEVANT * lengths[0]).sum())
    print("norms of the columns of W:", " ".join(f"{v:.2f}" for v in lengths))
    print(f"relevant: {relevant} of {args.codes}; noise sd {float(fitted.mean()['s']):.3f}")


if __name__ == "__main__":
    main()
