"""Overhead: what the engine adds to the gradient of the log density.

One step of the stochastic path draws noise, maps it through the variational family, takes the
gradient of the log density at every draw, updates the parameters with Optax and keeps averages
and guards. Beside it stands the bare gradient, ``jit(vmap(value_and_grad(log_density)))``, of the
log-joint as its user wrote it, at as many points: the least that any such engine must compute.

The bare gradient is timed in two ways: in one compiled loop over the steps, as the engine runs
its own, and called once a step from Python, as one would by hand.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array

import advi
from advi.core.step_keys import step_key
from advi.data.spec import prepare
from advi.inference.stochastic.loop import CHUNK, take_chunk
from advi.inference.stochastic.steps import Steps
from advi.variational.gaussian import Gaussian
from advi.variational.resolve_family import resolve_family
from benchmarks.common import medians, print_header, print_table, save, take_turns

SMALL = (256, 10, 2)  # rows, predictors, draws: a model of which any overhead shows
BAR = 1.10  # the engine's step may cost this many bare gradients in one compiled loop
ENGINE, LOOP, CALLS = "engine step", "bare gradient, compiled loop", "bare gradient, called"


def simulate(num_rows: int, dim: int, seed: int) -> dict[str, np.ndarray]:
    """Return predictors x (N, D) and binary responses y (N,) of a logistic regression."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_rows, dim), np.float32)
    w = rng.standard_normal(dim) / np.sqrt(dim)
    return {"x": x, "y": (rng.random(num_rows) < 1 / (1 + np.exp(-x @ w))).astype(np.float32)}


def log_joint(z: Any, d: Any) -> Array:
    """Return the log-joint density of the logistic regression in nats."""
    prior = dist.Normal(0, 1).log_prob(z["w"]).sum()
    logits = d["x"] @ z["w"]
    return prior + dist.Bernoulli(logits=logits).log_prob(d["y"]).sum()  # type: ignore[call-arg]


def engine(data: Any, dim: int, draws: int, seed: int) -> Callable[[], object]:
    """Return the task of one chunk of steps, mean field and Adam, from the same state each time."""
    model = advi.Model(log_joint, {"w": advi.real(dim)})
    data, spec = prepare(data, "float32")
    guide = resolve_family(model, "mean_field")
    steps = Steps(guide, spec, advi.Elbo(draws=draws), optax.adam(1e-3), None, (True,))
    params = guide.from_gaussian(Gaussian.diagonal(np.zeros(dim), 0.1))
    state = steps.init(params, step_key(seed), np.random.default_rng(seed))
    return lambda: take_chunk(steps, state, data, CHUNK)  # returns host arrays: it has waited


def bare(data: Any, dim: int, draws: int, seed: int) -> dict[str, Callable[[], object]]:
    """Return the tasks of as many bare gradients: in a compiled loop, and called one by one."""
    data = jax.device_put(data)
    points = jax.random.normal(jax.random.key(seed), (CHUNK, draws, dim)) * 0.1

    def gradients(x: Array, d: Any) -> tuple[Array, Array]:
        one = jax.value_and_grad(lambda w: log_joint({"w": w}, d))
        return jax.vmap(one)(x)

    @jax.jit
    def loop(points: Array, d: Any) -> tuple[Array, Array]:
        def step(total: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
            value, gradient = gradients(x, d)
            # used, so that nothing of them can be left out
            return (total[0] + value.sum(), total[1] + gradient.sum(0)), None

        return jax.lax.scan(step, (jnp.zeros(()), jnp.zeros(dim)), points)[0]

    once, separate = jax.jit(gradients), [jax.device_put(x) for x in np.asarray(points)]
    return {
        LOOP: lambda: jax.block_until_ready(loop(points, data)),
        CALLS: lambda: [jax.block_until_ready(once(x, data)) for x in separate],
    }


def measure(
    num_rows: int, dim: int, draws: int, repeats: int, seeds: int
) -> list[dict[str, list[float]]]:
    """Return for every seed the candidates' timings, milliseconds a step."""
    measured = []
    for seed in range(seeds):
        data = simulate(num_rows, dim, seed)
        tasks = {ENGINE: engine(data, dim, draws, seed), **bare(data, dim, draws, seed)}
        seconds = take_turns(tasks, repeats)
        measured.append({name: [1e3 * s / CHUNK for s in v] for name, v in seconds.items()})
    return measured


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header("One stochastic step against the bare gradient of logistic regressions")
    sizes = {"large": (args.rows, args.dim, args.draws), "small": SMALL}
    measured = {
        name: measure(num_rows, dim, draws, args.repeats, args.seeds)
        for name, (num_rows, dim, draws) in sizes.items()
    }
    rows, ratios = [], {name: [] for name in sizes}
    for name, of_size in measured.items():
        for seed, times in enumerate(of_size):
            ms = medians(times)
            ratios[name].append({way: ms[ENGINE] / ms[way] for way in (LOOP, CALLS)})
            rows.append([name, str(seed), *(f"{ms[way]:.4f}" for way in (ENGINE, LOOP, CALLS))])
            rows[-1] += [f"{ratio:.3f}" for ratio in ratios[name][-1].values()]
    for name, (num_rows, dim, draws) in sizes.items():
        print(f"{name}: {num_rows} rows, {dim} predictors, {draws} draws")
    print(f"medians of {args.repeats} repeats of {CHUNK} steps, milliseconds a step\n")
    print_table(["model", "seed", ENGINE, LOOP, CALLS, "ratio to loop", "to calls"], rows)
    worst = max(r[LOOP] for r in ratios["large"])
    verdict = "met" if worst <= BAR else "missed"
    print(
        f"\nlarge: worst ratio to the compiled loop {worst:.3f}; the bar of {BAR:.2f} is {verdict}"
    )
    of_small = np.median([r[LOOP] for r in ratios["small"]])
    print(f"small: ratio {of_small:.2f}, where a gradient takes less than averages and guards")

    def draw(axes: Any) -> None:
        names = list(measured["large"][0])
        axes.boxplot([[ms for times in measured["large"] for ms in times[name]] for name in names])
        axes.set_xticks(range(1, 1 + len(names)), names)
        axes.set(ylabel="milliseconds a step", title="Engine step against the bare gradient")

    settings = {k: v for k, v in vars(args).items() if k != "out"}
    save(
        "overhead",
        {"settings": settings, "ms_per_step": measured, "ratios": ratios},
        draw,
        args.out,
    )


if __name__ == "__main__":
    main()
