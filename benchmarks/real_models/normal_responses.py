"""Mixed models with normal responses: nested, crossed, with few groups and with many.

References
----------
Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS; Bates et al. (2015), lme4, JSS 67(1).
Belenky et al. (2003), Journal of Sleep Research 12: sleepstudy.
Davies & Goldsmith (1972), Statistical Methods in Research and Production: Pastes, Penicillin.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

import advi
from benchmarks.problem import Problem
from benchmarks.real_models.definition import grouped, normal
from models.shared_data import codes, keep, read


def sleepstudy(root: Path | None) -> Problem:
    """Reaction times, milliseconds: correlated intercepts and slopes of 18 subjects, centred."""

    def log_joint(z: Any, d: Any) -> Array:
        factor = z["sd"][:, None] * z["corr"]
        of_subject = z["coef"][d["subject"]]
        location = of_subject[:, 0] + of_subject[:, 1] * d["days"]
        return (
            normal(z["mean"], jnp.array([250.0, 0.0]), jnp.array([100.0, 20.0]))
            + dist.HalfNormal(jnp.array([50.0, 20.0])).log_prob(z["sd"]).sum()
            + dist.LKJCholesky(2, 2.0).log_prob(z["corr"])
            + dist.MultivariateNormal(z["mean"], scale_tril=factor).log_prob(z["coef"]).sum()
            + dist.HalfNormal(50).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    data = sleepstudy_data(root)
    latents = {
        "mean": advi.real(2),
        "sd": advi.positive(2),
        "corr": advi.corr_cholesky(2),
        "coef": advi.real(18, 2),
        "sigma": advi.positive(),
    }
    return Problem("sleepstudy", advi.Model(log_joint, latents), data, "lme4, sleepstudy")


def sleepstudy_data(root: Path | None) -> dict[str, Any]:
    """Return reaction times by day and subject."""
    raw = read(root, "rdata/lme4_sleepstudy")
    return {
        "y": raw["Reaction"].astype(float),
        "days": raw["Days"].astype(float),
        "subject": codes(raw["Subject"])[0],
    }


def pastes(root: Path | None) -> Problem:
    """Strength of a paste: three casks in each of ten batches, two assays a cask; scores."""
    return _pastes(root, "pastes", centred=False)


def pastes_centred(root: Path | None) -> Problem:
    """Return the same with the effects as latents."""
    return _pastes(root, "pastes_centred", centred=True)


def _pastes(root: Path | None, name: str, centred: bool) -> Problem:
    raw = read(root, "rdata/lme4_Pastes")
    batch, batches = codes(raw["batch"])
    cask, casks = codes(raw["sample"])

    def rest(z: Any, d: Any) -> Array:
        location = z["mu"] + z["batch"][d["batch"]] + z["cask"][d["cask"]]
        return (
            normal(z["mu"], 60, 10)
            + dist.Exponential(0.5).log_prob(z["sd"]).sum()
            + dist.Exponential(0.5).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    def spread(z: Any) -> Any:
        return {"batch": (0.0, z["sd"][0]), "cask": (0.0, z["sd"][1])}

    latents = {
        "mu": advi.real(),
        "sd": advi.positive(2),
        "sigma": advi.positive(),
        "batch": advi.real(batches),
        "cask": advi.real(casks),
    }
    data = {"y": raw["strength"].astype(float), "batch": batch, "cask": cask}
    return grouped(name, (rest, spread, latents), data, "lme4, Pastes", centred=centred)


def penicillin(root: Path | None) -> Problem:
    """Diameters of 24 plates crossed with six samples, half-Cauchy sds, centred."""
    raw = read(root, "rdata/lme4_Penicillin")
    plate, plates = codes(raw["plate"])
    sample, samples = codes(raw["sample"])

    def rest(z: Any, d: Any) -> Array:
        location = z["mu"] + z["plate"][d["plate"]] + z["sample"][d["sample"]]
        return (
            normal(z["mu"], 20, 10)
            + dist.HalfCauchy(2).log_prob(z["sd"]).sum()
            + dist.HalfCauchy(2).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    def spread(z: Any) -> Any:
        return {"plate": (0.0, z["sd"][0]), "sample": (0.0, z["sd"][1])}

    latents = {
        "mu": advi.real(),
        "sd": advi.positive(2),
        "sigma": advi.positive(),
        "plate": advi.real(plates),
        "sample": advi.real(samples),
    }
    data = {"y": raw["diameter"].astype(float), "plate": plate, "sample": sample}
    parts = (rest, spread, latents)
    return grouped("penicillin", parts, data, "lme4, Penicillin", centred=True, sample_centred=True)


def insteval(root: Path | None) -> Problem:
    """Ratings of lecturers by the first 20 students: 143 rows, 121 lecturers; scores."""
    raw = read(root, "rdata/lme4_InstEval")
    raw = keep(raw, raw["s"].astype(int) <= 20)
    student, students = codes(raw["s"])
    lecturer, lecturers = codes(raw["d"])

    def rest(z: Any, d: Any) -> Array:
        location = z["mu"] + z["beta"] * d["service"]
        location += z["student"][d["student"]] + z["lecturer"][d["lecturer"]]
        return (
            normal(z["mu"], 3, 2)
            + normal(z["beta"])
            + dist.HalfNormal(1).log_prob(z["sd"]).sum()
            + dist.HalfNormal(2).log_prob(z["sigma"])
            + normal(d["y"], location, z["sigma"])
        )

    def spread(z: Any) -> Any:
        return {"student": (0.0, z["sd"][0]), "lecturer": (0.0, z["sd"][1])}

    latents = {
        "mu": advi.real(),
        "beta": advi.real(),
        "sd": advi.positive(2),
        "sigma": advi.positive(),
        "student": advi.real(students),
        "lecturer": advi.real(lecturers),
    }
    data = {
        "y": raw["y"].astype(float),
        "service": raw["service"].astype(float),
        "student": student,
        "lecturer": lecturer,
    }
    source = "lme4, InstEval: students 1 to 20"
    return grouped("insteval", (rest, spread, latents), data, source, centred=False)


SHARED = (sleepstudy, pastes, pastes_centred, penicillin, insteval)
OWN = ()
