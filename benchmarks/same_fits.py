"""Whether two checkouts of the code give the same fits, bit for bit: for a change of structure.

``python -m benchmarks.same_fits --write FILE`` in one checkout, and ``--against FILE`` in the
other, with the same machine and the same versions. A fit counts as the same if its draws, moments,
ELBO, status, verdict and number of gradients are, and if as many programs were compiled.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import advi

SCHOOLS = {
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}
NUM_ROWS, DIM = 6000, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((NUM_ROWS, DIM))
ROWS = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5]) + RNG.standard_normal(NUM_ROWS)}
CODES = RNG.standard_normal((600, 2)) @ RNG.standard_normal((2, 5)) + RNG.standard_normal((600, 5))
DECODER = RNG.standard_normal((2, 5))


def schools(z: Any, data: Any) -> Any:
    """Return the log-joint of eight schools, non-centred."""
    theta = z["mu"] + z["tau"] * z["eta"]
    return (
        dist.Normal(0, 5).log_prob(z["mu"])
        + dist.HalfCauchy(5).log_prob(z["tau"])
        + dist.Normal(0, 1).log_prob(z["eta"]).sum()
        + dist.Normal(theta, data["sigma"]).log_prob(data["y"]).sum()
    )


def regression(z: Any, data: Any) -> advi.Terms:
    """Return the log-joint of a linear regression by rows."""
    prior = dist.Normal(0, 10).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["s"])
    rows = dist.Normal(data["x"] @ z["w"], z["s"]).log_prob(data["y"])
    return advi.Terms(prior, rows=rows)


def factors(z: Any, data: Any) -> advi.Terms:
    """Return the log-joint of a factor model with codes by row."""
    prior = dist.Normal(0, 1).log_prob(z["h"]).sum(-1)
    x = dist.Normal(z["h"] @ z["decoder"]["w"], 0.5).log_prob(data["x"]).sum(-1)
    return advi.Terms(0.0, rows=x, prior=prior)


def random_walk(z: Any, data: Any) -> Any:
    """Return the log-joint of a random walk seen with noise."""
    steps = dist.Normal(0, 1).log_prob(z["x"][1:] - z["x"][:-1]).sum()
    return (
        steps + dist.Normal(0, 1).log_prob(z["x"][0]) + dist.Normal(z["x"], 2).log_prob(data).sum()
    )


def wind(z: Any, data: Any) -> Any:
    """Return the log-joint of an angle."""
    return dist.VonMises(z["angle"], 2.0).log_prob(data).sum()


def centred(y: Any, sigma: Any) -> None:
    """Eight schools in NumPyro, centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("double", 2 * theta)
        numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def encode(params: Any, row: Any) -> Any:
    """Return what a linear encoder makes of a row."""
    return params["w"] @ row["x"], params["log_sd"]


SCHOOLS_MODEL = advi.Model(
    schools, {"mu": advi.real(), "tau": advi.positive(), "eta": advi.real(8)}
)
REGRESSION = advi.Model(regression, {"w": advi.real(DIM), "s": advi.positive()})
FACTORS = advi.Model(factors, {"h": advi.real(2, local=True), "decoder": advi.tree({"w": DECODER})})
START = {"w": np.zeros((2, 5)), "log_sd": np.zeros(2)}


def batches() -> Any:
    """Return one epoch of a stream."""
    return ({k: v[i : i + 500] for k, v in ROWS.items()} for i in range(0, NUM_ROWS, 500))


def mapped() -> Any:
    """Return the rows, on disk."""
    folder = Path(tempfile.mkdtemp())
    for name, values in ROWS.items():
        np.save(folder / f"{name}.npy", values)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ROWS}


def encoded(objective: Any) -> advi.Fit:
    """Fit an autoencoder."""
    family = {"h": advi.Amortised(encode, START), "decoder": advi.Point()}
    return advi.fit(
        FACTORS, {"x": CODES}, family=family, batch_size=64, max_steps=300, objective=objective
    )


FITS: dict[str, Callable[[], advi.Fit]] = {
    "auto": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS),
    "corrected": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS, key=1).corrected(),
    "mean field": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS, family="mean_field"),
    "linear response": lambda: advi.fit(
        REGRESSION, ROWS, family="mean_field", key=2
    ).linear_response(),
    "low rank": lambda: advi.fit(
        advi.Model(random_walk, {"x": advi.real(60)}), np.sin(np.arange(60.0)), family="low_rank"
    ),
    "blocks and a point": lambda: advi.fit(
        SCHOOLS_MODEL,
        SCHOOLS,
        family={("mu", "eta"): "full_rank", "tau": advi.Point()},
    ),
    "restarts": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS, restarts=3, key=3, diagnose=False),
    "float64": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS, x64=True, family="full_rank"),
    "warm start": lambda: advi.fit(
        SCHOOLS_MODEL, SCHOOLS, init=advi.fit(SCHOOLS_MODEL, SCHOOLS, family="mean_field")
    ),
    "refined": lambda: advi.fit(SCHOOLS_MODEL, SCHOOLS, family="mean_field").refine("full_rank"),
    "minibatches": lambda: advi.fit(REGRESSION, ROWS, batch_size=128, max_steps=1000),
    "until settled": lambda: advi.fit(REGRESSION, ROWS, batch_size=256, family="full_rank"),
    "sticking the landing": lambda: advi.fit(
        SCHOOLS_MODEL,
        SCHOOLS,
        optimizer=optax.adam(0.02),
        objective=advi.Elbo(draws=4, estimator="stl"),
        max_steps=600,
    ),
    "line search": lambda: advi.fit(
        SCHOOLS_MODEL, SCHOOLS, optimizer=optax.lbfgs(), max_steps=60
    ),
    "a stream": lambda: advi.fit(
        REGRESSION, batches, num_rows=NUM_ROWS, max_steps=700,
        eval_data={k: v[:300] for k, v in ROWS.items()},
    ),
    "memory map": lambda: advi.fit(REGRESSION, mapped(), batch_size=200, max_steps=500),
    "a table": lambda: advi.fit(
        FACTORS, {"x": CODES}, family={"decoder": advi.Point()}, batch_size=100, max_steps=300
    ),
    "amortised": lambda: encoded(None),
    "importance weighted": lambda: encoded(advi.Iwae(5)),
    "NumPyro": lambda: advi.fit(advi.from_numpyro(centred), SCHOOLS),
    "an angle": lambda: advi.fit(
        advi.Model(wind, {"angle": advi.circular()}), np.array([3.0, 3.1, -3.0, 2.5])
    ),
}  # fmt: skip


def figures(make: Callable[[], advi.Fit]) -> dict[str, str]:
    """Return what a fit amounts to, by name, as text."""
    compiled: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit = make()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return {
        "draws": digest(fit.sample(10)),
        "means": digest(fit.mean()),
        "sds": digest(fit.sd()),
        "ELBO": repr(fit.elbo),
        "course": digest(fit.elbo_trace),
        "status": f"{fit.status}: {fit.status.message}",
        "verdict": fit.verdict.level,
        "gradients": str(fit.diagnostics["num_gradients"]),
        "programs": str(len(compiled)),
    }


def digest(tree: Any) -> str:
    """Return a digest of the bits of a tree of arrays, whatever the order of its names."""
    hashed = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ):
        array = np.asarray(leaf)
        hashed.update(f"{path} {array.dtype} {array.shape}".encode() + array.tobytes())
    return hashed.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> None:
    """Run the fits; write what they amount to, or compare it with what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="*", choices=list(FITS), default=list(FITS))
    args = parser.parse_args(arguments)
    found = {name: figures(FITS[name]) for name in args.only}
    if args.write:
        args.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if args.against:
        before = json.loads(args.against.read_text(encoding="utf-8"))
        same = 0
        for name, now in found.items():
            differ = [k for k, v in now.items() if before[name].get(k) != v]
            same += not differ
            print(f"{name}: {'the same' if not differ else ''}")
            for k in differ:
                print(f"    {k}: {before[name].get(k)} before, {now[k]} now")
        print(f"{same} of {len(found)} fits are the same")


if __name__ == "__main__":
    main()
