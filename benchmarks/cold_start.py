"""Cold start: what a user waits for in a fresh process, from its start to a printed verdict.

Every timing is that of one new Python process, start of the interpreter and all compilation
included; JAX's persistent compilation cache is switched off, but for one row. A fit is compared
with a process that imports JAX, and compiles and evaluates the gradient of the same log density
once, which no fit can do without. The models are written in JAX alone. The default fit of eight
schools goes on from its Gaussian to a map, by 80,000 more gradients; at full rank it does not.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import medians, print_header, print_table, run_fresh, save, take_turns

SCHOOLS = """
import jax.numpy as jnp, numpy as np
from jax.scipy.stats import cauchy, norm
data = {
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}

def log_joint(z, d):
    prior = norm.logpdf(z["mu"], 0, 5) + cauchy.logpdf(z["tau"], 0, 5) + norm.logpdf(z["eta"]).sum()
    return prior + norm.logpdf(d["y"], z["mu"] + z["tau"] * z["eta"], d["sigma"]).sum()
"""

# the size of kidscore_momiq in posteriordb: 434 rows, an intercept, a slope and the noise sd
REGRESSION = """
import jax.numpy as jnp, numpy as np
from jax.scipy.stats import cauchy, norm
rng = np.random.default_rng(0)
x = rng.normal(100, 15, 434)
data = {"x": x, "y": 25 + 0.6 * x + rng.normal(0, 18, 434)}

def log_joint(z, d):
    location = z["beta"][0] + z["beta"][1] * d["x"]
    return cauchy.logpdf(z["sigma"], 0, 2.5) + norm.logpdf(d["y"], location, z["sigma"]).sum()
"""

SCHOOLS_GRADIENT = """
import jax

def log_density(u, d):
    return log_joint({"mu": u[0], "tau": jnp.exp(u[1]), "eta": u[2:]}, d) + u[1]

print(jax.device_get(jax.jit(jax.value_and_grad(log_density))(np.zeros(10, "float32"), data)))
"""
REGRESSION_GRADIENT = """
import jax

def log_density(u, d):
    return log_joint({"beta": u[:2], "sigma": jnp.exp(u[2])}, d) + u[2]

print(jax.device_get(jax.jit(jax.value_and_grad(log_density))(np.zeros(3, "float32"), data)))
"""

SCHOOLS_FIT = """
import advi
latents = {"mu": advi.real(), "tau": advi.positive(), "eta": advi.real(8)}
print(advi.fit(advi.Model(log_joint, latents), data, family="FAMILY").verdict)
"""
REGRESSION_FIT = """
import advi
latents = {"beta": advi.real(2), "sigma": advi.positive()}
print(advi.fit(advi.Model(log_joint, latents), data).verdict)
"""
CACHE = """
import jax
jax.config.update("jax_enable_compilation_cache", True)
jax.config.update("jax_compilation_cache_dir", "FOLDER")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
"""

FULL_RANK = SCHOOLS + SCHOOLS_FIT.replace("FAMILY", "full_rank")
PROGRAMS = {
    "import jax": "import jax",
    "import jax, numpyro, optax": "import jax, numpyro, optax",
    "import advi": "import advi",
    "regression, 434 rows: one gradient": REGRESSION + REGRESSION_GRADIENT,
    "regression: fit": REGRESSION + REGRESSION_FIT,
    "regression: fit, persistent cache": CACHE + REGRESSION + REGRESSION_FIT,
    "eight schools: one gradient": SCHOOLS + SCHOOLS_GRADIENT,
    "eight schools: fit, full rank": FULL_RANK,
    "eight schools: fit": SCHOOLS + SCHOOLS_FIT.replace("FAMILY", "auto"),
}
# a fit, and the process that it is compared with
COMPARED = {
    "regression: fit": "regression, 434 rows: one gradient",
    "regression: fit, persistent cache": "regression, 434 rows: one gradient",
    "eight schools: fit, full rank": "eight schools: one gradient",
    "eight schools: fit": "eight schools: one gradient",
}


def processor() -> float:
    """Return the processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(repeats: int, wall: bool) -> dict[str, list[float]]:
    """Return every program's seconds, one a fresh process."""
    # the call that take_turns makes first warms the file cache, and writes Python's bytecode
    with tempfile.TemporaryDirectory() as folder:
        programs = {name: code.replace("FOLDER", folder) for name, code in PROGRAMS.items()}
        tasks = {name: lambda code=code: run_fresh(code) for name, code in programs.items()}
        return take_turns(tasks, repeats, time.perf_counter if wall else processor)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=9, help="fresh processes a program")
    parser.add_argument(
        "--wall", action="store_true",
        help="the wall clock, in place of processor seconds, which other processes disturb less",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    clock = "wall-clock" if args.wall else "processor"
    print_header(f"From the start of a process to a verdict, {clock} seconds")
    seconds = measure(args.repeats, args.wall)
    median = medians(seconds)
    ratios = {
        name: median[name] / median[base] for name, base in COMPARED.items() if base in median
    }
    rows = [
        [
            name, f"{value:.2f}", f"{min(seconds[name]):.2f}", f"{max(seconds[name]):.2f}",
            f"{ratios[name]:.2f}" if name in ratios else "",
        ]
        for name, value in median.items()
    ]  # fmt: skip
    print_table(
        [f"{args.repeats} processes each", "median", "least", "most", "to one gradient"], rows
    )

    def draw(axes: Any) -> None:
        axes.boxplot(list(seconds.values()), orientation="horizontal")
        axes.set_yticks(range(1, 1 + len(seconds)), list(seconds))
        axes.set(xlabel=f"{clock} seconds", xlim=(0, None), title="Fresh process to verdict")

    result = {"clock": clock, "seconds": seconds, "median": median, "ratio": ratios}
    save("cold_start", result, draw, args.out)


if __name__ == "__main__":
    main()
