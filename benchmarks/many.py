"""Many fits of one shape: one compiled program, a loop of fits, and NumPyro's SVI over data sets.

All are full-rank Gaussians of the same log-joints, by advi without their verdicts and with. Errors
are against the loop's fits, in their sds: of the mean farthest off in each data set, and of the sd.
NumPyro's SVI is a scan of Adam with a cosine schedule, mapped over the data sets by `jax.vmap`, for
several numbers of steps, since it has no stopping rule. Times are CPU seconds of this process,
after compilation.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import advi
from benchmarks.common import print_header, print_table, save
from models import eight_schools

LOOP = "advi.fit in a loop"
STEPS = (1000, 3000, 10_000)
PARTICLES, RATE = 4, 0.02


class Problem(NamedTuple):
    """A NumPyro model of one data set, and how data are simulated."""

    model: Callable[..., None]
    simulate: Callable[[np.random.Generator], dict[str, np.ndarray]]


def schools(y: Any, sigma: Any) -> None:
    """Eight schools, non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        eta = numpyro.sample("eta", dist.Normal(0, 1))
        numpyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def logistic(x: Any, y: Any) -> None:
    """Logistic regression."""
    w = numpyro.sample("w", dist.Normal(0, 2.5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("obs", dist.Bernoulli(logits=x @ w), obs=y)


def simulate_schools(rng: np.random.Generator) -> dict[str, np.ndarray]:
    sigma = np.array(eight_schools.STANDARD_ERROR)
    theta = rng.normal(rng.normal(0, 5), abs(rng.normal(0, 5)), len(sigma))
    return {"y": rng.normal(theta, sigma), "sigma": sigma}


def simulate_logistic(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.standard_normal((200, 5))
    return {"x": x, "y": rng.binomial(1, 1 / (1 + np.exp(-x @ rng.normal(0, 1, 5)))).astype(float)}


PROBLEMS = {
    "eight schools": Problem(schools, simulate_schools),
    "logistic 200 x 5": Problem(logistic, simulate_logistic),
}
Moments = tuple[np.ndarray, np.ndarray]  # means and sds on the real scale, (n, D)


def moments(fits: Iterable[advi.Fit]) -> Moments:
    """Return means and sds of fits, latents by the alphabet, as NumPyro has them."""
    locs, sds = [], []
    for fit in fits:
        posterior = fit.posterior
        spans = posterior.model.spans
        order = np.concatenate([np.arange(*spans[name]) for name in sorted(spans)])
        locs.append(posterior.gaussian.loc[order])
        sds.append(posterior.gaussian.sds[order])
    return np.stack(locs), np.stack(sds)


def by_loop(problem: Problem, data: list[Any], *, diagnose: bool = False) -> Moments:
    """Fit one after another."""
    model = advi.from_numpyro(problem.model)
    return moments(advi.fit(model, d, family="full_rank", diagnose=diagnose) for d in data)


def by_program(problem: Problem, data: list[Any], *, diagnose: bool = False) -> Moments:
    """Fit all by one program."""
    model = advi.from_numpyro(problem.model)
    return moments(advi.fit_many(model, data, family="full_rank", diagnose=diagnose))


def by_svi(steps: int) -> Callable[[Problem, list[Any]], Moments]:
    """Return the function that fits all by NumPyro's SVI in that many steps."""
    programs: dict[str, Any] = {}

    def run(problem: Problem, data: list[Any]) -> Moments:
        name = problem.model.__name__
        if name not in programs:
            guide = AutoMultivariateNormal(problem.model)
            adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))
            svi = SVI(problem.model, guide, adam, Trace_ELBO(PARTICLES))

            def one(d: Any) -> Any:
                state = svi.init(jax.random.key(0), **d)
                state, _ = jax.lax.scan(
                    lambda state, _: (svi.update(state, **d)[0], None), state, length=steps
                )
                q = guide.get_posterior(svi.get_params(state))
                return q.loc, q.variance**0.5

            programs[name] = jax.jit(jax.vmap(one))
        stacked = jax.tree.map(lambda *rows: np.stack(rows).astype(np.float32), *data)
        return jax.device_get(programs[name](stacked))

    return run


def main(arguments: list[str] | None = None) -> None:
    """Measure in turns, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sets", type=int, default=100, help="data sets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args(arguments)

    print_header(f"{args.sets} data sets of one shape")
    result = {}
    for name, problem in PROBLEMS.items():
        rng = np.random.default_rng(0)
        data = [problem.simulate(rng) for _ in range(args.sets)]
        ways = {
            LOOP: by_loop,
            "advi.fit_many": by_program,
            f"{LOOP}, verdicts": partial(by_loop, diagnose=True),
            "advi.fit_many, verdicts": partial(by_program, diagnose=True),
        }
        ways |= {f"NumPyro SVI, {steps:,} steps": by_svi(steps) for steps in args.steps}
        result[name] = measured(problem, ways, data, args.repeats)
        print(f"\n{name}\n")
        base = {way: result[name][f"{LOOP}{way}"]["ms"] for way in ("", ", verdicts")}
        rows = [
            [way, f"{r['first']:.1f}", f"{r['ms']:.2f}",
             f"{base[', verdicts' if 'verdicts' in way else ''] / r['ms']:.1f}",
             f"{r['mean'][0]:.3f}", f"{r['mean'][1]:.3f}", f"{r['sd'][0]:.2f}-{r['sd'][1]:.2f}"]
            for way, r in result[name].items()
        ]  # fmt: skip
        header = ["", "first call, s", "ms a fit", "times as fast", "mean off, median", "95 %"]
        print_table([*header, "sd ratio, 5-95 %"], rows)

    def draw(axes: Any) -> None:
        for k, (name, found) in enumerate(result.items()):
            points = [(r["ms"], max(r["mean"][0], 1e-3)) for r in found.values()]
            axes.plot(*zip(*points, strict=True), "o", color=f"C{k}", label=name)
        axes.set(xlabel="CPU ms a fit", ylabel="mean off, sds", xscale="log", yscale="log")
        axes.set_title("Fits of many data sets")
        axes.legend()

    save("many", {"found": result}, draw, args.out)


def measured(
    problem: Problem, ways: dict[str, Any], data: list[Any], repeats: int
) -> dict[str, dict[str, Any]]:
    """Return for every way its seconds, and its errors against the first."""
    first, seconds, ends = {}, {way: [] for way in ways}, {}
    for way, run in ways.items():
        begin = time.process_time()
        ends[way] = run(problem, data)
        first[way] = time.process_time() - begin
    for repeat in range(repeats):
        for way in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            begin = time.process_time()
            ways[way](problem, data)
            seconds[way].append(time.process_time() - begin)
    loc, sd = next(iter(ends.values()))
    found = {}
    for way, (m, s) in ends.items():
        off = (np.abs(m - loc) / sd).max(1)
        found[way] = {
            "first": first[way],
            "ms": 1000 * float(np.median(seconds[way])) / len(data),
            "mean": [float(np.median(off)), float(np.percentile(off, 95))],
            "sd": [float(q) for q in np.percentile(s / sd, [5, 95])],
        }
    return found


if __name__ == "__main__":
    main()
