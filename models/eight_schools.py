"""Eight schools: a hierarchical normal model of eight parallel experiments, non-centred.

Each school reports an estimated effect of coaching on a test score and its standard error. The
true effects theta share a mean mu and a spread tau, and are written theta = mu + tau * eta with
eta standard normal, so that the latents stay nearly independent however small tau is.

References
----------
Rubin (1981), Estimation in Parallel Randomized Experiments, J. Educational Statistics 6.
Gelman et al. (2013), Bayesian Data Analysis, 3rd edition, section 5.5.
Priors as in posteriordb's ``eight_schools_noncentered``.
"""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from numpy.typing import NDArray

import advi

SOURCE = "eight schools, Rubin (1981): effects of coaching in test points and standard errors"
SCHOOLS = "ABCDEFGH"
EFFECT = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
STANDARD_ERROR = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
PICTURE = "eight_schools.png"
PRIOR_SCALE = 5.0  # of mu (normal) and of tau (half-Cauchy), test points


class Moments(NamedTuple):
    """Exact posterior moments, test points, and the evidence."""

    mu: tuple[float, float]  # mean, sd
    tau: tuple[float, float]
    theta_mean: NDArray[np.float64]  # (8,)
    theta_sd: NDArray[np.float64]  # (8,)
    log_evidence: float  # nats


def data() -> dict[str, NDArray[np.float64]]:
    """Return the estimates `y` (8,) and their standard errors `sigma` (8,), test points."""
    return {"y": np.array(EFFECT), "sigma": np.array(STANDARD_ERROR)}


def effects(z: Any) -> jax.Array:
    """Return the schools' effects, (8,) or with one leading axis of draws (n, 8)."""
    return z["mu"][..., None] + z["tau"][..., None] * z["eta"]


def log_joint(z: Any, d: Any) -> jax.Array:
    """Return the log-joint density in nats."""
    return (
        dist.Normal(0, PRIOR_SCALE).log_prob(z["mu"])
        + dist.HalfCauchy(PRIOR_SCALE).log_prob(z["tau"])
        + dist.Normal(0, 1).log_prob(z["eta"]).sum()
        + dist.Normal(effects(z), d["sigma"]).log_prob(d["y"]).sum()
    )


def model() -> advi.Model:
    """Return the model: mu real, tau positive, eta eight reals."""
    return advi.Model(
        log_joint, {"mu": advi.real(), "tau": advi.positive(), "eta": advi.real(len(SCHOOLS))}
    )


def half_cauchy(tau: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the prior density of tau."""
    return 2 / (np.pi * PRIOR_SCALE * (1 + (tau / PRIOR_SCALE) ** 2))


def exact(
    d: dict[str, NDArray[np.float64]],
    points: int = 4001,
    mu_scale: float = PRIOR_SCALE,
    prior_of_tau: Callable[[NDArray[np.float64]], NDArray[np.float64]] = half_cauchy,
) -> Moments:
    """Return the exact posterior moments, by quadrature over tau alone.

    Given tau all else is Gaussian: ``y_j ~ N(mu, sigma_j^2 + tau^2)``, so mu and theta integrate
    out in closed form. The integral over tau is the trapezoidal rule in log tau, whose error falls
    exponentially with the number of `points`.
    """
    log_tau = np.linspace(-15.0, 10.0, points)
    tau = np.exp(log_tau)[:, None]
    weight = 1 / (d["sigma"] ** 2 + tau**2)  # (points, 8), precision of y_j given mu
    mu_var = 1 / (weight.sum(1) + mu_scale**-2)
    mu_mean = mu_var * (weight * d["y"]).sum(1)
    # log p(y, tau) from p(y, mu | tau) = p(y | tau) p(mu | y, tau) at mu = 0
    log_lik = 0.5 * (np.log(weight / (2 * np.pi)) - weight * d["y"] ** 2).sum(1)
    log_lik += 0.5 * (np.log(mu_var / mu_scale**2) + mu_mean**2 / mu_var)
    density = np.exp(log_lik) * prior_of_tau(tau[:, 0]) * tau[:, 0] * (log_tau[1] - log_tau[0])
    evidence = density.sum()

    pull = tau**2 * weight  # weight of y_j in the mean of theta_j given mu and tau
    theta_mean = pull * d["y"] + (1 - pull) * mu_mean[:, None]
    theta_var = pull * d["sigma"] ** 2 + (1 - pull) ** 2 * mu_var[:, None]
    posterior = density / evidence

    def moments(mean: NDArray, var: NDArray | float) -> tuple[Any, Any]:
        center = posterior @ mean
        return center, np.sqrt(posterior @ (var + (mean - center) ** 2))

    mu, tau_ = moments(mu_mean, mu_var), moments(tau[:, 0], np.zeros(points))
    return Moments(mu, tau_, *moments(theta_mean, theta_var), float(np.log(evidence)))


def draw(
    figure: Any, theta: NDArray[np.float64], d: dict[str, NDArray[np.float64]], truth: Moments
) -> None:
    """Draw the schools' effects (n, 8) beside the estimates and the exact means."""
    axes, place = figure.subplots(), np.arange(len(SCHOOLS))
    low, lower, upper, high = np.quantile(theta, [0.05, 0.25, 0.75, 0.95], axis=0)
    axes.errorbar(
        d["y"], place + 0.18, xerr=d["sigma"], fmt="s", ms=4, color="0.6", lw=1,
        label="estimate ± standard error",
    )  # fmt: skip
    axes.hlines(place - 0.18, low, high, color="C0", lw=1)
    axes.hlines(place - 0.18, lower, upper, color="C0", lw=3.5, label="50 % and 90 % intervals")
    axes.plot(theta.mean(0), place - 0.18, "o", ms=6, mfc="white", color="C0", label="mean")
    axes.plot(truth.theta_mean, place - 0.18, "|", ms=14, color="C1", label="exact mean")
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="effect of coaching, test points", ylim=(len(SCHOOLS) - 0.5, -0.5))
    axes.set_yticks(place, [f"school {school}" for school in SCHOOLS])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)


def main(arguments: list[str] | None = None) -> None:
    """Fit the model; print the fit and the schools' effects beside the exact ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--plot", metavar="FILE", nargs="?", const="",
        help=f"draw the effects into FILE; default: a window, or {PICTURE} without a display",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    if args.plot is not None and find_spec("matplotlib") is None:
        parser.error('--plot needs Matplotlib: pip install "advi-engine[plots]"')

    d = data()
    print(f"data: {SOURCE}\n")
    fit = advi.fit(model(), d)
    print(fit)
    truth = exact(d)
    theta = np.asarray(effects(fit.to_dict(10_000)))
    print(f"\nexact log evidence: {truth.log_evidence:.4g} nats, which the ELBO cannot exceed")
    print("\neffects theta = mu + tau * eta, test points (exact: quadrature over tau)")
    print("school  estimate  std. error   mean    sd   exact mean    sd")
    for j, school in enumerate(SCHOOLS):
        print(
            f"{school:<6}  {d['y'][j]:8.0f}  {d['sigma'][j]:10.0f}  {theta[:, j].mean():5.1f} "
            f"{theta[:, j].std():5.1f}   {truth.theta_mean[j]:10.1f} {truth.theta_sd[j]:5.1f}"
        )
    if args.plot is None:
        return

    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(6, 4.5), layout="constrained")
    draw(figure, theta, d, truth)
    path = args.plot or ("" if pyplot.get_backend().lower() != "agg" else PICTURE)
    if path:
        figure.savefig(path, dpi=120)
        print(f"\npicture: {path}")
    else:
        pyplot.show()


if __name__ == "__main__":
    main()
