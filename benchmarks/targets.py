"""Posteriors that a Gaussian cannot fit, or only just, with means and sds known from elsewhere.

Funnel, banana and mixtures have their moments in closed form, eight schools by quadrature; those
of the others are in ``references.json``, made once by ``benchmarks.make_references``. Two need
data, which a checkout of posteriordb has.

References
----------
Neal (2003), Slice sampling, Annals of Statistics 31(3), section 8: the funnel.
Carvalho, Polson & Scott (2010), The horseshoe estimator for sparse signals, Biometrika 97(2).
Gelman & Hill (2007), Data Analysis Using Regression and Multilevel Models: chapter 12, radon.
"""

import json
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

import advi
from benchmarks.accuracy import Columns, Reference, read_references
from benchmarks.problem import Problem
from models import eight_schools
from models.posteriordb.definition import scalar_columns

FILE = Path(__file__).parent / "references.json"
SAMPLED = ("horseshoe", "radon", "irt_2pl")  # the references there
NUM_COEFFICIENTS = 30
PRIOR_MU, PRIOR_TAU = 5.0, 3.0
HIERARCHIES = ((4, 0.3), (8, 1.0), (8, 3.0), (20, 3.0))  # groups and noise


@dataclass(frozen=True)
class Target:
    """A problem with its answer.

    Attributes
    ----------
    name
        What it is called.
    model, data
        The model and its data.
    reference
        Means and sds of scalars, named as `columns` names them.
    columns
        From draws of the latents to draws of those scalars.
    options
        Further arguments of `advi.fit`, for fits by steps.
    """

    name: str
    model: advi.Model
    data: Any
    reference: Reference
    columns: Callable[[Any], Columns] = scalar_columns
    options: Mapping[str, Any] = field(default_factory=dict)


def funnel(dim: int) -> Target:
    """Return Neal's funnel: v ~ N(0, 3^2), and dim - 1 others x ~ N(0, exp(v))."""

    def log_joint(z: Any, _: Any) -> Array:
        scale = jnp.exp(z["v"] / 2)
        return dist.Normal(0, 3).log_prob(z["v"]) + dist.Normal(0, scale).log_prob(z["x"]).sum()

    model = advi.Model(log_joint, {"v": advi.real(), "x": advi.real(dim - 1)})
    # E exp(v) = exp(9 / 2) is the variance of x
    of_x = {f"x[{i + 1}]": (0.0, float(np.exp(9 / 4))) for i in range(dim - 1)}
    return Target(f"funnel({dim})", model, None, {"v": (0.0, 3.0), **of_x})


def banana(bend: float) -> Target:
    """Return x1 ~ N(0, 1) and x2 ~ N(bend (x1^2 - 1), 1)."""

    def log_joint(z: Any, _: Any) -> Array:
        x1, x2 = z["x"]
        return dist.Normal(0, 1).log_prob(x1) + dist.Normal(bend * (x1**2 - 1), 1).log_prob(x2)

    model = advi.Model(log_joint, {"x": advi.real(2)})
    sd = float(np.sqrt(1 + 2 * bend**2))  # the variance of x1^2 is 2
    return Target(f"banana({bend:g})", model, None, {"x[1]": (0.0, 1.0), "x[2]": (0.0, sd)})


def mixture(apart: float, symmetric: bool, dim: int = 4, weight: float = 0.6) -> Target:
    """Return two unit Gaussians, `apart` on the first axis.

    Parameters
    ----------
    apart
        Distance of the means in sds.
    symmetric
        Whether the means lie on both sides of zero, or the first is at zero.
    dim
        Number of latents.
    weight
        Weight of the first component.
    """
    first = np.array([-apart / 2, apart / 2] if symmetric else [0.0, apart])
    loc = np.zeros((2, dim))
    loc[:, 0] = first
    share = np.array([weight, 1 - weight])

    def log_joint(z: Any, d: Any) -> Array:
        parts = dist.Normal(d["loc"], 1).log_prob(z["x"]).sum(1) + jnp.log(d["share"])
        return jnp.logaddexp(parts[0], parts[1])

    mean = float(share @ first)
    sd = float(np.sqrt(1 + share @ (first - mean) ** 2))
    reference = {"x[1]": (mean, sd)} | {f"x[{i}]": (0.0, 1.0) for i in range(2, dim + 1)}
    model = advi.Model(log_joint, {"x": advi.real(dim)})
    name = f"mixture({apart:g}, {'about' if symmetric else 'from'} 0)"
    return Target(name, model, {"loc": loc, "share": share}, reference)


def eight_schools_centred() -> Target:
    """Return eight schools with the effects themselves as latents: a funnel, with data."""

    def log_joint(z: Any, d: Any) -> Array:
        scale = eight_schools.PRIOR_SCALE
        return (
            dist.Normal(0, scale).log_prob(z["mu"])
            + dist.HalfCauchy(scale).log_prob(z["tau"])
            + dist.Normal(z["mu"], z["tau"]).log_prob(z["theta"]).sum()
            + dist.Normal(z["theta"], d["sigma"]).log_prob(d["y"]).sum()
        )

    data = eight_schools.data()
    reference = _moments_of(eight_schools.exact(data), "theta")
    latents = {"mu": advi.real(), "tau": advi.positive(), "theta": advi.real(len(data["y"]))}
    return Target("eight_schools_centred", advi.Model(log_joint, latents), data, reference)


def hierarchy(groups: int, noise: float, seed: int, centred: bool) -> Target:
    """Return a one-way hierarchy with few or noisy data: Gaussian in part, and in part a funnel.

    Parameters
    ----------
    groups
        Number of groups, with one measurement each.
    noise
        Standard error of a measurement to the sd between groups.
    seed
        Of the simulated data.
    centred
        Whether the latents are the effects themselves or their standard scores.
    """

    def log_joint(z: Any, d: Any) -> Array:
        prior = dist.Normal(z["mu"], z["tau"]) if centred else dist.Normal(0, 1)
        effects = z["effect"] if centred else z["mu"] + z["tau"] * z["effect"]
        return (
            dist.Normal(0, PRIOR_MU).log_prob(z["mu"])
            + dist.HalfNormal(PRIOR_TAU).log_prob(z["tau"])
            + prior.log_prob(z["effect"]).sum()
            + dist.Normal(effects, d["error"]).log_prob(d["y"]).sum()
        )

    def columns(z: Any) -> Columns:
        found = {name: np.asarray(z[name], float) for name in ("mu", "tau")}
        effect = np.asarray(z["effect"], float)
        if not centred:
            effect = found["mu"][:, None] + found["tau"][:, None] * effect
        return found | {f"effect[{j + 1}]": effect[:, j] for j in range(groups)}

    rng = np.random.default_rng(seed)
    between = rng.uniform(0.5, 2)
    error = between * noise * rng.uniform(0.7, 1.4, groups)
    y = 1 + rng.standard_normal(groups) * np.hypot(between, error)
    latents = {"mu": advi.real(), "tau": advi.positive(), "effect": advi.real(groups)}
    name = f"hierarchy({groups}, {noise:g}, {'centred' if centred else 'scores'})"
    model = advi.Model(log_joint, latents)
    exact = eight_schools.exact(
        {"y": y, "sigma": error},
        mu_scale=PRIOR_MU,
        prior_of_tau=lambda tau: (
            np.sqrt(2 / np.pi) / PRIOR_TAU * np.exp(-0.5 * (tau / PRIOR_TAU) ** 2)
        ),
    )
    reference = _moments_of(exact, "effect")
    return Target(name, model, {"y": y, "error": error}, reference, columns)


def _moments_of(exact: eight_schools.Moments, effect: str) -> Reference:
    """Return the moments of mu, tau and the effects, by this name."""
    effects = enumerate(zip(exact.theta_mean, exact.theta_sd, strict=True), 1)
    return {"mu": exact.mu, "tau": exact.tau} | {
        f"{effect}[{j}]": (float(mean), float(sd)) for j, (mean, sd) in effects
    }


def horseshoe() -> Problem:
    """Return a regression of 60 rows on 30 predictors, four of which matter.

    Coefficients are noise * local * global; the half-Cauchy scales are latents in logs, as they
    have no variance themselves.
    """

    def log_half_cauchy(log_scale: Array) -> Array:
        return dist.HalfCauchy(1).log_prob(jnp.exp(log_scale)) + log_scale

    def log_joint(z: Any, d: Any) -> Array:
        beta = z["noise"] * jnp.exp(z["log_local"] + z["log_global"])
        return (
            dist.Normal(0, 1).log_prob(z["noise"]).sum()
            + log_half_cauchy(z["log_local"]).sum()
            + log_half_cauchy(z["log_global"])
            + dist.HalfNormal(2).log_prob(z["sigma"])
            + dist.Normal(d["x"] @ beta, z["sigma"]).log_prob(d["y"]).sum()
        )

    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, NUM_COEFFICIENTS))
    beta = np.zeros(NUM_COEFFICIENTS)
    beta[:4] = [3, -2, 1, 0.5]
    data = {"x": x, "y": x @ beta + rng.standard_normal(60)}
    latents = {
        "noise": advi.real(NUM_COEFFICIENTS),
        "log_local": advi.real(NUM_COEFFICIENTS),
        "log_global": advi.real(),
        "sigma": advi.positive(),
    }
    return Problem("horseshoe", advi.Model(log_joint, latents), data, "simulated, PCG64(0)")


def radon(root: Path) -> Problem:
    """Return the radon hierarchy of Minnesota: 919 houses, centred intercepts of 85 counties."""

    def log_joint(z: Any, d: Any) -> Array:
        of_county = z["alpha"][d["county"]]
        location = of_county + z["beta"][0] * d["uranium"] + z["beta"][1] * d["floor"]
        return (
            dist.Normal(0, 10).log_prob(z["mu_alpha"])
            + dist.HalfNormal(1).log_prob(z["sigma_alpha"])
            + dist.Normal(z["mu_alpha"], z["sigma_alpha"]).log_prob(z["alpha"]).sum()
            + dist.Normal(0, 10).log_prob(z["beta"]).sum()
            + dist.HalfNormal(1).log_prob(z["sigma_y"])
            + dist.Normal(location, z["sigma_y"]).log_prob(d["y"]).sum()
        )

    raw = read_data(root, "radon_mn")
    data = {
        "y": raw["log_radon"],
        "floor": raw["floor_measure"],
        "uranium": raw["log_uppm"],
        "county": raw["county_idx"].astype(int) - 1,
    }
    latents = {
        "mu_alpha": advi.real(),
        "sigma_alpha": advi.positive(),
        "alpha": advi.real(int(raw["J"])),
        "beta": advi.real(2),
        "sigma_y": advi.positive(),
    }
    return Problem("radon", advi.Model(log_joint, latents), data, "posteriordb's radon_mn")


def irt_2pl(root: Path) -> Problem:
    """Return the two-parameter logistic item response model: 20 items, 100 persons."""

    def log_joint(z: Any, d: Any) -> Array:
        logits = z["a"][:, None] * (z["theta"] - z["b"][:, None])
        return (
            dist.HalfCauchy(2).log_prob(z["sigma_theta"])
            + dist.Normal(0, z["sigma_theta"]).log_prob(z["theta"]).sum()
            + dist.HalfCauchy(2).log_prob(z["sigma_a"])
            + dist.LogNormal(0, z["sigma_a"]).log_prob(z["a"]).sum()
            + dist.Normal(0, 5).log_prob(z["mu_b"])
            + dist.HalfCauchy(2).log_prob(z["sigma_b"])
            + dist.Normal(z["mu_b"], z["sigma_b"]).log_prob(z["b"]).sum()
            + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
        )

    raw = read_data(root, "irt_2pl")
    items, persons = raw["y"].shape
    latents = {
        "sigma_theta": advi.positive(),
        "theta": advi.real(persons),
        "sigma_a": advi.positive(),
        "a": advi.positive(items),
        "mu_b": advi.real(),
        "sigma_b": advi.positive(),
        "b": advi.real(items),
    }
    return Problem(
        "irt_2pl", advi.Model(log_joint, latents), {"y": raw["y"]}, "posteriordb's irt_2pl"
    )


def known() -> list[Target]:
    """Return the targets whose moments are known exactly."""
    return [
        funnel(10),
        banana(1.0),
        *(mixture(apart, symmetric=False) for apart in (2.0, 3.0, 4.0, 6.0)),
        *(mixture(apart, symmetric=True) for apart in (3.0, 4.0, 6.0)),
        eight_schools_centred(),
        *(
            hierarchy(*of, seed=3, centred=centred)
            for of in HIERARCHIES
            for centred in (True, False)
        ),
    ]


def sampled(root: Path | None, names: Collection[str] = SAMPLED) -> list[Problem]:
    """Return the problems whose moments are from long runs, without those that lack data."""
    problems = [horseshoe()] if "horseshoe" in names else []
    for make in (radon, irt_2pl):
        if make.__name__ not in names:
            continue
        try:
            if root is None:
                raise FileNotFoundError("no checkout of posteriordb")
            problems.append(make(root))
        except FileNotFoundError as error:
            print(f"skipped: {make.__name__}, {error}")
    return problems


def synthetic(root: Path | None) -> list[Target]:
    """Return all targets that have a reference.

    Parameters
    ----------
    root
        The ``posterior_database`` folder of a checkout; without it, those that need data are
        left out, with a word on it.
    """
    kept = read_references(FILE)
    return known() + [Target(p.name, p.model, p.data, kept[p.name]) for p in sampled(root)]


def read_data(root: Path, name: str) -> dict[str, NDArray[np.float64]]:
    """Return a data set of posteriordb, every entry a float64 array.

    Raises
    ------
    FileNotFoundError
        If the checkout does not have it.
    """
    with zipfile.ZipFile(root / "data" / "data" / f"{name}.json.zip") as archive:
        raw = json.loads(archive.read(archive.namelist()[0]))
    return {key: np.asarray(value, np.float64) for key, value in raw.items()}
