"""Make the references that have no closed form: means and sds by long runs of NumPyro's NUTS.

``python -m benchmarks.make_references`` writes ``references.json``, which the other benchmarks
read: figures only, and how they were made. The runs are in float64, with NumPyro's own transforms.
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
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

import advi
from benchmarks.accuracy import moments
from benchmarks.targets import FILE, Problem, sampled
from models.posteriordb.checkout import VARIABLE, find_root
from models.posteriordb.definition import scalar_columns

DIGITS = 6


def program(problem: Problem) -> Any:
    """Return the problem as a NumPyro program."""

    def sites(data: Any) -> None:
        z = {
            name: numpyro.sample(name, dist.ImproperUniform(v.support, (), event_shape=v.shape))
            for name, v in problem.model.latents.items()
        }
        value = problem.model.log_joint(z, data)
        total = value.total() if isinstance(value, advi.Terms) else value
        numpyro.factor("log_joint", total)

    return sites


def make(problem: Problem, chains: int, warmup: int, draws: int, accept: float) -> dict[str, Any]:
    """Run NUTS and return means and sds, with how far to trust them."""
    begin = time.perf_counter()
    kernel = NUTS(program(problem), target_accept_prob=accept)
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), problem.data)
    by_chain = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    rhat = {k: split_gelman_rubin(v) for k, v in by_chain.items()}
    ess = {k: effective_sample_size(v) for k, v in by_chain.items()}
    pooled = {name: by_chain[name].reshape(-1, *by_chain[name].shape[2:]) for name in by_chain}
    ordered = {name: pooled[name] for name in problem.model.latents}
    return {
        "data": problem.source,
        "sampler": f"NUTS of NumPyro {version('numpyro')}, float64, target acceptance {accept}",
        "chains": chains,
        "warmup": warmup,
        "draws_per_chain": draws,
        "divergences": int(np.sum(mcmc.get_extra_fields()["diverging"])),
        "largest_rhat": round(float(max(np.max(v) for v in rhat.values())), 4),
        "least_ess": round(float(min(np.min(v) for v in ess.values()))),
        "seconds": round(time.perf_counter() - begin),
        "of": {
            name: [float(f"{x:.{DIGITS}g}") for x in pair]
            for name, pair in moments(scalar_columns(ordered)).items()
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Make the references named on the command line, or all, and keep the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*")
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=5000, help="draws a chain")
    parser.add_argument("--accept", type=float, default=0.9, help="acceptance aimed at")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args(arguments)

    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    problems = sampled(find_root(args.posteriordb))
    with jax.enable_x64(True):
        for problem in problems:
            if args.names and problem.name not in args.names:
                continue
            made = make(problem, args.chains, args.warmup, args.draws, args.accept)
            kept[problem.name] = made
            print({k: v for k, v in made.items() if k != "of"}, flush=True)
            args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
