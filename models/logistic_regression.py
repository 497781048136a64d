"""Logistic regression of a million rows, in minibatches, beside a fit of all data on fewer rows.

The rows are simulated, so the coefficients are known: with N rows the posterior is some
2.3 / sqrt(N) wide, and the fit of fewer rows shows what the others add.

``python -m models.logistic_regression --rows 1000000``
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from numpy.typing import NDArray

import advi

SLOPE_SD = 1.0
FEW = 20_000  # rows of the fit beside
Rows = dict[str, NDArray[Any]]


class Simulated(NamedTuple):
    """Rows, and the coefficients that they were drawn with."""

    rows: Rows  # x (N, K) standard normal, y (N,) zero or one
    intercept: float
    slopes: NDArray[np.float64]  # (K,)


def data(num_rows: int = 1_000_000, num_predictors: int = 10, seed: int = 0) -> Simulated:
    """Return simulated rows."""
    rng = np.random.default_rng(seed)
    intercept = -0.5
    slopes = rng.normal(0, SLOPE_SD, num_predictors) / np.sqrt(num_predictors)
    x = rng.standard_normal((num_rows, num_predictors), np.float32)
    p = 1 / (1 + np.exp(-(intercept + x @ slopes)))
    y = (rng.random(num_rows) < p).astype(np.float32)
    return Simulated({"x": x, "y": y}, intercept, slopes)


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint density in nats, a term for each row."""
    prior = (
        dist.Normal(0, 10).log_prob(z["intercept"])
        + dist.Normal(0, SLOPE_SD).log_prob(z["slopes"]).sum()
    )
    logits = z["intercept"] + d["x"] @ z["slopes"]
    rows = dist.Bernoulli(logits=logits).log_prob(d["y"])  # type: ignore[call-arg]
    return advi.Terms(prior, rows=rows)


def model(num_predictors: int = 10) -> advi.Model:
    """Return the model: the intercept and the slopes."""
    return advi.Model(log_joint, {"intercept": advi.real(), "slopes": advi.real(num_predictors)})


def moments(fit: advi.Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means and the sds of the intercept and the slopes, (1 + K,) each."""
    mean, sd = (np.append(np.asarray(z["intercept"]), z["slopes"]) for z in (fit.mean(), fit.sd()))
    return mean.astype(float), sd.astype(float)


def main(arguments: list[str] | None = None) -> None:
    """Fit all rows in minibatches and some of them as a whole; print both and how they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    args = parser.parse_args(arguments)

    simulated = data(args.rows)
    few = min(FEW, args.rows // 2)
    begin = time.perf_counter()
    all_rows = advi.fit(
        model(), simulated.rows, batch_size=args.batch_size, family="full_rank", diagnose=False
    )
    middle = time.perf_counter()
    some_rows = advi.fit(
        model(), {name: leaf[:few] for name, leaf in simulated.rows.items()}, diagnose=False
    )
    end = time.perf_counter()
    print(f"{args.rows:,} rows in minibatches of {args.batch_size}: {middle - begin:.1f} s")
    print(f"  {all_rows.status.message}\n{few:,} rows as a whole: {end - middle:.1f} s")
    print(f"  {some_rows.status.message}\n")

    truth = np.append(simulated.intercept, simulated.slopes)
    (mean, sd), (rough, rough_sd) = moments(all_rows), moments(some_rows)
    print(f"coefficient     true   {args.rows:>10,} rows      {few:>10,} rows")
    names = ["intercept", *(f"slopes[{k}]" for k in range(len(simulated.slopes)))]
    for k, name in enumerate(names):
        print(
            f"{name:<12} {truth[k]:7.3f}   {mean[k]:7.4f} ± {sd[k]:.4f}    "
            f"{rough[k]:8.4f} ± {rough_sd[k]:.4f}"
        )
    # the few are among all: the difference of the means has the difference of the variances
    apart = np.abs(mean - rough) / np.sqrt(np.maximum(rough_sd**2 - sd**2, 0))
    print(f"\nlargest distance from the truth: {np.max(np.abs(mean - truth) / sd):.2f} sd")
    print(f"largest distance of the two fits: {np.max(apart):.2f} sd of their difference")
    ratio = np.median(rough_sd / sd)
    print(f"ratio of the sds: {ratio:.2f}, by the rows {np.sqrt(args.rows / few):.2f}")


if __name__ == "__main__":
    main()
