"""Log densities without a posterior, or with one that no float32 number resolves.

Whatever a fit ends with is wrong: the right verdict is poor. Most are slips that newcomers make, a
loss returned for a log density, a sign, a prior left out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import advi

Density = Callable[[Any, Any], Any]

REAL = {"m": advi.real()}
SCALE = {"m": advi.real(), "s": advi.positive()}
SUM = {"a": advi.real(), "b": advi.real()}


def data() -> dict[str, np.ndarray]:
    """Return 50 rows of a regression on three predictors."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    return {"x": x, "y": 1 + x @ np.array([1.0, -0.5, 0.0]) + rng.standard_normal(50)}


def normal(x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    """Return the log density of normal variables, summed."""
    return dist.Normal(loc, scale).log_prob(x).sum()


def squares(z: Any, d: Any) -> Any:
    """Return half the sum of squares of a mean, a loss."""
    return 0.5 * ((d["y"] - z["m"]) ** 2).sum()


def least_squares(z: Any, d: Any) -> Any:
    """Return half the sum of squares of a regression, a loss."""
    return 0.5 * ((d["y"] - d["x"] @ z["w"]) ** 2).sum()


def cross_entropy(z: Any, d: Any) -> Any:
    """Return the cross-entropy of a logistic regression, a loss."""
    return jax.nn.softplus(-(2.0 * (d["y"] > 1) - 1) * (d["x"] @ z["w"])).sum()


# name: log density, latents
DENSITIES: dict[str, tuple[Density, Any]] = {
    "minus the log density": (lambda z, d: -normal(z["m"]) - normal(d["y"], z["m"]), REAL),
    "loss: squares": (squares, REAL),
    "loss: prior and squares": (lambda z, d: normal(z["m"], 0, 10) + squares(z, d), REAL),
    "loss: regression": (least_squares, {"w": advi.real(3)}),
    "loss: cross-entropy": (cross_entropy, {"w": advi.real(3)}),
    "loss: minus normal with a scale": (lambda z, d: -normal(d["y"], z["m"], z["s"]), SCALE),
    "sign of an exponential prior": (
        lambda z, d: normal(z["m"]) - dist.Exponential(1.0).log_prob(z["s"]),
        SCALE,
    ),
    "linear": (lambda z, d: z["m"], REAL),
    "quadratic": (lambda z, d: z["m"] ** 2, REAL),
    "cubic": (lambda z, d: z["m"] ** 3, REAL),
    "exponential": (lambda z, d: jnp.exp(z["m"]), REAL),
    "softplus": (lambda z, d: jax.nn.softplus(z["m"]), REAL),
    "logarithmic": (lambda z, d: jnp.log1p(z["m"] ** 2), REAL),
    "log sigmoid": (lambda z, d: jax.nn.log_sigmoid(z["m"]), REAL),
    "one latent linear, one proper": (lambda z, d: z["a"] + normal(z["b"]), SUM),
    "only a sum has a prior": (lambda z, d: normal(z["a"] + z["b"]), SUM),
    "only a difference from data": (lambda z, d: normal(d["y"], z["a"] + z["b"]), SUM),
    "scale without a prior": (lambda z, d: normal(z["m"]) + 0 * z["s"], SCALE),
    "scale that grows": (lambda z, d: normal(z["m"]) + z["s"], SCALE),
    "scale of one datum": (lambda z, d: normal(z["m"]) + normal(d["y"][0], z["m"], z["s"]), SCALE),
    "component with a free scale": (
        lambda z, d: (
            normal(z["m"])
            + jnp.logaddexp(
                dist.Normal(z["m"], z["s"]).log_prob(d["y"]), dist.Normal(0, 1).log_prob(d["y"])
            ).sum()
        ),
        SCALE,
    ),
    "separated classes": (lambda z, d: jax.nn.log_sigmoid(z["m"] * jnp.abs(d["y"])).sum(), REAL),
    "mean at 1e8": (lambda z, d: normal(z["m"], 1e8, 1.0), REAL),
    "mean at 1e7, sd .01": (lambda z, d: normal(z["m"], 1e7, 0.01), REAL),
}
