"""What users write, which type checkers must pass. Nothing here is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpy.typing import NDArray
from numpyro.distributions import constraints

import advi


def log_joint(z: Any, data: Any) -> jax.Array:
    prior = dist.Normal(0, 5).log_prob(z["mu"]) - z["tau"]
    return prior + dist.Normal(z["mu"], z["tau"]).log_prob(data["y"]).sum()


def log_joint_by_row(z: dict[str, jax.Array], data: dict[str, jax.Array]) -> advi.Terms:
    rows = -0.5 * (data["y"] - z["mu"]) ** 2
    return advi.Terms(shared=-0.5 * z["mu"] ** 2, rows=rows, prior=jnp.zeros_like(rows))


def models() -> list[advi.Model]:
    latent: advi.Latent = advi.positive(3, local=True)
    nested = {
        "mu": advi.real(),
        "scale": {"tau": latent, "rho": advi.interval(-1.0, 1.0)},
        "groups": (advi.ordered(3), advi.simplex(4), advi.zero_sum(5), advi.unit_vector(3)),
        "matrix": (advi.cov_matrix(2), advi.corr_matrix(2), advi.scale_tril(2)),
        "scalar": constraints.positive,
        "network": advi.tree({"w": np.zeros((2, 2)), "b": np.zeros(2)}),
    }
    return [
        advi.Model(log_joint, {"mu": advi.real(), "tau": advi.positive()}),
        advi.Model(log_joint_by_row, {"mu": advi.real(2, init=np.zeros(2))}),
        advi.Model(lambda z, data: -(z[0] ** 2), (advi.real(),)),
        advi.Model(log_joint, nested),
    ]


def every_keyword(model: advi.Model, data: dict[str, np.ndarray], folder: Path) -> advi.Fit:
    def callback(progress: advi.Progress) -> bool:
        assert_type(progress.stage, str)
        assert_type(progress.step, int)
        assert_type(progress.elbo, float)
        return progress.eval_elbo > 0.0

    first = advi.fit(model, data)
    assert_type(first, advi.Fit)
    by_position = advi.fit(model, data, family="low_rank", callback=print)
    return advi.fit(
        model=model,
        data=data,
        family=advi.FullRank(),
        objective=advi.Elbo(draws=4, estimator="stl"),
        optimizer=optax.adam(1e-2),
        batch_size=10,
        num_rows=100,
        max_steps=1000,
        restarts=2,
        key=jax.random.key(0),
        init=by_position,
        x64=True,
        eval_data=data,
        eval_every=100,
        keep_best=True,
        checkpoint=folder / "run",
        callback=callback,
        progress=False,
        diagnose=False,
    )


def families(model: advi.Model, encode: Callable[[Any, Any], Any]) -> None:
    of_latents: dict[str | tuple[str, ...], advi.Family | str] = {
        "mu": advi.MeanField(),
        ("tau", "rho"): advi.LowRank(rank=3),
        "network": advi.Point(),
        "groups": "full_rank",
    }
    advi.fit(model, family=of_latents)
    advi.fit(model, family={"codes": advi.Amortised(encode, {"w": np.zeros((2, 5))})})
    advi.fit(model, family=advi.PerRow(advi.FullRank()))
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    advi.fit(model, objective=advi.Iwae(draws=8), optimizer=chain, key=np.uint32(3))
    advi.fit(model, optimizer=optax.lbfgs(), init={"mu": 0.5}, checkpoint="run")


def streams(model: advi.Model, batches: list[dict[str, NDArray[np.float32]]]) -> None:
    advi.fit(model, batches)
    advi.fit(model, lambda: iter(batches), num_rows=100)


def numpyro_model(x: NDArray[np.float64]) -> advi.Fit:
    def program(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(w * x, 1), obs=y)

    model = advi.from_numpyro(program, rows="rows")
    checkup: advi.Checkup = advi.check(model, {"x": x, "y": x}, key=1)
    assert_type(checkup.ok, bool)
    return advi.fit(model, {"x": x, "y": x}, batch_size=10)


def results(fit: advi.Fit, path: Path) -> advi.Fit:
    status: advi.Status = fit.status
    verdict: advi.Verdict = fit.verdict
    elbo: advi.Estimate = fit.elbo
    trace: advi.EvalTrace = fit.eval_trace
    table: advi.Table = fit.summary()
    assert_type(fit.summary("mu", sort="mean", top=20), advi.Table)
    by_row: advi.RowValues = fit.log_marginal(draws=100)
    loo: advi.Loo = fit.loo()
    if status == "interrupted" and status.cause is not None:
        raise status.cause
    assert_type(elbo.value + elbo.mcse, float)
    assert_type(fit.elbo_trace, NDArray[np.float64])
    assert_type(fit.khat, float)
    assert_type(fit.cov(["mu", "tau"]), NDArray[np.float64])
    assert_type(by_row.mean, advi.Estimate)
    assert_type(loo.elpd, float)
    assert_type(trace.steps, NDArray[np.int64])
    assert_type(verdict.reasons, tuple[str, ...])
    draws = fit.sample(100, key=1, corrected=True)
    mean, sd, median = fit.mean()["mu"], fit.sd()["mu"], fit.quantile([0.05, 0.5])["mu"]
    print(status.message, verdict.action, table, draws["mu"] * sd + mean, median)
    if not verdict:
        return fit.refine(advi.FullRank()).check()
    elif verdict == "means_only" or fit.verdict.level == "poor":
        return fit.linear_response() if fit.khat > 0.7 else fit.corrected()
    fit.save(path)
    fit.predict(lambda z, data: z["mu"], 10)
    fit.plot(["mu"], against={"old": fit})[0].set_title("mu")
    fit.plot_forest("mu", sort="sd", top=20).set_title("mu")
    fit.plot_ppc(20, prior=True)[0].set_title("y")
    compared: advi.Table = advi.compare({"new": fit, "old": advi.load(path)})
    assert_type(advi.compare({"new": loo, "old": fit.loo()}), advi.Comparison)
    print(compared["difference"])
    return advi.load(str(path))


def own_algorithms(model: advi.Model, y: NDArray[np.float64]) -> advi.Fit:
    density: advi.LogDensity = advi.log_density(model, y)
    assert_type(density.dim, int)
    value, gradient = jax.value_and_grad(density)(density.init)
    print(value, gradient, density.unravel(density.ravel({"mu": 0.0})))
    steps: advi.SVI = advi.svi(model, y, optimizer=optax.adam(1e-2), batch_size=10)
    state = steps.init(jax.random.key(0))
    for _ in range(100):
        state, info = steps.step(state, y[:10])
        print(float(info.elbo))
    return steps.result(state)


def objects_are_hashable() -> dict[advi.Family, advi.Objective]:
    return {advi.MeanField(): advi.Elbo(beta=0.5), advi.LowRank(): advi.Iwae(2)}
