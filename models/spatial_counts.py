"""Counts on a grid whose log rate varies smoothly: a log-Gaussian Cox process, simulated.

``y_ij ~ Poisson(exp(log_rate_ij))``. The log rate is a first-order random walk on the grid: every
difference between neighbours is normal with sd `step`, and a weak normal prior of sd 2 around `mu`
makes it proper. Its precision is ``L / step^2 + I / 2^2`` with the Laplacian L of the grid, whose
eigenvectors are cosines, so that its determinant costs a sum and draws cost a cosine transform.

``python -m models.spatial_counts --side 60``

References
----------
Rue & Held (2005), Gaussian Markov Random Fields, section 3.3.2.
Besag & Kooperberg (1995), On conditional and intrinsic autoregressions, Biometrika 82.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray
from scipy.fft import idctn

import advi
from models.side_by_side import Draws, Known, calibration, compare, draws_of, fits, options

WEAK_SD = 2.0  # of the log rate around mu
SIMULATED: Known = {"mu": (1.0,), "step": (0.5,)}


class Counts(NamedTuple):
    """Counts, and what they were simulated with."""

    rows: dict[str, NDArray[Any]]  # y (side, side), eigenvalues of the Laplacian (side, side)
    known: Known
    log_rate: NDArray[np.float64]  # (side, side)


def eigenvalues(side: int) -> NDArray[np.float64]:
    """Return those of the Laplacian of a square grid, (side, side)."""
    of_path = 2 - 2 * np.cos(np.pi * np.arange(side) / side)
    return of_path[:, None] + of_path


def simulate(side: int = 60, seed: int = 0) -> Counts:
    """Return counts whose log rate is a draw from the prior at the simulated mu and step."""
    rng = np.random.default_rng(seed)
    mu, step = (value[0] for value in SIMULATED.values())
    laplacian = eigenvalues(side)
    waves = rng.standard_normal((side, side)) / np.sqrt(laplacian / step**2 + WEAK_SD**-2)
    log_rate = mu + np.asarray(idctn(waves, norm="ortho"))
    rows = {
        "y": rng.poisson(np.exp(log_rate)).astype(np.int32),
        "laplacian": laplacian.astype(np.float32),
    }
    return Counts(rows, SIMULATED, log_rate)


def log_joint(z: Any, d: Any) -> Array:
    """Return the log-joint density in nats."""
    x, step = z["log_rate"], z["step"]
    squares = jnp.square(jnp.diff(x, axis=0)).sum() + jnp.square(jnp.diff(x, axis=1)).sum()
    squares = squares / step**2 + jnp.square(x - z["mu"]).sum() / WEAK_SD**2
    log_det = jnp.log(d["laplacian"] / step**2 + WEAK_SD**-2).sum()
    return (
        dist.Normal(0, 2).log_prob(z["mu"])
        + dist.HalfNormal(1).log_prob(step)
        + 0.5 * (log_det - squares - x.size * jnp.log(2 * jnp.pi))
        + dist.Poisson(jnp.exp(x)).log_prob(d["y"]).sum()
    )


def model(side: int) -> advi.Model:
    """Return the model: the level, the sd of a difference, and the log rate of every cell."""
    latents = {"mu": advi.real(), "step": advi.positive(), "log_rate": advi.real(side, side)}
    return advi.Model(log_joint, latents)


def report(counts: Counts, family: str = "auto", nuts: int | None = None) -> dict[str, Draws]:
    """Fit the counts and print the figures beside the simulated ones; return the draws."""
    y = counts.rows["y"]
    print(f"data: simulated, {y.sum():,} events in {len(y)} x {len(y)} cells\n")
    found = fits(model(len(y)), counts.rows, family, nuts)
    draws = {name: draws_of(fit) for name, fit in found.items()}
    compare(draws, counts.known, "simulated")
    for name, d in draws.items():
        print(f"log rate, {name}: {calibration(d['log_rate'], counts.log_rate)} of {y.size:,}")
    alone = np.sqrt(np.mean((np.log(y + 0.5) - counts.log_rate) ** 2))
    print(f"log rate, log(count + 1/2) of each cell alone: RMS error {alone:.3f}")
    return draws


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate and fit; print the fit and the figures beside the simulated ones."""
    parser = options(__doc__, reads_data=False)
    parser.add_argument("--side", type=int, default=60, help="cells of an edge of the grid")
    args = parser.parse_args(argv)
    report(simulate(args.side), args.family, args.nuts)


if __name__ == "__main__":
    main()
