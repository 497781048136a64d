"""Item responses: verbal aggression of the first persons (De Boeck & Wilson, 2004)."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models.definition import grouped, normal
from models.shared_data import codes, keep, read


def aggression_rasch(root: Path | None) -> Problem:
    """One parameter an item: 24 items, 60 persons; persons' abilities centred."""
    person, item, raw = _aggression(root, persons=60, items=24)

    def rest(z: Any, d: Any) -> Array:
        logits = z["person"][d["person"]] - z["item"][d["item"]]
        return (
            normal(z["item"], 0, 2)
            + dist.HalfNormal(2).log_prob(z["sd"])
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"person": (0.0, z["sd"])}

    latents = {"item": advi.real(24), "sd": advi.positive(), "person": advi.real(60)}
    data = {"y": (raw["r2"] == "Y").astype(int), "person": person, "item": item}
    source = "lme4, VerbAgg: the first 60 persons"
    return grouped("aggression_rasch", (rest, spread, latents), data, source, centred=True)


def aggression_2pl(root: Path | None) -> Problem:
    """Two parameters an item: 8 items, 100 persons."""
    person, item, raw = _aggression(root, persons=100, items=8)

    def log_joint(z: Any, d: Any) -> Array:
        slope = z["slope"][d["item"]]
        logits = slope * (z["person"][d["person"]] - z["item"][d["item"]])
        return (
            normal(z["person"])
            + normal(z["item"], 0, 2)
            + dist.LogNormal(0, 0.5).log_prob(z["slope"]).sum()
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    latents = {"item": advi.real(8), "slope": advi.positive(8), "person": advi.real(100)}
    data = {"y": (raw["r2"] == "Y").astype(int), "person": person, "item": item}
    source = "lme4, VerbAgg: the first 100 persons and 8 items"
    return Problem("aggression_2pl", advi.Model(log_joint, latents), data, source)


def aggression_ordinal(root: Path | None) -> Problem:
    """No, perhaps, yes: ordinal, with effects of 6 items and 50 persons as scores."""
    person, item, raw = _aggression(root, persons=50, items=6)

    def rest(z: Any, d: Any) -> Array:
        eta = z["person"][d["person"]] + jnp.pad(z["item"], (1, 0))[d["item"]]
        return (
            normal(z["cut"], 0, 2)
            + normal(z["item"], 0, 2)
            + dist.HalfCauchy(1).log_prob(z["sd"])
            + dist.OrderedLogistic(eta, z["cut"]).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"person": (0.0, z["sd"])}

    latents = {
        "cut": advi.ordered(2),
        "item": advi.real(5),
        "sd": advi.positive(),
        "person": advi.real(50),
    }
    y = np.searchsorted(["no", "perhaps", "yes"], raw["resp"])
    data = {"y": y, "person": person, "item": item}
    source = "lme4, VerbAgg: the first 50 persons and 6 items"
    return grouped("aggression_ordinal", (rest, spread, latents), data, source, centred=False)


def _aggression(root: Path | None, persons: int, items: int) -> tuple[Any, Any, Any]:
    raw = read(root, "rdata/lme4_VerbAgg")
    raw = keep(raw, (codes(raw["id"])[0] < persons) & (codes(raw["item"])[0] < items))
    return codes(raw["id"])[0], codes(raw["item"])[0], raw


SHARED = (aggression_rasch, aggression_2pl, aggression_ordinal)
OWN = ()
