"""Many rows: what a minibatch step costs as the data grow, and whether it ends where all rows do.

A step sees as many rows whatever their number, so that its cost may grow only by what it takes to
find them: the entries of a random permutation, and rows that lie farther apart in memory. A fit
also looks for a start on some rows, and ends with an ELBO of all: a second fit tells what both
cost, a first one what is compiled.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import advi
from advi.core.step_keys import step_key
from advi.data.source import InMemory
from advi.data.spec import prepare
from advi.inference.stochastic.control_variate import ControlVariate
from advi.inference.stochastic.defaults import default_optimizer
from advi.inference.stochastic.loop import CHUNK, take_chunk
from advi.inference.stochastic.steps import Steps
from advi.inference.stochastic.steps_fit import StepsFit
from advi.model.trace import trace
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from benchmarks.common import medians, print_header, print_table, save, take_turns
from models import logistic_regression as logistic

BAR = 1.25  # a step on the most rows may cost this many steps on the fewest
MAX_SHIFT, MAX_STRETCH = 0.05, 0.03  # sds between means, and relative, between the two fits


def step_tasks(rows: Any, num_predictors: int, batch_size: int) -> tuple[Any, Any]:
    """Return the tasks of a chunk of steps, by the default optimiser, and of reading its rows."""
    model = logistic.model(num_predictors)
    data, spec = prepare(rows, "float32")
    source = InMemory(data, spec, None).batched(trace(model, spec).num_rows, batch_size)
    batching, batch_spec = source.batching, source.batch_spec
    assert batching is not None
    guide = resolve_family(model, "mean_field")
    optimizer = default_optimizer(guide, near=True)
    steps = Steps(guide, batch_spec, advi.Elbo(), optimizer, batching, (True,))
    zeros = np.zeros(model.size)
    params = guide.from_gaussian(Gaussian.diagonal(zeros, 0.1))
    control = ControlVariate(zeros, np.zeros(()), zeros)  # type: ignore[arg-type]
    state = steps.init(params, step_key(0), np.random.default_rng(0), control)

    @jax.jit
    def read(data: Any, key: Array) -> Array:
        def add(total: Array, step: Array) -> tuple[Array, None]:
            batch = batch_spec.gather(data, batching.index(key, step))
            # used, so that nothing of it can be left out
            return total + sum(leaf.sum() for leaf in jax.tree.leaves(batch)), None

        return jax.lax.scan(add, jnp.zeros(()), jnp.arange(CHUNK))[0]

    return (
        lambda: take_chunk(steps, state, data, CHUNK),  # returns host arrays: it has waited
        lambda: jax.block_until_ready(read(data, state.key)),
    )


def left(us: dict[str, float], name: str) -> tuple[float, float]:
    """Return the time of a step, and what is left of it without reading its rows."""
    return us[name], us[name] - us[f"{name}, reading"]


def agreement(num_rows: int, num_predictors: int, batch_size: int) -> dict[str, Any]:
    """Return how far a minibatch fit and the fit of all rows are apart, and their seconds."""
    rows = logistic.data(num_rows, num_predictors).rows
    model = logistic.model(num_predictors)
    begin = time.perf_counter()
    small = advi.fit(
        model, rows, family="full_rank", batch_size=batch_size, diagnose=False, progress=False
    )
    middle = time.perf_counter()
    whole = advi.fit(model, rows, diagnose=False, progress=False)
    seconds = (middle - begin, time.perf_counter() - middle)
    (mean, sd), (exact, exact_sd) = logistic.moments(small), logistic.moments(whole)
    return {
        "rows": num_rows,
        "seconds": seconds,
        "shift": float(np.max(np.abs(mean - exact) / exact_sd)),
        "stretch": float(np.max(np.abs(sd / exact_sd - 1))),
        "status": small.status.message,
    }


def refits(num_rows: int, num_predictors: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Return CPU seconds of a first fit and of refits, with the part of their last evaluation.

    And how many programs the first one compiles, and the seconds that takes.
    """
    rows, model = logistic.data(num_rows, num_predictors).rows, logistic.model(num_predictors)
    compiled: list[float] = []
    ending: list[float] = []
    finished = StepsFit.finished

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    def timed(self: StepsFit, *args: Any) -> Any:
        begin = time.process_time()
        try:
            return finished(self, *args)
        finally:
            ending.append(time.process_time() - begin)

    def fit(key: int) -> float:
        begin = time.process_time()
        advi.fit(model, rows, batch_size=batch_size, key=key, diagnose=False, progress=False)
        return time.process_time() - begin

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    StepsFit.finished = timed  # type: ignore[method-assign]
    try:
        first = fit(0)
        programs, compiling = len(compiled), sum(compiled)
        ending.clear()
        warm = float(np.median([fit(key) for key in range(1, repeats + 1)]))
    finally:
        StepsFit.finished = finished  # type: ignore[method-assign]
        jax.monitoring.unregister_event_duration_listener(listen)
    return {
        "rows": num_rows,
        "first": first,
        "programs": programs,
        "compiling": compiling,
        "again": warm,
        "ending": float(np.median(ending)),
    }


def _judged(passed: bool) -> str:
    return "met" if passed else "missed"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--agree", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--predictors", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--refits", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    size = args.predictors, args.batch_size
    print_header("Logistic regression, {} predictors, {} rows a step".format(*size))
    tasks = {}
    for n in args.rows:
        rows = logistic.data(n, args.predictors).rows
        tasks[f"{n:,}"], tasks[f"{n:,}, reading"] = step_tasks(rows, *size)
    seconds = take_turns(tasks, args.repeats)
    us = {name: 1e6 * s / CHUNK for name, s in medians(seconds).items()}
    names = [f"{n:,}" for n in args.rows]
    fewest = left(us, names[0])
    print(f"medians of {args.repeats} repeats of {CHUNK} steps, microseconds a step\n")
    print_table(
        ["rows", "step", "reading alone", "ratio of steps to the fewest rows", "without reading"],
        [
            [name, f"{us[name]:.1f}", f"{us[f'{name}, reading']:.1f}"]
            + [f"{t / first:.3f}" for t, first in zip(left(us, name), fewest, strict=True)]
            for name in names
        ],
    )
    worst, own = np.max([left(us, name) for name in names], axis=0) / fewest
    print(
        f"largest ratio {worst:.3f}, {own:.3f} without reading; the bar of {BAR:.2f} is "
        f"{_judged(worst <= BAR)}, and {_judged(own <= BAR)} by what reading does not explain"
    )

    print("\nWhole fits by minibatches, mean field, CPU seconds\n")
    whole = [refits(n, *size, args.refits) for n in args.agree]
    print_table(
        ["rows", "first fit", "programs", "seconds to compile", "fitted again", "last evaluation"],
        [
            [
                f"{w['rows']:,}",
                f"{w['first']:.2f}",
                str(w["programs"]),
                f"{w['compiling']:.2f}",
                f"{w['again']:.3f}",
                f"{w['ending']:.3f} ({w['ending'] / w['again']:.0%})",
            ]
            for w in whole
        ],
    )

    print("\nMinibatches until they settle against the automatic plan on all rows, full rank\n")
    found = [agreement(n, *size) for n in args.agree]
    table = [
        [
            f"{f['rows']:,}", *(f"{s:.1f}" for s in f["seconds"]), f"{f['shift']:.3f}",
            f"{f['stretch']:.3f}", f["status"],
        ]
        for f in found
    ]  # fmt: skip
    print_table(["rows", "seconds", "all rows", "mean off, sd", "sd off", "status"], table)
    agree = all(f["shift"] <= MAX_SHIFT and f["stretch"] <= MAX_STRETCH for f in found)
    print(f"the bar of {MAX_SHIFT} sd for means and {MAX_STRETCH:.0%} for sds is {_judged(agree)}")

    def draw(axes: Any) -> None:
        axes.semilogx(args.rows, [us[name] for name in names], "o-")
        axes.set(xlabel="rows", ylabel="microseconds a step", ylim=(0, None))

    settings = {k: v for k, v in vars(args).items() if k != "out"}
    results = {"settings": settings, "us_per_step": us, "refits": whole, "agreement": found}
    save("rows", results, draw, args.out)


if __name__ == "__main__":
    main()
