"""Binomial counts in groups: tiny counts, few groups and many.

References
----------
Lesnoff et al. (2004), Preventive Veterinary Medicine 64: cbpp.
Efron & Morris (1975), JASA 70: bball1970. Gelman et al. (2013), BDA3, chapter 5: tumors.
Colditz et al. (1994), JAMA 271: trials of the BCG vaccine.
Bickel, Hammel & O'Connell (1975), Science 187: admissions at Berkeley.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models import tables
from benchmarks.real_models.definition import grouped, normal
from models.shared_data import codes, read


def cbpp(root: Path | None) -> Problem:
    """Cases of pleuropneumonia in 15 herds and four periods, tiny counts; scores."""
    return _cbpp(root, "cbpp", centred=False)


def cbpp_centred(root: Path | None) -> Problem:
    """Return the same with the herds' effects as latents."""
    return _cbpp(root, "cbpp_centred", centred=True)


def cbpp_overdispersed(root: Path | None) -> Problem:
    """Return the same with an effect for each of the 56 rows, too; scores."""
    return _cbpp(root, "cbpp_overdispersed", centred=False, of_rows=True)


def _cbpp(root: Path | None, name: str, centred: bool, of_rows: bool = False) -> Problem:
    raw = read(root, "rdata/lme4_cbpp")
    herd, herds = codes(raw["herd"])
    period, periods = codes(raw["period"])

    def rest(z: Any, d: Any) -> Array:
        logits = z["period"][d["period"]] + z["herd"][d["herd"]]
        logits += z["row"] if of_rows else 0.0
        return (
            normal(z["period"], 0, 2.5)
            + dist.Exponential(1).log_prob(z["sd"]).sum()
            + dist.Binomial(d["size"], logits=logits).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        found = {"herd": (0.0, z["sd"][0])}
        return found | ({"row": (0.0, z["sd"][1])} if of_rows else {})

    latents = {
        "period": advi.real(periods),
        "sd": advi.positive(2 if of_rows else 1),
        "herd": advi.real(herds),
    }
    latents |= {"row": advi.real(len(herd))} if of_rows else {}
    data = {
        "y": raw["incidence"].astype(int),
        "size": raw["size"].astype(int),
        "herd": herd,
        "period": period,
    }
    return grouped(name, (rest, spread, latents), data, "lme4, cbpp", centred=centred)


def bball1970(root: Path | None) -> Problem:
    """Batting averages of 18 players after 45 at bats, logits; scores."""
    raw = read(root, "rdata/rstanarm_bball1970")

    def rest(z: Any, d: Any) -> Array:
        return (
            normal(z["mu"], -1, 1)
            + dist.HalfNormal(1).log_prob(z["sd"])
            + dist.Binomial(d["at_bats"], logits=z["player"]).log_prob(d["y"]).sum()
        )

    def spread(z: Any) -> Any:
        return {"player": (z["mu"], z["sd"])}

    latents = {"mu": advi.real(), "sd": advi.positive(), "player": advi.real(18)}
    data = {"y": raw["Hits"].astype(int), "at_bats": raw["AB"].astype(int)}
    source = "rstanarm, bball1970"
    return grouped("bball1970", (rest, spread, latents), data, source, centred=False)


def tumors(root: Path | None) -> Problem:
    """Tumours in 71 groups of rats: beta priors of the groups' rates, mean and size unknown."""

    def log_joint(z: Any, d: Any) -> Array:
        a, b = z["mean"] * z["size"], (1 - z["mean"]) * z["size"]
        return (
            dist.LogNormal(2, 1).log_prob(z["size"])
            + dist.Beta(a, b).log_prob(z["rate"]).sum()
            + dist.Binomial(d["rats"], probs=z["rate"]).log_prob(d["y"]).sum()
        )

    data = _tumors(root)
    latents = {
        "mean": advi.unit_interval(),
        "size": advi.positive(),
        "rate": advi.unit_interval(len(data["y"])),
    }
    return Problem("tumors", advi.Model(log_joint, latents), data, "rstanarm, tumors")


def tumors_betabinomial(root: Path | None) -> Problem:
    """Return the same with the groups' rates integrated out."""

    def log_joint(z: Any, d: Any) -> Array:
        a, b = z["mean"] * z["size"], (1 - z["mean"]) * z["size"]
        counts = dist.BetaBinomial(a, b, d["rats"])
        return dist.LogNormal(2, 1).log_prob(z["size"]) + counts.log_prob(d["y"]).sum()

    latents = {"mean": advi.unit_interval(), "size": advi.positive()}
    return Problem(
        "tumors_betabinomial", advi.Model(log_joint, latents), _tumors(root), "rstanarm, tumors"
    )


def _tumors(root: Path | None) -> dict[str, Any]:
    raw = read(root, "rdata/rstanarm_tumors")
    return {"y": raw["y"].astype(int), "rats": raw["K"].astype(int)}


def bcg() -> Problem:
    """Meta-analysis of 13 trials: log odds of the unvaccinated, log odds ratios; scores."""
    return _bcg("bcg", centred=False)


def bcg_centred() -> Problem:
    """Return the same with the trials' effects as latents."""
    return _bcg("bcg_centred", centred=True)


def _bcg(name: str, centred: bool) -> Problem:
    table = np.array(tables.BCG)
    treated, control = table[:, :2], table[:, 2:4]

    def rest(z: Any, d: Any) -> Array:
        treated_logits = z["base"] + z["effect"] + z["beta"] * d["latitude"]
        return (
            normal(z["base"], -4, 2)
            + normal(z["mu"])
            + normal(z["beta"])
            + dist.HalfNormal(1).log_prob(z["sd"])
            + dist.Binomial(d["size"][0], logits=treated_logits).log_prob(d["y"][0]).sum()
            + dist.Binomial(d["size"][1], logits=z["base"]).log_prob(d["y"][1]).sum()
        )

    def spread(z: Any) -> Any:
        return {"effect": (z["mu"], z["sd"])}

    latents = {
        "base": advi.real(13),
        "mu": advi.real(),
        "beta": advi.real(),
        "sd": advi.positive(),
        "effect": advi.real(13),
    }
    data = {
        "y": np.stack([treated[:, 0], control[:, 0]]),
        "size": np.stack([treated.sum(1), control.sum(1)]),
        "latitude": (table[:, 4] - 33.5) / 14,
    }
    return grouped(name, (rest, spread, latents), data, "Colditz et al. (1994)", centred=centred)


def admissions() -> Problem:
    """Admissions to six departments: correlated intercepts and slopes of sex, centred."""

    def log_joint(z: Any, d: Any) -> Array:
        factor = z["sd"][:, None] * z["corr"]
        logits = z["coef"][:, :1] + z["coef"][:, 1:] * d["male"]
        return (
            normal(z["mean"], 0, jnp.array([1.5, 1.0]))
            + dist.Exponential(1).log_prob(z["sd"]).sum()
            + dist.LKJCholesky(2, 2.0).log_prob(z["corr"])
            + dist.MultivariateNormal(z["mean"], scale_tril=factor).log_prob(z["coef"]).sum()
            + dist.Binomial(d["applied"], logits=logits).log_prob(d["y"]).sum()
        )

    table = np.array(tables.ADMISSIONS)
    data = {"y": table[:, ::2], "applied": table[:, 1::2], "male": np.array([1.0, 0.0])}
    latents = {
        "mean": advi.real(2),
        "sd": advi.positive(2),
        "corr": advi.corr_cholesky(2),
        "coef": advi.real(6, 2),
    }
    return Problem(
        "admissions", advi.Model(log_joint, latents), data, "Bickel, Hammel & O'Connell (1975)"
    )


SHARED = (cbpp, cbpp_centred, cbpp_overdispersed, bball1970, tumors, tumors_betabinomial)
OWN = (bcg, bcg_centred, admissions)
