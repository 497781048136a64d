"""Fresh process to posterior summary, and refits, beside NumPyro's SVI on the same log-joint.

advi makes its default call, with and without the verdict. NumPyro runs `SVI` with
`AutoMultivariateNormal`, Adam at a rate of .01 and 10,000 steps, a usual choice, which is needed
since it has no default. Every cold time is the wall clock of one new process with the persistent
compilation cache off; refits are further calls in that process, with other keys. Errors are the
largest difference of a mean from the reference, in its sds, where there is a reference.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import advi
from benchmarks.accuracy import errors, moments, read_references
from benchmarks.common import print_header, print_table, save
from benchmarks.targets import FILE, Target, radon
from models.posteriordb import load
from models.posteriordb.checkout import VARIABLE, find_root

ROOT = Path(__file__).parents[1]
STEPS, RATE, DRAWS, REFITS = 10_000, 0.01, 2000, 7


def logistic(_: Path) -> Target:
    """Return a logistic regression on 25 correlated columns, 1,000 simulated rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 25)) @ (np.eye(25) + 0.2)
    y = rng.random(1000) < 1 / (1 + np.exp(-x @ rng.normal(0, 0.3, 25)))

    def log_joint(z: Any, d: Any) -> jax.Array:
        prior = dist.Normal(0, 2.5).log_prob(z["w"]).sum()
        return prior + dist.Bernoulli(logits=d["x"] @ z["w"]).log_prob(d["y"]).sum()

    model = advi.Model(log_joint, {"w": advi.real(25)})
    return Target("logistic", model, {"x": x, "y": y.astype(float)}, {})


def _radon(root: Path) -> Target:
    problem = radon(root)
    return Target("radon", problem.model, problem.data, read_references(FILE)["radon"])


def _posterior(name: str) -> Callable[[Path], Target]:
    def target(root: Path) -> Target:
        p = load(name, root)
        return Target(name, p.model, p.data, moments(p.reference), p.columns)

    return target


PROBLEMS: dict[str, Callable[[Path], Target]] = {
    "eight_schools": _posterior("eight_schools_noncentered"),
    "kidscore_interaction": _posterior("kidscore_interaction"),
    "logistic": logistic,
    "radon": _radon,
    "lotka_volterra": _posterior("lotka_volterra"),
}


def by_advi(target: Target, key: int, diagnose: bool) -> Any:
    """Return draws from advi's default fit."""
    fit = advi.fit(target.model, target.data, key=key, diagnose=diagnose, progress=False)
    fit.summary()
    return fit.sample(DRAWS)


def by_numpyro(target: Target, key: int) -> Any:
    """Return draws from NumPyro's fit of the same log-joint over the same supports."""
    latents = target.model.latents
    data = jax.tree.map(jnp.asarray, target.data)

    def model() -> None:
        values = {}
        for name, latent in latents.items():
            batch = len(latent.shape) - latent.support.event_dim
            flat = dist.ImproperUniform(latent.support, latent.shape[:batch], latent.shape[batch:])
            values[name] = numpyro.sample(name, flat.to_event(batch))
        value = target.model.log_joint(target.model.to_tree(values), data)
        numpyro.factor("log_joint", value.total() if isinstance(value, advi.Terms) else value)

    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, optax.adam(RATE), Trace_ELBO())
    result = svi.run(jax.random.key(key), STEPS, progress_bar=False)
    draws = guide.sample_posterior(jax.random.key(key + 1), result.params, sample_shape=(DRAWS,))
    return target.model.to_tree({name: draws[name] for name in latents})


METHODS: dict[str, Callable[[Target, int], Any]] = {
    "advi": lambda target, key: by_advi(target, key, diagnose=False),
    "advi, verdict": lambda target, key: by_advi(target, key, diagnose=True),
    "NumPyro": by_numpyro,
}


def work(problem: str, method: str, root: Path, refits: int) -> dict[str, Any]:
    """Fit in this process; return the error of the means, and the seconds of refits."""
    target = PROBLEMS[problem](root)
    columns = target.columns(METHODS[method](target, 0))
    seconds = []
    for key in range(1, 1 + refits):
        begin = time.perf_counter()
        METHODS[method](target, key)
        seconds.append(time.perf_counter() - begin)
    error = errors(columns, target.reference).shift if target.reference else None
    return {"error": error, "warm": seconds}


def run_fresh(problem: str, method: str, root: Path, refits: int = 0) -> tuple[float, Any]:
    """Call `work` in a new process; return the process's wall-clock seconds and the result.

    Raises
    ------
    RuntimeError
        If it fails; the message ends with what it wrote to its standard error.
    """
    code = "import json, sys, pathlib; from benchmarks import peers; " + (
        f"print(json.dumps(peers.work({problem!r}, {method!r}, pathlib.Path({str(root)!r}), "
        f"{refits})))"
    )
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{method} failed on {problem}:\n{done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def measure(problem: str, root: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Return each method's cold seconds, in turns, refit seconds and error."""
    found: dict[str, dict[str, Any]] = {m: {"cold": []} for m in METHODS}
    for repeat in range(repeats):
        for method in list(METHODS) if repeat % 2 == 0 else list(METHODS)[::-1]:
            seconds, result = run_fresh(problem, method, root)
            found[method]["cold"].append(seconds)
            found[method]["error"] = result["error"]
    for method in METHODS:
        refits = 2 if method == "NumPyro" else REFITS
        found[method]["warm"] = run_fresh(problem, method, root, refits)[1]["warm"]
    return found


def row(problem: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """Return one problem's line of the table."""
    cold = {m: float(np.median(found[m]["cold"])) for m in METHODS}
    warm = {m: float(np.median(found[m]["warm"])) for m in METHODS}
    error = {m: "" if (e := found[m]["error"]) is None else f"{e:.2f}" for m in METHODS}
    return [
        problem,
        *(f"{cold[m]:.2f}" for m in METHODS),
        f"{cold['advi'] / cold['NumPyro']:.2f}",
        *(f"{1000 * warm[m]:.0f}" for m in METHODS),
        error["advi"],
        error["NumPyro"],
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--posteriordb", metavar="DIR", help=f"a checkout (default: ${VARIABLE})")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each")
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)
    root = find_root(args.posteriordb)

    print_header("Fresh process to summary, and refits, beside NumPyro's SVI")
    found = {problem: measure(problem, root, args.repeats) for problem in args.only}
    header = ["cold seconds", *METHODS, "ratio", *(f"{m}, ms" for m in METHODS), "error", "NumPyro"]
    print_table(header, [row(problem, f) for problem, f in found.items()])
    print("ratio: advi without verdict to NumPyro; ms: a refit; error: of the means, in sds")

    def draw(axes: Any) -> None:
        places = np.arange(len(found))
        for k, method in enumerate(METHODS):
            heights = [float(np.median(f[method]["cold"])) for f in found.values()]
            axes.bar(places + 0.27 * (k - 1), heights, 0.25, label=method)
        axes.set_xticks(places, list(found), rotation=15)
        axes.set(ylabel="seconds", title="Fresh process to summary")
        axes.legend()

    save("peers", {"found": found}, draw, args.out)


if __name__ == "__main__":
    main()
