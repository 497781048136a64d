"""Binary responses in groups: many groups, tiny groups, crossed groups.

References
----------
Steele, Diamond & Amin (1996), Applied Statistics 45: Contraception.
Rodriguez & Goldman (2001), JRSS A 164: guImmun.
Gelman & Hill (2007), Data Analysis Using Regression and Multilevel Models, chapter 14: polls.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models.definition import grouped, normal
from models.shared_data import codes, keep, read, scale


def contraception(root: Path | None) -> Problem:
    """Use of contraception: intercept and urban slope of 60 districts, 1,934 women; centred."""
    raw = read(root, "rdata/mlmRev_Contraception")
    district, districts = codes(raw["district"])
    age = scale(raw["age"].astype(float))
    children = np.stack([raw["livch"] == level for level in ("1", "2", "3+")], 1).astype(float)
    urban = (raw["urban"] == "Y").astype(float)

    def rest(z: Any, d: Any) -> Array:
        logits = z["district"][d["district"]] + z["slope"][d["district"]] * d["urban"]
        logits += d["x"] @ z["beta"]
        return (
            normal(z["mean"], 0, 2)
            + normal(z["beta"], 0, 2)
            + dist.HalfNormal(1).log_prob(z["sd"]).sum()
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"district": (z["mean"][0], z["sd"][0]), "slope": (z["mean"][1], z["sd"][1])}

    latents = {
        "mean": advi.real(2),
        "beta": advi.real(5),
        "sd": advi.positive(2),
        "district": advi.real(districts),
        "slope": advi.real(districts),
    }
    x = np.concatenate([np.stack([age, age**2], 1), children], 1)
    data = {"y": (raw["use"] == "Y").astype(int), "x": x, "urban": urban, "district": district}
    source = "mlmRev, Contraception"
    return grouped("contraception", (rest, spread, latents), data, source, centred=True)


def guimmun(root: Path | None) -> Problem:
    """Immunisation: children in families in the first 15 communities, tiny families; scores."""
    raw = read(root, "rdata/mlmRev_guImmun")
    raw = keep(raw, codes(raw["comm"])[0] < 15)
    family, families = codes(raw["mom"])
    community, communities = codes(raw["comm"])

    def rest(z: Any, d: Any) -> Array:
        logits = z["mu"] + z["beta"] * d["older"]
        logits += z["family"][d["family"]] + z["community"][d["community"]]
        return (
            normal(z["mu"], 0, 2)
            + normal(z["beta"], 0, 2)
            + dist.HalfCauchy(1).log_prob(z["sd"]).sum()
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"family": (0.0, z["sd"][0]), "community": (0.0, z["sd"][1])}

    latents = {
        "mu": advi.real(),
        "beta": advi.real(),
        "sd": advi.positive(2),
        "family": advi.real(families),
        "community": advi.real(communities),
    }
    data = {
        "y": (raw["immun"] == "Y").astype(int),
        "older": (raw["kid2p"] == "Y").astype(float),
        "family": family,
        "community": community,
    }
    source = "mlmRev, guImmun: the first 15 communities"
    return grouped("guimmun", (rest, spread, latents), data, source, centred=False)


def polls(root: Path | None) -> Problem:
    """Votes of 1988 in the last survey: crossed states, ages and educations; centred."""
    raw = read(root, "election88/polls")
    raw = keep(raw, (raw["survey"] == "8") & (raw["bush"] != "NA") & (raw["bush"] != ""))
    state, states = codes(raw["state"])
    x = np.stack([raw["female"], raw["black"]], 1).astype(float)

    def rest(z: Any, d: Any) -> Array:
        logits = z["mu"] + d["x"] @ z["beta"] + z["state"][d["state"]]
        logits += z["age"][d["age"]] + z["education"][d["education"]]
        return (
            normal(z["mu"], 0, 2)
            + normal(z["beta"], 0, 2)
            + dist.HalfNormal(1).log_prob(z["sd"]).sum()
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {name: (0.0, z["sd"][i]) for i, name in enumerate(("state", "age", "education"))}

    latents = {
        "mu": advi.real(),
        "beta": advi.real(2),
        "sd": advi.positive(3),
        "state": advi.real(states),
        "age": advi.real(4),
        "education": advi.real(4),
    }
    data = {
        "y": raw["bush"].astype(int),
        "x": x,
        "state": state,
        "age": raw["age"].astype(int) - 1,
        "education": raw["edu"].astype(int) - 1,
    }
    source = "CBS polls of 1988, survey 8"
    return grouped("polls", (rest, spread, latents), data, source, centred=True)


SHARED = (contraception, guimmun, polls)
OWN = ()
