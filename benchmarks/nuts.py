"""Fresh process to answer beside NumPyro's NUTS, on hierarchies whose Gaussian is not good.

advi makes its default call, which goes on to a map and a correction where its verdict asks for it.
NUTS of NumPyro takes 1,000 draws of warm-up and 1,000 more, one chain, on the same log-joint as it
is written. Every time is the CPU and the wall clock of one new process, from import to a summary,
with the persistent compilation cache off. Errors are against the references of
`benchmarks.real_models`.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS

import advi
from benchmarks.accuracy import Errors, errors, read_references
from benchmarks.common import print_header, print_table, save
from benchmarks.make_references import program
from benchmarks.real_models import FILE, load
from models.posteriordb.definition import scalar_columns

ROOT = Path(__file__).parents[1]
WARMUP, DRAWS = 1000, 1000
# of 19 to 102 latents; in all but the last the default goes on beyond a Gaussian
NAMES = (
    "cbpp_centred", "cbpp_overdispersed", "bcg_centred", "coal_process", "tumors", "nile",
    "orings_process", "breast_cancer",
)  # fmt: skip


def by_advi(problem: Any) -> tuple[Any, str]:
    """Return draws of the default fit, and how it was made."""
    fit = advi.fit(problem.model, problem.data, progress=False)
    fit.summary()
    made = [line for line in repr(fit).splitlines() if line.startswith("made by ")]
    return fit.sample(20_000), f"{fit.verdict.level}: {(made or ['full_rank'])[0]}"


def by_nuts(problem: Any) -> tuple[Any, str]:
    """Return draws of one chain, and how many of them diverged."""
    as_written = dataclasses.replace(problem, sampled=None)
    kernel = NUTS(program(as_written))
    chain = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False)
    chain.run(jax.random.key(0), problem.data, extra_fields=("diverging",))
    return chain.get_samples(), f"{int(chain.get_extra_fields()['diverging'].sum())} divergent"


METHODS = {"advi": by_advi, "NUTS": by_nuts}


def work(name: str, method: str, data: str | None) -> dict[str, Any]:
    """Fit in this process; return the errors and a word on the result."""
    [problem] = load(data, [name])
    draws, word = METHODS[method](problem)
    names = list(problem.model.latents)
    columns = scalar_columns({n: np.asarray(draws[n], float) for n in names})
    reference = read_references(FILE)[name]
    found = errors({c: x for c, x in columns.items() if c in reference}, reference)
    return {"word": word, "errors": found._asdict()}


def run_fresh(name: str, method: str, data: str | None) -> dict[str, Any]:
    """Call `work` in a new process; return its result with its CPU and wall-clock seconds.

    Raises
    ------
    RuntimeError
        If it fails; the message ends with what it wrote to its standard error.
    """
    code = f"import json; from benchmarks import nuts; print(json.dumps(nuts.work({name!r}, "
    code += f"{method!r}, {data!r})))"
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{method} failed on {name}:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": wall, **json.loads(done.stdout.splitlines()[-1])}


def row(name: str, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return one model's line of the table."""
    cpu = {m: float(np.median([r["cpu"] for r in found[m]])) for m in METHODS}
    wall = {m: float(np.median([r["wall"] for r in found[m]])) for m in METHODS}
    level = {m: Errors(**found[m][0]["errors"]).level for m in METHODS}
    return [
        name,
        *(f"{cpu[m]:.1f}" for m in METHODS),
        f"{cpu['advi'] / cpu['NUTS']:.2f}",
        f"{wall['advi'] / wall['NUTS']:.2f}",
        *(level[m] for m in METHODS),
        *(found[m][0]["word"] for m in METHODS),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure in turns, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", metavar="DIR", help="shared data (default: $SHARED_DATA)")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each")
    parser.add_argument("--names", nargs="+", metavar="NAME", default=list(NAMES))
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header("Fresh process to answer, beside NUTS")
    found = {}
    for name in args.names:
        runs: dict[str, list[dict[str, Any]]] = {m: [] for m in METHODS}
        for repeat in range(args.repeats):
            for method in list(METHODS)[:: 1 if repeat % 2 == 0 else -1]:
                runs[method].append(run_fresh(name, method, args.data))
        found[name] = runs
    header = ["CPU seconds", *METHODS, "ratio", "of wall", "advi is", "NUTS is", "advi", "NUTS"]
    print_table(header, [row(name, runs) for name, runs in found.items()])

    def draw(axes: Any) -> None:
        places = np.arange(len(found))
        for k, method in enumerate(METHODS):
            heights = [float(np.median([r["cpu"] for r in f[method]])) for f in found.values()]
            axes.bar(places + 0.4 * k - 0.2, heights, 0.38, label=method)
        axes.set_xticks(places, list(found), rotation=15)
        axes.set(ylabel="CPU seconds", yscale="log", title="Fresh process to answer")
        axes.legend()

    save("nuts", {"found": found}, draw, args.out)


if __name__ == "__main__":
    main()
