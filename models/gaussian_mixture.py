"""A mixture of Gaussians: coordinate ascent in closed form beside automatic differentiation.

Of K components with unit variance and equal weight the means are unknown, ``mu_k ~ N(0, s^2)``,
and so is the component ``c_i`` that each point ``x_i ~ N(mu[c_i], 1)`` is from. Coordinate ascent
(CAVI) takes q(mu) q(c), all factors independent, and maximises the ELBO in one factor at a time.

- Given the optimal q(c), the log-joint is quadratic in mu: the automatic fit is CAVI's q(mu), and
  its ELBO is CAVI's, to rounding (`log_joint_given`).
- With c summed out (`log_joint`) nothing is left to assume about q(c): the bound can only be
  tighter.

References
----------
Blei, Kucukelbir & McAuliffe (2017), Variational Inference: A Review for Statisticians,
Journal of the American Statistical Association 112, sections 2.1 and 3.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from numpy.typing import NDArray
from scipy.special import entr, log_softmax

import advi

MEANS = (-4.0, 0.0, 5.0)
PRIOR_SD = 5.0
Floats = NDArray[np.float64]


class Ascent(NamedTuple):
    """The factors that coordinate ascent ends with, and the way there."""

    mean: Floats  # (K,) of q(mu_k)
    sd: Floats  # (K,)
    responsibilities: Floats  # (N, K) q(c_i = k)
    elbo: Floats  # (rounds,) nats, after every round


def data(num: int = 150, seed: int = 0) -> dict[str, Any]:
    """Return `x` (num,), simulated from components centred at `MEANS`, and the prior's sd."""
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(rng.choice(MEANS, num), 1.0), "prior_sd": PRIOR_SD}


def _by_component(mu: Any, x: Any) -> jax.Array:
    """Return log p(x_i, c_i = k | mu), nats, (N, K)."""
    return dist.Normal(mu, 1.0).log_prob(x[:, None]) - np.log(len(mu))


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return log p(mu, x), one row a point: the components are summed out."""
    prior = dist.Normal(0, d["prior_sd"]).log_prob(z["mu"]).sum()
    return advi.Terms(prior, rows=jax.nn.logsumexp(_by_component(z["mu"], d["x"]), axis=1))


def log_joint_given(z: Any, d: Any) -> jax.Array:
    """Return E log p(mu, c, x) - E log q(c), nats, for q(c) given as `responsibilities` (N, K)."""
    phi = d["responsibilities"]
    prior = dist.Normal(0, d["prior_sd"]).log_prob(z["mu"]).sum()
    return prior + (phi * _by_component(z["mu"], d["x"])).sum() + jax.scipy.special.entr(phi).sum()


def model(num_components: int = len(MEANS), density: Any = log_joint) -> advi.Model:
    """Return the model: the components' means `mu`."""
    return advi.Model(density, {"mu": advi.real(num_components)})


def start(d: dict[str, Any], num_components: int = len(MEANS)) -> Floats:
    """Return means to start from, (K,): quantiles of the data, evenly spaced."""
    return np.quantile(d["x"], (np.arange(num_components) + 0.5) / num_components)


def coordinate_ascent(d: dict[str, Any], mean: Floats, rounds: int = 100) -> Ascent:
    """Run CAVI from means (K,) and unit variances; every round updates q(c), then q(mu)."""
    x, prior_var = d["x"][:, None], d["prior_sd"] ** 2
    var = np.ones_like(mean)
    phi, elbo = np.zeros((len(x), len(mean))), []
    for _ in range(rounds):
        phi = np.exp(log_softmax(x * mean - 0.5 * (mean**2 + var), axis=1))  # eq. 26
        var = 1 / (1 / prior_var + phi.sum(0))  # eq. 34
        mean = var * (phi * x).sum(0)
        expected_square = (x - mean) ** 2 + var
        elbo.append(
            (phi * (-0.5 * (expected_square + np.log(2 * np.pi)) - np.log(len(mean)))).sum()
            + entr(phi).sum()
            + 0.5 * (1 + np.log(var / prior_var) - (mean**2 + var) / prior_var).sum()
        )
    return Ascent(mean, np.sqrt(var), phi, np.array(elbo))


def main() -> None:
    """Run CAVI and both automatic fits from the same start, and print them side by side."""
    d = data()
    print(f"data: {len(d['x'])} points simulated from components at {MEANS}\n")
    begin = start(d)
    ascent = coordinate_ascent(d, begin)
    settings: dict[str, Any] = {"family": "mean_field", "init": {"mu": begin}, "x64": True}
    given = {**d, "responsibilities": ascent.responsibilities}
    fits = {
        "automatic, given q(c)": advi.fit(model(density=log_joint_given), given, **settings),
        "automatic, c summed out": advi.fit(model(), d, **settings),
    }
    print("                          ELBO, nats   means                     sds")
    rows = {"coordinate ascent": (ascent.elbo[-1], ascent.mean, ascent.sd)}
    rows |= {k: (f.elbo.value, f.mean()["mu"], f.sd()["mu"]) for k, f in fits.items()}
    for name, (elbo, mean, sd) in rows.items():
        means, sds = (" ".join(f"{v:7.4f}" for v in np.asarray(part)) for part in (mean, sd))
        print(f"{name:<24} {elbo:11.6f}   {means}   {sds}")
    print(f"\nwith c summed out: {fits['automatic, c summed out'].verdict}")


if __name__ == "__main__":
    main()
