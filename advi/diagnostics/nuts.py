"""The No-U-Turn Sampler of NumPyro on a fit's log density, in the coordinates of the fit."""

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advi.core.draw_set import WeightedDraws
from advi.core.errors import check_bool, check_count, check_positive
from advi.core.jax_config import precision
from advi.core.keys import Stream, device_key, host_rng
from advi.core.types import LOG_2PI, Floats
from advi.core.verdict import REMEDIES, Verdict
from advi.diagnostics.alarms import ONLY_POINTS, alarms_of
from advi.diagnostics.quantities import quantities, quantity_names
from advi.model.trace import LogJoint
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.programs import log_difference
from advi.posterior.record import Examination, FitRecord, rungs_of
from advi.variational.block import Block
from advi.variational.full_rank import FullRank
from advi.variational.guide import Guide
from advi.variational.joined_scale import MAX_DENSE_DIM
from advi.variational.sparse_precision import SparsePrecision, is_sparse

MAX_RHAT, MIN_ESS, MAX_DIVERGENT = 1.01, 400, 0.01  # of the draws that diverged, their share


class Settings(NamedTuple):
    """Settings of the sampler, as NumPyro names them."""

    num_samples: int
    num_warmup: int
    num_chains: int
    target_accept_prob: float
    dense_mass: bool


def nuts(record: FitRecord, settings: Settings, key: Any, progress: bool) -> FitRecord:
    """Return the fit with the draws of NUTS; see `Fit.nuts`.

    The chains move in the noise of q, where the posterior is the more like a standard normal the
    better the fit is (Hoffman et al. 2019, NeuTra).
    """
    from numpyro.infer import MCMC, NUTS  # heavy, and only needed here

    posterior = _on_device(record.global_posterior)
    if not posterior.structure.dim:
        raise ValueError(f"nuts: {ONLY_POINTS}")
    check_count("num_samples", settings.num_samples, 4)
    check_count("num_warmup", settings.num_warmup, 1)
    check_count("num_chains", settings.num_chains)
    check_bool("dense_mass", settings.dense_mass)
    check_positive("target_accept_prob", settings.target_accept_prob)
    if not settings.target_accept_prob < 1:
        raise ValueError(
            f"target_accept_prob: got {settings.target_accept_prob}; expected a number below 1."
        )
    density, guide = posterior.density.on(None), posterior.guide
    if guide.noise_dim != posterior.structure.dim:
        raise ValueError(
            f"nuts: got a family with {guide.noise_dim} standard normals in a draw of "
            f"{posterior.structure.dim} coordinates; expected as many of both, such as those of "
            "family='full_rank' or 'triangular'. Of a mixture use fit.corrected(): chains of NUTS "
            "seldom pass from one mode to another."
        )
    with precision(posterior.float_dtype):
        potential = _potential(guide, density.log_joint)
        arguments = posterior.params, density.data, density.weights
        kernel = NUTS(
            potential_fn=jax.jit(lambda e: potential(*arguments, e)),  # it is called eagerly, too
            target_accept_prob=settings.target_accept_prob,
            dense_mass=settings.dense_mass,
        )
        mcmc = MCMC(
            kernel,
            num_warmup=settings.num_warmup,
            num_samples=settings.num_samples,
            num_chains=settings.num_chains,
            chain_method="vectorized",
            progress_bar=progress,
        )
        start = _start(posterior, settings.num_chains, key).astype(posterior.float_dtype)
        first = start[0] if settings.num_chains == 1 else start
        fields = ("diverging",)
        mcmc.run(device_key(key, Stream.NUTS), init_params=jnp.asarray(first), extra_fields=fields)
        E = np.asarray(mcmc.get_samples(group_by_chain=True), np.float64)
        diverging = np.asarray(mcmc.get_extra_fields()["diverging"])
    chains, steps, dim = E.shape
    X = posterior.transport.draw(E.reshape(-1, dim)).points
    columns = quantities(posterior, posterior.constrain(X))
    verdict = _verdict(record, columns.reshape(chains, steps, -1), diverging.mean())
    rungs = rungs_of(record)
    label = f"{chains} chain{'s' if chains > 1 else ''} of {steps:,} draws by NUTS"
    weights = np.full(len(X), 1 / len(X))
    return dataclasses.replace(
        record.with_outcome(route=(*rungs, label), num_chains=chains),
        posterior=dataclasses.replace(record.global_posterior, weighted=WeightedDraws(X, weights)),
        examination=Examination(verdict, record.khat, None),
    )


def _on_device(posterior: GlobalPosterior) -> GlobalPosterior:
    """Return q with a dense matrix where a sparse precision would be solved on the host."""
    guide = posterior.guide
    if not is_sparse(guide) or posterior.structure.dim > MAX_DENSE_DIM:
        return posterior
    dense = Guide(guide.model, tuple(
        Block(block.names, FullRank()) if isinstance(block.base, SparsePrecision) else block
        for block in guide.blocks
    ))  # fmt: skip
    params = dense.params_of(posterior.gaussian, posterior.float_dtype)
    return dataclasses.replace(posterior, guide=dense, params=params)


def _start(posterior: GlobalPosterior, num: int, key: Any) -> Floats:
    """Return the noise of draws of the fit, corrected ones if it has them."""
    rng = host_rng(key, Stream.NUTS_START)
    if posterior.weighted is not None:
        E = posterior.transport.noise_of(posterior.weighted.resample(num, rng))
        if E is not None:
            return E
    return rng.standard_normal((num, posterior.guide.noise_dim))


@lru_cache(maxsize=64)
def _potential(guide: Guide, log_joint: LogJoint) -> Any:
    """Return minus the log density of the noise of q under the posterior."""
    difference = log_difference(guide, log_joint)

    def potential(params: Any, data: Any, weights: Any, eps: Any) -> Any:
        log_normal = -0.5 * (eps**2 + LOG_2PI).sum()
        terms = difference(params, data, eps)
        return -(terms.total() if weights is None else terms.weighted(weights)) - log_normal

    return potential


def _verdict(record: FitRecord, columns: Floats, divergent: float) -> Verdict:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    names = quantity_names(record.global_posterior)
    varies = np.ptp(columns, axis=(0, 1)) > 0
    split = columns if len(columns) > 1 else columns.reshape(2, -1, columns.shape[-1])
    rhat = np.where(varies, split_gelman_rubin(split), 1.0)
    ess = np.where(varies, effective_sample_size(columns), np.inf)
    worst, least = int(np.nanargmax(rhat)), int(np.nanargmin(ess))
    found = (
        f"NUTS: R-hat at most {rhat[worst]:.3f} ({names[worst]}), at least {ess[least]:,.0f} "
        f"effective draws ({names[least]}), {divergent:.1%} divergent."
    )
    # chains that begin at draws of one mode seldom find another
    apart = [alarm for alarm in alarms_of(record) if alarm.cause in ("multimodal", "labels")]
    if apart:
        reasons = (found, *(alarm.reason for alarm in apart))
        return Verdict("poor", reasons, REMEDIES[apart[0].cause])
    good = rhat[worst] <= MAX_RHAT and ess[least] >= MIN_ESS and divergent <= MAX_DIVERGENT
    if good:
        return Verdict("good", (found,))
    action = "run it longer, with a target_accept_prob nearer to 1, or reparameterise the model."
    return Verdict("poor", (f"{found} That is not enough to rely on.",), action)
