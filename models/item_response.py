"""Item response: persons answer items, with abilities, difficulties and predictors of both.

The probability of a yes has the logit ``intercept + x @ slopes + person - item``, with persons and
items normal around zero: a Rasch model that says what abilities and difficulties depend on.

``python -m models.item_response --data DIR`` reads lme4's VerbAgg: 316 persons say of 24 situations
whether they would become verbally aggressive. Without a folder the answers are simulated.

References
----------
De Boeck & Wilson (2004), Explanatory Item Response Models: the data.
MixedModels.jl, documentation, Fitting generalized linear mixed models: maximum likelihood by
Laplace's approximation, of the same predictors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

import advi
from models.shared_data import codes, find_named_data, read
from models.side_by_side import Draws, Known, compare, draws_of, fits, options, print_effects

PREDICTORS = ("anger", "male", "scold", "shout", "self", "want")  # anger in tens of points
MAXIMUM_LIKELIHOOD: Known = {
    "intercept": (-0.153, 0.385),
    "anger": (0.574, 0.168),
    "male": (0.321, 0.191),
    "scold": (-1.060, 0.184),
    "shout": (-2.104, 0.187),
    "self": (-1.054, 0.151),
    "want": (0.707, 0.151),
    "person_sd": (1.339,),
    "item_sd": (0.342,),
}
SIMULATED: Known = {
    "intercept": (-0.2,), "anger": (0.6,), "male": (0.3,), "scold": (-1.0,), "shout": (-2.0,),
    "self": (-1.0,), "want": (0.7,), "person_sd": (1.3,), "item_sd": (0.4,),
}  # fmt: skip


class Answers(NamedTuple):
    """Answers and what is known of them."""

    source: str
    rows: dict[str, NDArray[Any]]  # y (N,) 0 or 1, x (N, 6), codes of person and item (N,)
    known: Known
    effects: dict[str, NDArray[np.float64]]  # of persons and items, if simulated


def simulate(persons: int = 200, items: int = 24, seed: int = 0) -> Answers:
    """Return answers of every person to every item."""
    rng = np.random.default_rng(seed)
    values = {name: known[0] for name, known in SIMULATED.items()}
    effects = {
        "person": values["person_sd"] * rng.standard_normal(persons),
        "item": values["item_sd"] * rng.standard_normal(items),
    }
    of_person = np.stack([rng.normal(2, 0.5, persons), rng.random(persons) < 0.25], 1)
    i = np.arange(items)  # the kinds of aggression, situations and modes in turns
    of_item = np.stack([i % 3 == 1, i % 3 == 2, i // 3 % 2 == 1, i // 6 % 2 == 1], 1)
    person, item = (axis.ravel() for axis in np.indices((persons, items), np.int32))
    x = np.concatenate([of_person[person], of_item[item]], 1)
    logits = values["intercept"] + x @ np.array([values[name] for name in PREDICTORS])
    logits += effects["person"][person] - effects["item"][item]
    rows = {
        "y": (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.int32),
        "x": x.astype(np.float32),
        "person": person,
        "item": item,
    }
    source = f"simulated, {len(logits):,} answers of {persons:,} persons to {items} items"
    return Answers(source, rows, SIMULATED, effects)


def verbal_aggression(root: Path) -> Answers:
    """Return VerbAgg's answers from the folder of shared data; perhaps counts as yes."""
    raw = read(root, "rdata/lme4_VerbAgg")
    person, persons = codes(raw["id"])
    item, items = codes(raw["item"])
    x = [
        raw["Anger"].astype(float) / 10,
        raw["Gender"] == "M",
        raw["btype"] == "scold",
        raw["btype"] == "shout",
        raw["situ"] == "self",
        raw["mode"] == "want",
    ]
    rows = {
        "y": (raw["r2"] == "Y").astype(np.int32),
        "x": np.stack(x, 1).astype(np.float32),
        "person": person.astype(np.int32),
        "item": item.astype(np.int32),
    }
    source = f"lme4, VerbAgg: {len(item):,} answers of {persons} persons to {items} items"
    return Answers(source, rows, MAXIMUM_LIKELIHOOD, {})


def log_joint(z: Any, d: Any) -> Array:
    """Return the log-joint density in nats."""
    logits = z["intercept"] + d["x"] @ z["slopes"]
    logits += z["person"][d["person"]] - z["item"][d["item"]]
    return (
        dist.Normal(0, 2).log_prob(z["intercept"])
        + dist.Normal(0, 2).log_prob(z["slopes"]).sum()
        + dist.HalfNormal(2).log_prob(z["person_sd"])
        + dist.HalfNormal(2).log_prob(z["item_sd"])
        + dist.Normal(0, z["person_sd"]).log_prob(z["person"]).sum()
        + dist.Normal(0, z["item_sd"]).log_prob(z["item"]).sum()
        + dist.BernoulliLogits(logits).log_prob(d["y"]).sum()
    )


def model(persons: int, items: int) -> advi.Model:
    """Return the model: intercept and slopes, two standard deviations, and the effects."""
    latents = {
        "intercept": advi.real(),
        "slopes": advi.real(len(PREDICTORS)),
        "person_sd": advi.positive(),
        "item_sd": advi.positive(),
        "person": advi.real(persons),
        "item": advi.real(items),
    }
    return advi.Model(log_joint, latents)


def figures(draws: Draws) -> Draws:
    """Return draws of the intercept, the slopes by name and the standard deviations, (n,) each."""
    slopes = {name: draws["slopes"][:, k] for k, name in enumerate(PREDICTORS)}
    return slopes | {name: draws[name] for name in ("intercept", "person_sd", "item_sd")}


def report(answers: Answers, family: str = "auto", nuts: int | None = None) -> dict[str, Draws]:
    """Fit the answers and print the figures beside the known ones; return the draws."""
    print(f"data: {answers.source}\n")
    sizes = (int(answers.rows[name].max()) + 1 for name in ("person", "item"))
    found = fits(model(*sizes), answers.rows, family, nuts)
    draws = {name: draws_of(fit) for name, fit in found.items()}
    label = "simulated" if answers.effects else "max. lik."
    compare({name: figures(d) for name, d in draws.items()}, answers.known, label)
    print_effects(draws["fit"], answers.effects)
    return draws


def main(argv: Sequence[str] | None = None) -> None:
    """Fit VerbAgg's answers or simulated ones; print the fit and the figures beside."""
    args = options(__doc__).parse_args(argv)
    root = find_named_data(args.data)
    report(simulate() if root is None else verbal_aggression(root), args.family, args.nuts)


if __name__ == "__main__":
    main()
