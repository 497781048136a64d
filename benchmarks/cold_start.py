"""Cold start: what a user waits for in a fresh process, from import to a printed summary.

Every timing is the wall clock of one new Python process, start of the interpreter and all
compilation included; JAX's persistent compilation cache is switched off. The imports of JAX alone
and of JAX with NumPyro, on which advi is built, show what could not be shorter.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import medians, print_header, print_table, run_fresh, save, take_turns

EIGHT_SCHOOLS = """
import advi
from models import eight_schools
print(advi.fit(eight_schools.model(), eight_schools.data()).summary())
"""

# the size of kidscore_momiq in posteriordb: 434 rows, an intercept, a slope and the noise sd
REGRESSION = """
import advi, numpy as np, numpyro.distributions as dist
rng = np.random.default_rng(0)
x = rng.normal(100, 15, 434)
data = {"x": x, "y": 25 + 0.6 * x + rng.normal(0, 18, 434)}

def log_joint(z, d):
    prior = dist.HalfCauchy(2.5).log_prob(z["sigma"])
    location = z["beta"][0] + z["beta"][1] * d["x"]
    return prior + dist.Normal(location, z["sigma"]).log_prob(d["y"]).sum()

model = advi.Model(log_joint, {"beta": advi.real(2), "sigma": advi.positive()})
print(advi.fit(model, data).summary())
"""

PROGRAMS = {
    "import jax": "import jax",
    "import jax, numpyro": "import jax, numpyro",
    "import advi": "import advi",
    "eight schools: import, fit, summary": EIGHT_SCHOOLS,
    "regression, 434 rows: import, fit, summary": REGRESSION,
}


def measure(repeats: int) -> dict[str, list[float]]:
    """Return every program's wall-clock seconds, one a fresh process."""
    # the call that take_turns makes first warms the file cache, and writes Python's bytecode
    return take_turns({k: lambda c=c: run_fresh(c) for k, c in PROGRAMS.items()}, repeats)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=7, help="fresh processes a program")
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header("From a fresh process to a summary, wall-clock seconds")
    seconds = measure(args.repeats)
    rows = [
        [name, f"{value:.2f}", f"{min(seconds[name]):.2f}", f"{max(seconds[name]):.2f}"]
        for name, value in medians(seconds).items()
    ]
    print_table([f"{args.repeats} processes each", "median", "least", "most"], rows)

    def draw(axes: Any) -> None:
        axes.boxplot(list(seconds.values()), orientation="horizontal")
        axes.set_yticks(range(1, 1 + len(seconds)), list(seconds))
        axes.set(xlabel="seconds", xlim=(0, None), title="Fresh process to summary")

    save("cold_start", {"seconds": seconds, "median": medians(seconds)}, draw, args.out)


if __name__ == "__main__":
    main()
