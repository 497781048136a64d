"""Posteriors of angles whose moments on the circle are known: von Mises distributions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax import Array
from scipy.special import ive

import advi
from benchmarks.accuracy import Columns, Reference
from benchmarks.targets import Target

CONCENTRATIONS = (0.3, 1.0, 2.0, 5.0, 50.0)
NUM_EFFECTS, NUM_ROWS = 20, 30


def one(concentration: float) -> Target:
    """Return one angle, about a direction that lies next to where angles are cut."""

    def log_joint(z: Any, _: Any) -> Array:
        return dist.VonMises(3.0, concentration).log_prob(z["x"])

    reference = _moments("x", 3.0, concentration)
    model = advi.Model(log_joint, {"x": advi.circular()})
    return Target(f"angle({concentration:g})", model, None, reference, _columns)


def many() -> Target:
    """Return twenty independent angles."""
    loc = np.linspace(-3, 3, NUM_EFFECTS)

    def log_joint(z: Any, d: Any) -> Array:
        return dist.VonMises(d["loc"], 4.0).log_prob(z["x"]).sum()

    reference: Reference = {}
    for i, center in enumerate(loc, 1):
        reference = {**reference, **_moments(f"x[{i}]", float(center), 4.0)}
    model = advi.Model(log_joint, {"x": advi.circular(NUM_EFFECTS)})
    return Target(f"angles({NUM_EFFECTS})", model, {"loc": loc}, reference, _columns)


def observed() -> Target:
    """Return the direction of thirty observations, with a weak prior."""
    y = np.random.default_rng(0).vonmises(2.0, 5.0, NUM_ROWS)

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.VonMises(0.0, 0.1).log_prob(z["x"])
        return prior + dist.VonMises(z["x"], 5.0).log_prob(d["y"]).sum()

    total = 0.1 + 5 * np.exp(1j * y).sum()
    reference = _moments("x", float(np.angle(total)), float(abs(total)))
    model = advi.Model(log_joint, {"x": advi.circular()})
    return Target("direction", model, {"y": y}, reference, _columns)


def _columns(z: Any) -> Columns:
    x = np.asarray(z["x"], float)
    names = ["x"] if x.ndim == 1 else [f"x[{i}]" for i in range(1, x.shape[1] + 1)]
    columns = x.reshape(len(x), -1).T
    return {
        f"{kind} {name}": f(column)
        for name, column in zip(names, columns, strict=True)
        for kind, f in (("cos", np.cos), ("sin", np.sin))
    }


def _moments(name: str, loc: float, concentration: float) -> Reference:
    """Return mean and sd of cosine and sine of a von Mises variable."""
    first, second = (ive(k, concentration) / ive(0, concentration) for k in (1, 2))
    mean = first * np.array([np.cos(loc), np.sin(loc)])
    square = (1 + second * np.array([np.cos(2 * loc), -np.cos(2 * loc)])) / 2
    sd = np.sqrt(square - mean**2)
    return {
        f"{kind} {name}": (float(m), float(s))
        for kind, m, s in zip(("cos", "sin"), mean, sd, strict=True)
    }


def makers() -> dict[str, Callable[[], Target]]:
    """Return what makes each target, by name."""
    ones = {f"angle({k:g})": partial(one, k) for k in CONCENTRATIONS}
    return {**ones, f"angles({NUM_EFFECTS})": many, "direction": observed}
