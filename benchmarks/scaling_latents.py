"""The part of `benchmarks.scaling` about latents: mean fields of a hierarchy of G groups.

Five rows a group, centred, an effect for each group that is read by its index. NumPyro's
`AutoNormal` is a jitted scan of Adam, for several numbers of steps, since it has no stopping rule.
ELBOs are of fresh draws; an ELBO that is lower, by more than its error, is a fit that has not
arrived. Memory is the peak above that of the process with its data.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import advi
from advi.core.status import Estimate
from advi.inference.plan import refine
from benchmarks.common import print_table, run_fresh

SIZES, STEPS = (1_000, 10_000, 100_000), (2_000, 10_000)
ROWS, RATE, ELBO_DRAWS = 5, 0.01, 100
DRAWS, DRAWS_SIZE = (16, 64, 256, 1024), 10_000
SHARED = ("mu", "tau", "s")

Record = dict[str, Any]


def simulate(size: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Return the rows of a number of groups, as many of each."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(size), rows).astype(np.int32)
    y = 1 + 0.5 * rng.standard_normal(size)[g] + rng.standard_normal(len(g))
    return {"g": g, "y": y.astype(np.float32)}


def hierarchy(size: int) -> advi.Model:
    """Return the model of a number of groups, whose density has no bound as tau vanishes."""

    def log_joint(z: Any, d: Any) -> Array:
        return (
            dist.Normal(0, 10).log_prob(z["mu"])
            + dist.HalfNormal(1).log_prob(z["tau"])
            + dist.HalfNormal(1).log_prob(z["s"])
            + dist.Normal(z["mu"], z["tau"]).log_prob(z["a"]).sum()
            + dist.Normal(z["a"][d["g"]], z["s"]).log_prob(d["y"]).sum()
        )

    latents = {"mu": advi.real(), "tau": advi.positive(), "s": advi.positive()}
    return advi.Model(log_joint, latents | {"a": advi.real(size)})


def numpyro_hierarchy(size: int, g: Any, y: Any) -> None:
    """Sample the same model by NumPyro."""
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", size):
        a: Any = numpyro.sample("a", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[g], s), obs=y)


def by_advi(size: int, data: Any, num_draws: int | None = None) -> Record:
    """Fit a mean field; by default with as many draws as the plan finds to be enough."""
    if num_draws is not None:
        refine.MIN_DRAWS = num_draws
    fit = advi.fit(hierarchy(size), data, family="mean_field", diagnose=False)
    diagnostics = fit.diagnostics
    return {
        "elbo": list(fit.elbo),
        "gradients": diagnostics["num_gradients"],
        "gap": diagnostics["held_out_gap"],
        "sds": [float(fit.sd()[name]) for name in SHARED],
    }


def by_svi(size: int, data: Any, steps: int) -> Record:
    """Fit by NumPyro's SVI in a number of steps, and evaluate its ELBO."""

    def model(g: Any, y: Any) -> None:
        numpyro_hierarchy(size, g, y)

    guide = AutoNormal(model)
    svi = SVI(model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())

    @jax.jit
    def run(data: Any) -> Any:
        state = svi.init(jax.random.key(0), **data)
        step = lambda state, _: (svi.update(state, **data)[0], None)  # noqa: E731
        return svi.get_params(jax.lax.scan(step, state, length=steps)[0])

    @jax.jit
    def elbos(params: Any, data: Any) -> Array:
        loss = lambda key: Trace_ELBO().loss(key, params, model, guide, **data)  # noqa: E731
        return -jax.lax.map(loss, jax.random.split(jax.random.key(1), ELBO_DRAWS))

    params = run(data)
    found = Estimate.of(np.asarray(elbos(params, data), float))
    draws: Any = guide.sample_posterior(jax.random.key(2), params, sample_shape=(1000,))
    sds = [float(np.std(draws[name])) for name in SHARED]
    return {"elbo": list(found), "gradients": steps, "gap": None, "sds": sds}


def measured(way: str, size: int, number: int | None) -> Record:
    """Fit in this process; add CPU seconds, and the peak memory above that of the data."""
    data = simulate(size)
    jax.block_until_ready(jax.device_put(data))  # JAX's own start is none of the fit's
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = {"advi": by_advi, "svi": by_svi}[way](size, data, number)  # type: ignore[operator]
    seconds = time.process_time() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"size": size, "seconds": seconds, "mib": (after - before) / 1024}


def anew(*args: Any) -> Record:
    """Call `measured` in a new process."""
    code = "import json; from benchmarks import scaling_latents; "
    code += f"print(json.dumps(scaling_latents.measured(*{args!r})))"
    return json.loads(run_fresh(code).splitlines()[-1])


def in_turns(calls: dict[str, Callable[[], Record]], repeats: int) -> dict[str, Record]:
    """Return the figures of every call, the median of its seconds and of its memory."""
    found: dict[str, list[Record]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(calls[name]())
    middle = lambda records, what: float(np.median([r[what] for r in records]))  # noqa: E731
    return {
        name: records[0] | {what: middle(records, what) for what in ("seconds", "mib")}
        for name, records in found.items()
    }


def slope(x: Any, y: Any) -> float:
    """Return the slope of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this part."""
    parser.add_argument("--groups", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS), help="of NumPyro")
    parser.add_argument("--draws", type=int, nargs="*", default=list(DRAWS), help="of advi's plan")
    parser.add_argument("--draws-groups", type=int, default=DRAWS_SIZE, help="for these draws")


def measure(args: argparse.Namespace) -> Record:
    """Measure all sizes, and at one size numbers of draws; print the tables."""
    ways: dict[str, tuple[str, int | None]] = {"advi": ("advi", None)}
    ways |= {f"NumPyro, {steps:,} steps": ("svi", steps) for steps in args.steps}
    sizes: dict[str, dict[str, Record]] = {}
    for size in args.groups:
        calls = {
            name: lambda way=way, size=size: anew(way[0], size, way[1])
            for name, way in ways.items()
        }
        sizes[str(size)] = in_turns(calls, args.repeats)
    header = ["", "groups", "CPU s", "of advi's", "gradients", "MiB above data"]
    print_table([*header, "ELBO", "+-", "below advi's"], list(_lines(sizes)))
    slopes = {}
    if len(args.groups) > 1:
        for name in ways:
            seconds = [sizes[str(size)][name]["seconds"] for size in args.groups]
            slopes[name] = slope(args.groups, seconds)
            print(f"slope of log CPU seconds on log groups, {name}: {slopes[name]:.2f}")
    found: Record = {"sizes": sizes, "slopes": slopes, "draws": {}}
    if args.draws:
        num = args.draws_groups
        calls = {str(m): lambda m=m: anew("advi", num, m) for m in args.draws}
        found["draws"] = in_turns(calls, args.repeats)
        _print_draws(num, found["draws"])
    return found


def _lines(sizes: dict[str, dict[str, Record]]) -> Any:
    for size, of_ways in sizes.items():
        base = of_ways["advi"]
        for name, r in of_ways.items():
            (value, error), times = r["elbo"], r["seconds"] / base["seconds"]
            yield [
                name, f"{int(size):,}", f"{r['seconds']:.1f}", f"{times:.2f}",
                f"{r['gradients']:,}", f"{r['mib']:.0f}", f"{value:,.2f}", f"{error:.2f}",
                f"{base['elbo'][0] - value:.2f}",
            ]  # fmt: skip


def _print_draws(num: int, draws: dict[str, Record]) -> None:
    most = list(draws.values())[-1]
    print(f"\nfixed draws at least, {num:,} groups; sds beside those of the most draws\n")
    lines = [
        [
            m, f"{r['seconds']:.1f}", f"{r['gradients']:,}", f"{r['mib']:.0f}",
            f"{r['elbo'][0]:,.2f}", f"{r['gap']:.2f}",
            *(f"{mine / best:.3f}" for mine, best in zip(r["sds"], most["sds"], strict=True)),
        ]
        for m, r in draws.items()
    ]  # fmt: skip
    header = ["draws", "CPU s", "gradients", "MiB above data", "ELBO", "held-out gap"]
    print_table([*header, *(f"sd {name}" for name in SHARED)], lines)
    if len(draws) > 1:
        of_draws = slope([int(m) for m in draws], [r["seconds"] for r in draws.values()])
        print(f"slope of log CPU seconds on log draws: {of_draws:.2f}")


def draw(axes: Any, found: Record) -> None:
    """Draw CPU seconds against the number of groups."""
    for name in next(iter(found["sizes"].values())):
        points = [(int(size), of[name]["seconds"]) for size, of in found["sizes"].items()]
        axes.loglog(*zip(*points, strict=True), "o-", label=name)
    axes.set(xlabel="groups", ylabel="CPU seconds", title="Mean fields of a hierarchy")
    axes.legend()
