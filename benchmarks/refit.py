"""Refits: what a second fit of one shape costs, in several trees of the code that take turns.

``python -m benchmarks.refit OLD NEW`` compares two checkouts; one alone is timed by itself. CPU
seconds of this process's children, each pinned to one core, since threads that wait burn time too.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.common import print_header, print_table

PROGRAM = """
import os, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {CORE})
import numpy as np, numpyro, numpyro.distributions as dist
import advi

rng = np.random.default_rng(0)
group = np.repeat(np.arange(20), 12)
floor = rng.integers(0, 2, 240).astype(float)
radon = {"g": group, "x": floor, "y": 1 + rng.normal(0, .4, 20)[group] - .6 * floor
         + rng.normal(0, .7, 240)}
schools = {"y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
           "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18])}

def of_schools(z, d):
    theta = z["mu"] + z["tau"] * z["eta"]
    return (dist.Normal(0, 5).log_prob(z["mu"]) + dist.HalfCauchy(5).log_prob(z["tau"])
            + dist.Normal(0, 1).log_prob(z["eta"]).sum()
            + dist.Normal(theta, d["sigma"]).log_prob(d["y"]).sum())

def of_radon(z, d):
    mean = z["a"][d["g"]] + z["b"] * d["x"]
    return (dist.Normal(0, 5).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["tau"])
            + dist.Normal(0, 5).log_prob(z["b"]) + dist.HalfNormal(1).log_prob(z["s"])
            + dist.Normal(z["mu"], z["tau"]).log_prob(z["a"]).sum()
            + dist.Normal(mean, z["s"]).log_prob(d["y"]).sum())

def numpyro_schools(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        eta = numpyro.sample("eta", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

of_group = {"mu": advi.real(), "tau": advi.positive(), "b": advi.real(), "s": advi.positive(),
            "a": advi.real(20)}
tasks = {
    "eight schools": (advi.Model(of_schools, {"mu": advi.real(), "tau": advi.positive(),
                                              "eta": advi.real(8)}), schools),
    "radon, 20 groups": (advi.Model(of_radon, of_group), radon),
    "eight schools, NumPyro": (advi.from_numpyro(numpyro_schools), schools),
}
for name, (model, data) in tasks.items():
    if name not in (ONLY or tasks):
        continue
    for diagnose in (True, False):
        advi.fit(model, data, diagnose=diagnose)
        spent = []
        for _ in range(REPEATS):
            begin = time.process_time()
            advi.fit(model, data, diagnose=diagnose)
            spent.append(time.process_time() - begin)
        print(name + (", with verdict" if diagnose else ""), np.median(spent), sep=":")
"""


def refits(tree: Path, core: int, repeats: int, only: list[str]) -> dict[str, float]:
    """Return CPU seconds of a refit of every model by the code in a tree, in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    program = PROGRAM
    for word, value in {"CORE": core, "REPEATS": repeats, "ONLY": only}.items():
        program = program.replace(word, repr(value))
    out = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tree, check=True, capture_output=True
    )
    lines = (line.rsplit(":", 1) for line in out.stdout.decode().splitlines())
    return {name: float(seconds) for name, seconds in lines}


def main(argv: list[str] | None = None) -> None:
    """Print CPU seconds of refits, and their ratio to those of the first tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10, help="refits in one process")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    options = parser.parse_args(argv)
    print_header("CPU seconds of a refit, medians over processes")
    found: list[list[dict[str, float]]] = [[] for _ in options.trees]
    for number in range(options.rounds):
        order = range(len(options.trees))
        for i in order if number % 2 == 0 else reversed(order):
            found[i].append(
                refits(options.trees[i].resolve(), options.core, options.repeats, options.only)
            )
    rows = []
    for name in found[0][0]:
        medians = [float(np.median([run[name] for run in runs])) for runs in found]
        ratios = [f"{m / medians[0]:.2f}" for m in medians[1:]]
        rows.append([name, *(f"{m:.4f}" for m in medians), *ratios])
    header = ["refit", *(f"{tree.name}, s" for tree in options.trees)]
    print_table([*header, *("ratio" for _ in options.trees[1:])], rows)


if __name__ == "__main__":
    main()
