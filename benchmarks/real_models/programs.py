"""Models as NumPyro programs, fitted through `advi.from_numpyro`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import advi
from benchmarks.problem import Problem
from benchmarks.real_models.counts import roaches_data
from benchmarks.real_models.normal_responses import sleepstudy_data
from models.shared_data import codes, keep, read, scale


def _latent(name: str, prior: dist.Distribution) -> Any:
    return numpyro.sample(name, prior)


def _model(name: str, program: Callable[..., None], data: Any, source: str) -> Problem:
    return Problem(name, advi.from_numpyro(program), data, source, sampled=program)


def sleepstudy_scores(root: Path | None) -> Problem:
    """Reaction times: correlated intercepts and slopes of 18 subjects, standard scores."""

    def program(y: Any, days: Any, subject: Any) -> None:
        mean = _latent("mean", dist.Normal(jnp.array([250.0, 0.0]), jnp.array([100.0, 20])))
        sd = _latent("sd", dist.HalfNormal(jnp.array([50.0, 20.0])))
        corr = _latent("corr", dist.LKJCholesky(2, 2.0))
        sigma = _latent("sigma", dist.HalfNormal(50))
        score = _latent("score", dist.Normal(0, 1).expand((18, 2)).to_event(2))
        coef = mean + score @ (sd[:, None] * corr).T
        location = coef[subject, 0] + coef[subject, 1] * days
        numpyro.sample("y", dist.Normal(location, sigma), obs=y)

    return _model("sleepstudy_scores", program, sleepstudy_data(root), "lme4, sleepstudy")


def exam(root: Path | None) -> Problem:
    """Exam marks: intercepts and slopes of the first 20 schools, 1,538 pupils; centred."""

    def program(y: Any, x: Any, girl: Any, school: Any) -> None:
        mean = _latent("mean", dist.Normal(0, 1).expand((2,)))
        beta = _latent("beta", dist.Normal(0, 1))
        sd = _latent("sd", dist.HalfNormal(1).expand((2,)))
        sigma = _latent("sigma", dist.HalfNormal(1))
        with numpyro.plate("schools", 20):
            intercept = _latent("intercept", dist.Normal(mean[0], sd[0]))
            slope = _latent("slope", dist.Normal(mean[1], sd[1]))
        location = intercept[school] + slope[school] * x + beta * girl
        numpyro.sample("y", dist.Normal(location, sigma), obs=y)

    raw = read(root, "rdata/mlmRev_Exam")
    raw = keep(raw, codes(raw["school"])[0] < 20)
    data = {
        "y": raw["normexam"].astype(float),
        "x": raw["standLRT"].astype(float),
        "girl": (raw["sex"] == "F").astype(float),
        "school": codes(raw["school"])[0],
    }
    return _model("exam", program, data, "mlmRev, Exam: the first 20 schools")


def kidiq_student(root: Path | None) -> Problem:
    """Scores of 434 children by their mothers': Student-t errors, degrees of freedom unknown."""

    def program(y: Any, x: Any) -> None:
        alpha = _latent("alpha", dist.Normal(90, 30))
        beta = _latent("beta", dist.Normal(0, 10).expand((x.shape[1],)).to_event(1))
        sigma = _latent("sigma", dist.HalfNormal(30))
        df = _latent("df", dist.Gamma(2, 0.1))
        with numpyro.plate("children", len(y)):
            numpyro.sample("y", dist.StudentT(df, alpha + x @ beta, sigma), obs=y)

    raw = {name: x.astype(float) for name, x in read(root, "rdata/rstanarm_kidiq").items()}
    x = scale(np.stack([raw["mom_hs"], raw["mom_iq"], raw["mom_age"]], 1))
    data = {"y": raw["kid_score"], "x": x}
    return _model("kidiq_student", program, data, "rstanarm, kidiq")


def roaches(root: Path | None) -> Problem:
    """Negative binomial counts of roaches."""

    def program(y: Any, x: Any, log_exposure: Any) -> None:
        beta = _latent("beta", dist.Normal(0, 3).expand((x.shape[1],)).to_event(1))
        size = _latent("size", dist.Exponential(1))
        rate = jnp.exp(log_exposure + x @ beta)
        numpyro.sample("y", dist.NegativeBinomial2(rate, size), obs=y)

    return _model("roaches", program, roaches_data(root), "rstanarm, roaches")


SHARED = (sleepstudy_scores, exam, kidiq_student, roaches)
OWN = ()
