"""Coin toss: a Bernoulli sequence with a Beta prior, where every term of the ELBO is known.

The log evidence splits exactly, ``log p(x) = ELBO(q) + KL(q || p(. | x))``, for any q. Here the
posterior and the evidence have a closed form, and ELBO and KL are one-dimensional integrals over
the density of the fitted q, so that the identity holds to quadrature accuracy.

The likelihood is that of the sequence of tosses: there is no binomial coefficient, which would
count the other sequences with as many heads and would add its logarithm to the evidence.

References
----------
Blei, Kucukelbir & McAuliffe (2017), Variational Inference: A Review for Statisticians, eq. 11-13.
Gelman et al. (2013), Bayesian Data Analysis, 3rd edition, section 2.4: the conjugate posterior.
"""

from math import lgamma
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from numpy.typing import NDArray

import advi

FAMILIES = ("mean_field", "full_rank")  # one latent: both are the same Gaussian on the logit scale


class Posterior(NamedTuple):
    """Exact posterior Beta(a, b) of the probability of heads, and the evidence."""

    a: float
    b: float
    log_evidence: float  # nats

    def log_prob(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density at `p`, in nats, of the shape of `p`."""
        return (self.a - 1) * np.log(p) + (self.b - 1) * np.log1p(-p) - log_beta(self.a, self.b)


class Split(NamedTuple):
    """The log evidence in two parts, nats, and the integral of q, which should be one."""

    elbo: float
    kl: float
    mass: float


def log_beta(a: float, b: float) -> float:
    """Return the logarithm of the beta function B(a, b)."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def data(heads: int = 14, tails: int = 6, a: float = 2.0, b: float = 2.0) -> dict[str, Any]:
    """Return `tosses` (heads + tails,), 1 for heads, and the parameters a, b of the Beta prior."""
    return {"tosses": np.repeat([1, 0], [heads, tails]), "a": a, "b": b}


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats, one row a toss."""
    prior = dist.Beta(d["a"], d["b"]).log_prob(z["p"])
    return advi.Terms(prior, rows=dist.Bernoulli(z["p"]).log_prob(d["tosses"]))


def model() -> advi.Model:
    """Return the model: one latent p, the probability of heads."""
    return advi.Model(log_joint, {"p": advi.unit_interval()})


def exact(d: dict[str, Any]) -> Posterior:
    """Return the posterior Beta(a + h, b + t) and the evidence B(a + h, b + t) / B(a, b)."""
    heads = int(d["tosses"].sum())
    a, b = d["a"] + heads, d["b"] + len(d["tosses"]) - heads
    return Posterior(a, b, log_beta(a, b) - log_beta(d["a"], d["b"]))


def split(fit: advi.Fit, d: dict[str, Any], points: int = 4001) -> Split:
    """Return ELBO and KL(q || posterior) of a fit by quadrature over its own density.

    The trapezoidal rule in the logit x of p, where dp = p (1 - p) dx and q is Gaussian: its error
    falls exponentially with the number of `points`.
    """
    x, dx = np.linspace(-15.0, 15.0, points, retstep=True)
    p = 1 / (1 + np.exp(-x))
    log_q = np.asarray(fit.log_prob({"p": p}), float)
    weight = np.exp(log_q) * p * (1 - p) * dx
    posterior = exact(d)
    prior = Posterior(d["a"], d["b"], 0.0)
    heads, tails = posterior.a - prior.a, posterior.b - prior.b
    log_joint_ = prior.log_prob(p) + heads * np.log(p) + tails * np.log1p(-p)
    return Split(
        elbo=float(weight @ (log_joint_ - log_q)),
        kl=float(weight @ (log_q - posterior.log_prob(p))),
        mass=float(weight.sum()),
    )


def main() -> None:
    """Fit both families and print the identity ELBO + KL = log evidence, term by term."""
    d = data()
    posterior = exact(d)
    print(
        f"data: {len(d['tosses'])} tosses written in this file, {d['tosses'].sum()} of them heads; "
        f"prior Beta({d['a']:g}, {d['b']:g})\n"
        f"exact posterior: Beta({posterior.a:g}, {posterior.b:g})"
    )
    for family in FAMILIES:
        # float64: the identity is shown to more digits than float32 has
        fit = advi.fit(model(), d, family=family, x64=True)
        parts = split(fit, d)
        print(f"\n{fit}\n")
        print(f"ELBO, quadrature           {parts.elbo:+.10f} nats")
        print(f"KL(q || posterior)         {parts.kl:+.10f} nats")
        print(f"their sum                  {parts.elbo + parts.kl:+.10f} nats")
        print(f"exact log evidence         {posterior.log_evidence:+.10f} nats")
        print(f"ELBO by Monte Carlo, from the fit: {fit.elbo} nats")


if __name__ == "__main__":
    main()
