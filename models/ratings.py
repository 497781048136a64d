"""Crossed ratings: students rate lecturers, with effects of both.

``y_i ~ N(mu + student[s_i] + lecturer[d_i], noise^2)``: neither effect is nested in the other, so
the precision of the posterior is sparse, and yet no order of the latents makes it a band.

``python -m models.ratings --data DIR`` reads lme4's InstEval: 73,421 ratings, from 1 to 5, by 2,972
students of ETH Zurich of 1,128 lecturers. Without a folder the ratings are simulated.

References
----------
Bates, Maechler, Bolker & Walker (2015), Fitting Linear Mixed-Effects Models Using lme4, J.
Statistical Software 67(1): InstEval, and restricted maximum likelihood (REML).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

import advi
from models.shared_data import Columns, codes, find_named_data, read
from models.side_by_side import Draws, Known, compare, draws_of, fits, options, print_effects

REML: Known = {  # y ~ 1 + (1 | s) + (1 | d); no documentation gives its intercept
    "mu": (np.nan, 0.017),
    "student_sd": (0.325,),
    "lecturer_sd": (0.52,),
    "noise": (1.177,),
}
SIMULATED: Known = {
    "mu": (3.2,), "student_sd": (0.4,), "lecturer_sd": (0.5,), "noise": (1.0,),
}  # fmt: skip


class Ratings(NamedTuple):
    """Ratings and what is known of them."""

    source: str
    rows: dict[str, NDArray[Any]]  # y (N,), and the codes of student and lecturer (N,)
    known: Known
    effects: dict[str, NDArray[np.float64]]  # of students and lecturers, if simulated


def simulate(
    students: int = 300, lecturers: int = 100, ratings: int = 3000, seed: int = 0
) -> Ratings:
    """Return ratings of a random lecturer by a random student each."""
    rng = np.random.default_rng(seed)
    mu, student_sd, lecturer_sd, noise = (value[0] for value in SIMULATED.values())
    effects = {
        "student": student_sd * rng.standard_normal(students),
        "lecturer": lecturer_sd * rng.standard_normal(lecturers),
    }
    rows = {name: rng.integers(len(e), size=ratings, dtype=np.int32) for name, e in effects.items()}
    y = (
        mu
        + sum(e[rows[name]] for name, e in effects.items())
        + noise * rng.standard_normal(ratings)
    )
    source = f"simulated, {ratings:,} ratings by {students:,} students of {lecturers:,} lecturers"
    return Ratings(source, {"y": y.astype(np.float32), **rows}, SIMULATED, effects)


def coded(raw: Columns) -> tuple[dict[str, NDArray[Any]], int, int]:
    """Return InstEval's rows by the codes of both groupings, and the sizes of these."""
    student, students = codes(raw["s"])
    lecturer, lecturers = codes(raw["d"])
    rows = {
        "y": raw["y"].astype(np.float32),
        "student": student.astype(np.int32),
        "lecturer": lecturer.astype(np.int32),
    }
    return rows, students, lecturers


def inst_eval(root: Path) -> Ratings:
    """Return InstEval's ratings from the folder of shared data."""
    rows, students, lecturers = coded(read(root, "rdata/lme4_InstEval"))
    source = f"lme4, InstEval: {len(rows['y']):,} ratings by {students:,} students of "
    return Ratings(f"{source}{lecturers:,} lecturers", rows, REML, {})


def log_joint(z: Any, d: Any) -> Array:
    """Return the log-joint density in nats."""
    location = z["mu"] + z["student"][d["student"]] + z["lecturer"][d["lecturer"]]
    return (
        dist.Normal(3, 2).log_prob(z["mu"])
        + sum(dist.HalfNormal(1).log_prob(z[name]) for name in list(SIMULATED)[1:])
        + dist.Normal(0, z["student_sd"]).log_prob(z["student"]).sum()
        + dist.Normal(0, z["lecturer_sd"]).log_prob(z["lecturer"]).sum()
        + dist.Normal(location, z["noise"]).log_prob(d["y"]).sum()
    )


def model(students: int, lecturers: int) -> advi.Model:
    """Return the model: the level, three standard deviations, and the effects."""
    latents = {
        "mu": advi.real(),
        "student_sd": advi.positive(),
        "lecturer_sd": advi.positive(),
        "noise": advi.positive(),
        "student": advi.real(students),
        "lecturer": advi.real(lecturers),
    }
    return advi.Model(log_joint, latents)


def report(ratings: Ratings, family: str = "auto", nuts: int | None = None) -> dict[str, Draws]:
    """Fit the ratings and print the figures beside the known ones; return the draws."""
    print(f"data: {ratings.source}\n")
    sizes = (int(ratings.rows[name].max()) + 1 for name in ("student", "lecturer"))
    found = fits(model(*sizes), ratings.rows, family, nuts)
    draws = {name: draws_of(fit) for name, fit in found.items()}
    compare(draws, ratings.known, "simulated" if ratings.effects else "lme4 REML")
    print_effects(draws["fit"], ratings.effects)
    return draws


def main(argv: Sequence[str] | None = None) -> None:
    """Fit InstEval's ratings or simulated ones; print the fit and the figures beside."""
    args = options(__doc__).parse_args(argv)
    root = find_named_data(args.data)
    report(simulate() if root is None else inst_eval(root), args.family, args.nuts)


if __name__ == "__main__":
    main()
