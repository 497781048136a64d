"""Make the references that have no closed form: means and sds by long runs of NumPyro's NUTS.

``python -m benchmarks.make_references`` writes ``references.json``, of `benchmarks.targets`, and
``real_models.json``, of `benchmarks.real_models`, which the other benchmarks read: figures only,
and how they were made. The runs are in float64, with NumPyro's own transforms. A run that fails its
own checks is not kept.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import NDArray
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_uniform

import advi
from benchmarks import real_models, targets
from benchmarks.accuracy import moments
from benchmarks.problem import Problem
from models import shared_data
from models.posteriordb.checkout import VARIABLE, find_root
from models.posteriordb.definition import scalar_columns

NAMES = (*targets.SAMPLED, *real_models.NAMES)
DIGITS = 6
START = 1  # chains start within this of zero on every real coordinate
LARGEST_RHAT = 1.01
LEAST_ESS = 1000
LARGEST_ERROR_OF_SD = 0.05  # Monte Carlo standard error, as a share of the sd
MOST_DIVERGENCES = 0.001  # of all draws


def program(problem: Problem) -> Any:
    """Return what NUTS samples as a NumPyro program of the data."""
    sampled = problem.sampled or problem.model
    if not isinstance(sampled, advi.Model):
        return lambda data: sampled(**data)

    def sites(data: Any) -> None:
        z = {
            name: numpyro.sample(name, dist.ImproperUniform(v.support, (), event_shape=v.shape))
            for name, v in sampled.latents.items()
        }
        value = sampled.log_joint(z, data)
        total = value.total() if isinstance(value, advi.Terms) else value
        numpyro.factor("log_joint", total)

    return sites


def make(problem: Problem, chains: int, warmup: int, draws: int, accept: float) -> dict[str, Any]:
    """Run NUTS and return means and sds, with how far to trust them."""
    begin = time.perf_counter()
    start = init_to_uniform(radius=START)
    mcmc = MCMC(
        NUTS(program(problem), target_accept_prob=accept, init_strategy=start),
        num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method="vectorized", progress_bar=False,  # compiles once
    )  # fmt: skip
    mcmc.run(jax.random.key(0), problem.data)
    pooled = problem.latents(mcmc.get_samples())
    names = problem.model.latents if isinstance(problem.model, advi.Model) else pooled
    scalars = scalar_columns({name: np.asarray(pooled[name]) for name in names})
    columns = {
        name: x.reshape(chains, draws)
        for name, x in scalars.items()
        if np.ptp(x) > 0  # the corners of a Cholesky factor are constants
    }
    return {
        "data": problem.source,
        "sampler": f"NUTS of NumPyro {version('numpyro')}, float64, target acceptance {accept}",
        "chains": chains,
        "warmup": warmup,
        "draws_per_chain": draws,
        "divergences": int(np.sum(mcmc.get_extra_fields()["diverging"])),
        "largest_rhat": round(max(float(split_gelman_rubin(x)) for x in columns.values()), 4),
        "least_ess": round(min(float(effective_sample_size(x)) for x in columns.values())),
        "largest_error_of_sd": round(max(map(error_of_sd, columns.values())), 4),
        "seconds": round(time.perf_counter() - begin),
        "of": {
            name: [float(f"{x:.{DIGITS}g}") for x in of] for name, of in moments(columns).items()
        },
    }


def error_of_sd(draws: NDArray[Any]) -> float:
    """Return the Monte Carlo standard error of the sd of draws (chains, n), as a share of it."""
    squares = (draws - draws.mean()) ** 2
    ess = float(effective_sample_size(squares))
    return float(squares.std() / np.sqrt(ess) / (2 * squares.mean()))


def faults(made: dict[str, Any], divergences: float = MOST_DIVERGENCES) -> list[str]:
    """Return what is wrong with a reference, in words.

    Parameters
    ----------
    made
        What `make` returned; runs of older versions lack the error of an sd.
    divergences
        The largest share of draws that may diverge.
    """
    draws = made["chains"] * made["draws_per_chain"]
    error = made.get("largest_error_of_sd", 0.0)
    checks = {
        f"R-hat {made['largest_rhat']}": made["largest_rhat"] < LARGEST_RHAT,
        f"effective sample size {made['least_ess']}": made["least_ess"] > LEAST_ESS,
        f"error of an sd {error}": error < LARGEST_ERROR_OF_SD,
        f"{made['divergences']} divergences": made["divergences"] <= divergences * draws,
    }
    return [words for words, passed in checks.items() if not passed]


def load(args: argparse.Namespace) -> dict[Path, list[Problem]]:
    """Return the problems asked for by the file of their references, without those lacking data."""
    names = args.names or NAMES
    try:
        root = find_root(args.posteriordb)
    except FileNotFoundError:
        root = None  # those that need it are left out, with a word on it
    return {
        targets.FILE: targets.sampled(root, [n for n in names if n in targets.SAMPLED]),
        real_models.FILE: real_models.load(args.data, [n for n in names if n in real_models.NAMES]),
    }


def main(arguments: list[str] | None = None) -> None:
    """Make the references named on the command line, or all, and keep the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*")
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    parser.add_argument("--data", metavar="DIR", help=f"default: ${shared_data.VARIABLE}")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=2000, help="draws a chain")
    parser.add_argument("--accept", type=float, default=0.95, help="acceptance aimed at")
    parser.add_argument(
        "--divergences", type=float, default=MOST_DIVERGENCES, help="share of draws that may"
    )
    parser.add_argument("--out", type=Path, help="folder for the files")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.names if name not in NAMES]:
        parser.error(f"unknown problem {unknown[0]!r}; expected some of {', '.join(NAMES)}")

    with jax.enable_x64(True):
        for default, problems in load(args).items():
            file = args.out / default.name if args.out else default
            for problem in problems:
                made = make(problem, args.chains, args.warmup, args.draws, args.accept)
                shown = {k: v for k, v in made.items() if k not in ("of", "data", "sampler")}
                print(problem.name, shown)
                if wrong := faults(made, args.divergences):
                    print(f"  not kept: {', '.join(wrong)}", flush=True)
                    continue
                kept = json.loads(file.read_text()) if file.exists() else {}
                kept[problem.name] = made
                file.write_text(json.dumps(kept, indent=1) + "\n")
                print("  kept", flush=True)


if __name__ == "__main__":
    main()
