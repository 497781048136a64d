"""Multilevel regression and post-stratification: opinions in states from a national poll.

A logistic regression on sex, ethnicity, age, education, state and region, with normal effects of
the groups and the earlier vote as a predictor of the states, gives every kind of person a
probability. The estimate of a state weights them by how many of each kind the census counts there.

``python -m models.polls --data DIR`` reads the last CBS poll before the presidential election of
1988: support for Bush among 2,015 persons in 49 states. Without a folder, poll and census are
simulated.

References
----------
Gelman & Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models, section
14.1: model and estimates by lme4, whose earlier vote is adjusted for home states of candidates.
Chung et al. (2013), Psychometrika 78: Gamma priors of sds, which keep away from zero.
Park, Gelman & Bafumi (2004), Political Analysis 12.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray
from scipy.special import expit

import advi
from models.shared_data import find_named_data, keep, read
from models.side_by_side import (
    INTERVAL,
    Draws,
    Known,
    calibration,
    compare,
    draws_of,
    fits,
    options,
)

ABBREVIATIONS = (
    "AL AK AZ AR CA CO CT DE DC FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ "
    "NM NY NC ND OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY"
)
STATES = ABBREVIATIONS.split()
REGIONS = (  # Gelman & Hill's, with D.C. by itself
    "CT DE ME MD MA NH NJ NY PA RI VT WV",
    "IL IN IA KS MI MN MO NE ND OH SD WI",
    "AL AR FL GA KY LA MS NC OK SC TN TX VA",
    "AK AZ CA CO HI ID MT NV NM OR UT WA WY",
    "DC",
)
REGION_OF = np.array([next(k for k, r in enumerate(REGIONS) if s in r.split()) for s in STATES])
AGES = EDUCATIONS = 4
GROUPS = {
    "age": AGES, "education": EDUCATIONS, "both": AGES * EDUCATIONS, "state": len(STATES),
    "region": len(REGIONS),
}  # fmt: skip
COEFFICIENTS = ("female", "black", "female_black", "earlier")  # the last in tenths of the votes
LME4: Known = {
    "female": (-0.1, 0.1),
    "black": (-1.6, 0.3),
    "female_black": (-0.2, 0.4),
    "earlier": (0.7, 0.17),
    "state_sd": (0.2,),
    "region_sd": (0.2,),
}
SIMULATED: Known = {
    "female": (-0.1,), "black": (-1.6,), "female_black": (-0.2,), "earlier": (0.7,),
    "age_sd": (0.2,), "education_sd": (0.2,), "both_sd": (0.2,), "state_sd": (0.3,),
    "region_sd": (0.2,),
}  # fmt: skip
SHOWN = ("CA", "FL", "ME", "MS", "NY", "TX", "VT", "WY")

Rows = dict[str, NDArray[Any]]  # x (N, 4), and the codes of every group (N,)


class Polls(NamedTuple):
    """A poll, the census, and what is known of them."""

    source: str
    rows: Rows  # and y (N,) 0 or 1
    cells: Rows  # of the census, and their number of persons (C,)
    known: Known
    shares: NDArray[np.float64] | None  # of the states, (51,), if simulated


def columns(kinds: dict[str, NDArray[Any]], earlier: NDArray[np.float64]) -> Rows:
    """Return predictors and codes of kinds of persons.

    Parameters
    ----------
    kinds
        Female, black, age, education and state, (N,) each, from zero.
    earlier
        Shares of the earlier vote, (51,).
    """
    female, black = (kinds[name].astype(np.float32) for name in ("female", "black"))
    vote = 10 * (earlier - earlier.mean())[kinds["state"]]
    codes = {name: kinds[name].astype(np.int32) for name in ("age", "education", "state")}
    both = EDUCATIONS * codes["age"] + codes["education"]
    x = np.stack([female, black, female * black, vote.astype(np.float32)], 1)
    region = REGION_OF[kinds["state"]].astype(np.int32)
    return {"x": x, "both": both, "region": region, **codes}


def simulate(answers: int = 2000, seed: int = 0) -> Polls:
    """Return a poll of persons drawn from a simulated census."""
    rng = np.random.default_rng(seed)
    value = {name: known[0] for name, known in SIMULATED.items()}
    shape = (len(STATES), 2, 2, AGES, EDUCATIONS)
    names: list[str] = ["state", "female", "black", "age", "education"]
    kinds = {name: axis.ravel() for name, axis in zip(names, np.indices(shape), strict=True)}
    cells = columns(kinds, rng.normal(0.55, 0.08, len(STATES)))
    size = rng.lognormal(0, 1, len(STATES))[kinds["state"]] * rng.gamma(2, 1, len(kinds["state"]))
    cells["persons"] = size * np.where(kinds["black"], 0.1, 0.9)

    logits = 0.2 + cells["x"] @ np.array([value[name] for name in COEFFICIENTS])
    for name, levels in GROUPS.items():
        logits += (value[f"{name}_sd"] * rng.standard_normal(levels))[cells[name]]
    p = expit(logits)
    asked = rng.choice(len(p), answers, p=cells["persons"] / cells["persons"].sum())
    rows = {name: leaf[asked] for name, leaf in cells.items() if name != "persons"}
    rows["y"] = (rng.random(answers) < p[asked]).astype(np.int32)
    source = f"simulated, {answers:,} answers and a census of {len(p):,} kinds of persons"
    return Polls(source, rows, cells, SIMULATED, by_state(p[None], cells)[0])


def election88(root: Path) -> Polls:
    """Return the last poll of 1988 and the census from the folder of shared data."""
    poll = read(root, "election88/polls")
    poll = keep(poll, (poll["survey"] == "8") & np.isin(poll["bush"], ["0", "1"]))
    census = read(root, "election88/census88")
    earlier = read(root, "election88/presvote")["g76_84pr"].astype(float)

    def kinds(raw: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        coded = {name: raw[name].astype(int) for name in ("female", "black")}
        of_levels = {"age": "age", "education": "edu", "state": "state"}
        return coded | {name: raw[column].astype(int) - 1 for name, column in of_levels.items()}

    rows = {**columns(kinds(poll), earlier), "y": poll["bush"].astype(np.int32)}
    cells = {**columns(kinds(census), earlier), "persons": census["N"].astype(float)}
    asked = len(np.unique(rows["state"]))
    source = f"CBS poll of 1988, Gelman & Hill (2007): {len(rows['y']):,} answers in {asked} states"
    return Polls(source, rows, cells, LME4, None)


def log_joint(z: Any, d: Any) -> Array:
    """Return the log-joint density in nats, with the effects as scores in units of their sds."""
    logits = z["intercept"] + d["x"] @ z["slopes"]
    prior = (
        dist.Normal(0, 2).log_prob(z["intercept"]) + dist.Normal(0, 2).log_prob(z["slopes"]).sum()
    )
    for name in GROUPS:
        logits += z[f"{name}_sd"] * z[name][d[name]]
        prior += dist.Gamma(2, 5).log_prob(z[f"{name}_sd"])
        prior += dist.Normal(0, 1).log_prob(z[name]).sum()
    return prior + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()


def model() -> advi.Model:
    """Return the model: intercept and slopes, and scores and standard deviations of the groups."""
    latents = {"intercept": advi.real(), "slopes": advi.real(len(COEFFICIENTS))}
    latents |= {f"{name}_sd": advi.positive() for name in GROUPS}
    return advi.Model(log_joint, latents | {name: advi.real(n) for name, n in GROUPS.items()})


def support(draws: Draws, cells: Rows) -> NDArray[np.float64]:
    """Return draws of the probability of every kind of person, (n, C)."""
    logits = draws["intercept"][:, None] + draws["slopes"] @ cells["x"].T
    for name in GROUPS:
        logits += (draws[f"{name}_sd"][:, None] * draws[name])[:, cells[name]]
    return expit(logits)


def by_state(p: NDArray[np.float64], cells: Rows) -> NDArray[np.float64]:
    """Return the states' shares, (n, 51), from those of the kinds of persons, (n, C)."""
    weights = np.zeros((len(cells["state"]), len(STATES)))
    weights[np.arange(len(weights)), cells["state"]] = cells["persons"]
    return p @ (weights / weights.sum(0))


def figures(draws: Draws) -> Draws:
    """Return draws of the slopes by name and of the standard deviations, (n,) each."""
    slopes = {name: draws["slopes"][:, k] for k, name in enumerate(COEFFICIENTS)}
    return slopes | {f"{name}_sd": draws[f"{name}_sd"] for name in GROUPS}


def report(
    polls: Polls, family: str = "auto", nuts: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """Fit the poll and print the states' estimates; return draws of them, (n, 51)."""
    print(f"data: {polls.source}\n")
    found = fits(model(), polls.rows, family, nuts)
    draws = {name: draws_of(fit) for name, fit in found.items()}
    label = "lme4" if polls.shares is None else "simulated"
    compare({name: figures(d) for name, d in draws.items()}, polls.known, label)
    shares = {name: by_state(support(d, polls.cells), polls.cells) for name, d in draws.items()}

    fitted = "".join(f"{name:>9}{'5 %':>8}{'95 %':>8}" for name in shares)
    simulated = "" if polls.shares is None else f"{'simulated':>11}"
    print(f"\nshares in per cent\nstate{fitted}{'raw':>8}{'answers':>9}{simulated}")
    for state in SHOWN:
        k = STATES.index(state)
        answers = polls.rows["y"][polls.rows["state"] == k]
        cells = [
            f"{100 * s[:, k].mean():9.1f}"
            + "".join(f"{100 * q:8.1f}" for q in np.quantile(s[:, k], INTERVAL))
            for s in shares.values()
        ]
        cells.append(f"{100 * answers.mean():8.1f}" if len(answers) else f"{'-':>8}")
        cells.append(f"{len(answers):9d}")
        cells.append("" if polls.shares is None else f"{100 * polls.shares[k]:11.1f}")
        print(f"{state:<5}{''.join(cells)}")
    if polls.shares is not None:
        print(f"states: {calibration(shares['fit'], polls.shares)} of {len(STATES)}")
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    """Fit the poll of 1988 or a simulated one; print the fit and the states' estimates."""
    args = options(__doc__).parse_args(argv)
    root = find_named_data(args.data)
    report(simulate() if root is None else election88(root), args.family, args.nuts)


if __name__ == "__main__":
    main()
