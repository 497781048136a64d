"""Many rows: what a fit costs as they grow, beside minibatches and Newton's method.

A part of ``python -m benchmarks.scaling``. Logistic regression with ten coefficients, in memory.
Every cell is a process of its own: CPU seconds of a first fit with its compilation and of the next
one, gradients of all rows, and the peak of memory above that of the data. The floor is what a user
would write by hand for this model: Newton's method and Laplace's approximation in NumPy. Errors are
against it, in its sds: a Laplace approximation is right to the order of 1/N.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import advi
from benchmarks.common import print_table, run_fresh

SIZES = (10**4, 10**5, 10**6)
DIM, PRIOR_SD, BLOCK = 10, 2.5, 2**16
WAYS = ("advi.fit", "advi.fit with verdict", "advi.fit, batch_size=256", "Newton and Laplace")
NEWTON_STEPS = 20
Moments = tuple[np.ndarray, np.ndarray]  # means and sds (D,)


class Cell(NamedTuple):
    """What one way takes on one number of rows."""

    way: str
    rows: int
    first: float  # CPU s of the first fit
    again: float  # and of the next one
    gradients: int
    memory: float  # MB above the data, the peak
    mean_off: float  # sds
    sd_off: float  # largest difference of the ratio of sds from one


def simulated(num: int, seed: int = 0) -> dict[str, Any]:
    """Return rows in single precision, made in blocks so that memory has no higher peak."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(DIM) / np.sqrt(DIM)
    x, y = np.empty((num, DIM), np.float32), np.empty(num, np.float32)
    for start in range(0, num, BLOCK):
        part = slice(start, start + BLOCK)
        x[part] = rng.standard_normal(x[part].shape, np.float32)
        y[part] = rng.random(len(y[part])) < 1 / (1 + np.exp(-x[part] @ w))
    return {"x": x, "y": y}


def log_joint(z: Any, d: Any) -> advi.Terms:
    """Return the log-joint of a logistic regression by rows."""
    logits = d["x"] @ z["w"]
    prior = dist.Normal(0, PRIOR_SD).log_prob(z["w"]).sum()
    return advi.Terms(prior, rows=d["y"] * logits - jnp.logaddexp(0.0, logits))


def by_newton(data: dict[str, np.ndarray]) -> tuple[Moments, int]:
    """Return Laplace's approximation, and how often the rows were read."""
    x, y = data["x"], data["y"]
    w, passes = np.zeros(DIM, np.float32), 0
    while True:
        p = 1 / (1 + np.exp(-(x @ w)))
        precision = (x * (p * (1 - p))[:, None]).T @ x + np.eye(DIM) / PRIOR_SD**2
        step = np.linalg.solve(precision, x.T @ (y - p) - w / PRIOR_SD**2)
        w, passes = (w + step).astype(np.float32), passes + 1
        sds = np.sqrt(np.diag(np.linalg.inv(precision)))
        if passes == NEWTON_STEPS or np.abs(step / sds).max() < 1e-2:
            return (w.astype(float), sds), passes


def by_fit(data: Any, **settings: Any) -> tuple[Moments, int]:
    """Return the moments of a fit, and its gradients."""
    fit = advi.fit(advi.Model(log_joint, {"w": advi.real(DIM)}), data, progress=False, **settings)
    moments = np.asarray(fit.mean()["w"], float), np.asarray(fit.sd()["w"], float)
    return moments, fit.diagnostics["num_gradients"]


def run(way: str, data: Any) -> tuple[Moments, int]:
    """Return the moments by one of the ways, and the gradients or passes it took."""
    if way == "Newton and Laplace":
        return by_newton(data)
    settings: dict[str, Any] = {"diagnose": way == "advi.fit with verdict"}
    if "batch_size" in way:
        settings["batch_size"] = 256
    return by_fit(data, **settings)


def cell(way: str, num: int) -> None:
    """Measure one cell in this process, and print it as JSON."""
    data = simulated(num)
    given = data
    if way != "Newton and Laplace":
        given = jax.block_until_ready(jax.device_put(data))
    before, seconds = _peak(), []
    moments, gradients = (np.zeros(0), np.zeros(0)), 0
    for _ in range(2):
        begin = time.process_time()
        moments, gradients = run(way, given)
        seconds.append(time.process_time() - begin)
    memory = _peak() - before
    (mean, sd), _ = by_newton(data)
    mean_off = float((np.abs(moments[0] - mean) / sd).max())
    sd_off = float(np.abs(moments[1] / sd - 1).max())
    first, again = seconds
    print(json.dumps(Cell(way, num, first, again, gradients, memory, mean_off, sd_off)))


def _peak() -> float:
    """Return the peak of this process's memory, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(sizes: Sequence[int], ways: Sequence[str] = WAYS) -> list[Cell]:
    """Return every cell, each from a process of its own."""
    found = []
    for num in sizes:
        for way in ways:
            code = f"from benchmarks.scaling_rows import cell\ncell({way!r}, {num})"
            found.append(Cell._make(json.loads(run_fresh(code).splitlines()[-1])))
    return found


def slopes(cells: Sequence[Cell]) -> dict[str, float]:
    """Return every way's slope of the log of the next fit's seconds against the log of the rows."""
    found = {}
    for way in dict.fromkeys(c.way for c in cells):
        of = [c for c in cells if c.way == way]
        rows, values = np.log([c.rows for c in of]), np.log([max(c.again, 1e-3) for c in of])
        found[way] = float(np.polyfit(rows, values, 1)[0]) if len(of) > 1 else float("nan")
    return found


def print_cells(cells: Sequence[Cell]) -> None:
    """Print a table for every number of rows, and the slopes."""
    for num in dict.fromkeys(c.rows for c in cells):
        print(f"\n{num:,} rows of {DIM} predictors, {num * (DIM + 1) * 4 / 2**20:,.0f} MB\n")
        rows = [
            [c.way, f"{c.first:.2f}", f"{c.again:.2f}", f"{c.gradients:,}", f"{c.memory:,.0f}",
             f"{c.mean_off:.3f}", f"{100 * c.sd_off:.1f} %"]
            for c in cells if c.rows == num
        ]  # fmt: skip
        header = ["", "first, CPU s", "next", "gradients", "MB above", "mean off, sds", "sd off"]
        print_table(header, rows)
    print("\nslope of the log of CPU seconds of the next fit against the log of the rows\n")
    print_table(["", "slope"], [[way, f"{slope:.2f}"] for way, slope in slopes(cells).items()])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this part."""
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--row-ways", nargs="+", choices=WAYS, default=list(WAYS))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all numbers of rows; print the tables."""
    cells = measured(args.rows, args.row_ways)
    print_cells(cells)
    return {"cells": [c._asdict() for c in cells], "slopes": slopes(cells)}


def draw(axes: Any, found: dict[str, Any]) -> None:
    """Draw the seconds of the next fit against the rows."""
    cells = [Cell(**c) for c in found["cells"]]
    for way in dict.fromkeys(c.way for c in cells):
        of = [c for c in cells if c.way == way]
        axes.loglog([c.rows for c in of], [c.again for c in of], "o-", label=way)
    axes.set(xlabel="rows", ylabel="CPU seconds", title="Logistic regression, ten coefficients")
    axes.legend()
