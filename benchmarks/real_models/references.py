"""Make the references: means and sds of all scalars, by long runs of NUTS in float64.

``python -m benchmarks.real_models.references`` writes ``benchmarks/real_models.json``. A run
that fails its own checks is not kept. Effects of groups are sampled in the coordinates that suit
NUTS (`RealModel.sampled`), and turned into the model's latents before anything is computed.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_uniform

import advi
from benchmarks.accuracy import Reference
from benchmarks.make_references import DIGITS, program
from benchmarks.real_models import FILE, load
from benchmarks.real_models.definition import RealModel
from benchmarks.real_models.shared_data import VARIABLE
from benchmarks.targets import Problem
from models.posteriordb.definition import scalar_columns

START = 1  # chains start within this of zero on every real coordinate
LARGEST_RHAT = 1.01
LEAST_ESS = 1000
LARGEST_ERROR_OF_SD = 0.05  # Monte Carlo standard error, as a share of the sd
MOST_DIVERGENCES = 0.001  # of all draws


def make(m: RealModel, chains: int, warmup: int, draws: int, accept: float) -> dict[str, Any]:
    """Run NUTS and return means and sds, with how far to trust them."""
    begin = time.perf_counter()
    mcmc = MCMC(
        NUTS(
            _program(m),
            target_accept_prob=accept,
            init_strategy=init_to_uniform(radius=START),
        ),
        num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method="vectorized", progress_bar=False,  # compiles once
    )  # fmt: skip
    mcmc.run(jax.random.key(0), m.data)
    pooled = m.latents(mcmc.get_samples())
    names = list(m.model.latents) if isinstance(m.model, advi.Model) else list(pooled)
    columns = {
        name: x.reshape(chains, draws)
        for name, x in scalar_columns({k: np.asarray(pooled[k], float) for k in names}).items()
        if np.ptp(x) > 0  # the corners of a Cholesky factor are constants
    }
    return {
        "data": m.source,
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
            name: [float(f"{v:.{DIGITS}g}") for v in (x.mean(), x.std())]
            for name, x in columns.items()
        },
    }


def error_of_sd(draws: NDArray[Any]) -> float:
    """Return the Monte Carlo standard error of the sd of draws (chains, n), as a share of it."""
    squares = (draws - draws.mean()) ** 2
    ess = float(effective_sample_size(squares))
    return float(squares.std() / np.sqrt(ess) / (2 * squares.mean()))


def faults(made: dict[str, Any]) -> list[str]:
    """Return what is wrong with a reference, in words."""
    draws = made["chains"] * made["draws_per_chain"]
    checks = {
        f"R-hat {made['largest_rhat']}": made["largest_rhat"] < LARGEST_RHAT,
        f"effective sample size {made['least_ess']}": made["least_ess"] > LEAST_ESS,
        f"error of an sd {made['largest_error_of_sd']}": made["largest_error_of_sd"]
        < LARGEST_ERROR_OF_SD,
        f"{made['divergences']} divergences": made["divergences"] <= MOST_DIVERGENCES * draws,
    }
    return [words for words, passed in checks.items() if not passed]


def read_references() -> dict[str, Reference]:
    """Return every model's means and sds."""
    kept = json.loads(FILE.read_text())
    return {
        name: {k: (mean, sd) for k, (mean, sd) in made["of"].items()} for name, made in kept.items()
    }


def _program(m: RealModel) -> Any:
    sampled = m.sampled or m.model
    if isinstance(sampled, advi.Model):
        return program(Problem(m.name, sampled, m.data))
    return lambda data: sampled(**data)


def main(arguments: list[str] | None = None) -> None:
    """Make the references named on the command line, or all, and keep the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*")
    parser.add_argument("--data", metavar="DIR", help=f"shared data (default: ${VARIABLE})")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=2000, help="draws a chain")
    parser.add_argument("--accept", type=float, default=0.95, help="acceptance aimed at")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args(arguments)

    with jax.enable_x64(True):
        for m in load(args.data, args.names):
            made = make(m, args.chains, args.warmup, args.draws, args.accept)
            wrong = faults(made)
            print(m.name, {k: v for k, v in made.items() if k not in ("of", "data", "sampler")})
            if wrong:
                print(f"  not kept: {', '.join(wrong)}", flush=True)
                continue
            kept = json.loads(args.out.read_text()) if args.out.exists() else {}
            kept[m.name] = made
            args.out.write_text(json.dumps(kept, indent=1) + "\n")
            print("  kept", flush=True)


if __name__ == "__main__":
    main()
