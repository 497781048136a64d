"""The loss by an encoder: its ELBO on each row against that of parameters refined for the row.

Cremer, Li & Duvenaud (2018), Inference Suboptimality in Variational Autoencoders.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from advi.core.errors import check_count, describe
from advi.core.jax_config import compiled, mixed_dtypes, precision
from advi.core.keys import Stream, device_key, host_rng
from advi.core.status import Estimate, RowValues
from advi.model.real_density import real_log_density
from advi.model.trace import LogJoint, trace
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.programs import log_difference
from advi.variational.amortised import Amortised
from advi.variational.guide import Guide
from advi.variational.objective import Elbo

REFINE_RATE, REFINE_DRAWS = 0.03, 4
GAP_DRAWS = 64


@dataclass(frozen=True, eq=False, repr=False)
class AmortisationGap:
    """The result of `amortisation_gap`.

    Attributes
    ----------
    encoder
        ELBO per row with the encoder, nats, mean over rows.
    refined
        The same with parameters of each row's own, after `steps` steps from the encoder's.
    gap
        Their paired difference per row; positive where the encoder loses.
    rows
        (n,) the difference of every row, nats.
    steps
        Steps of refinement.
    """

    encoder: Estimate
    refined: Estimate
    gap: Estimate
    rows: NDArray[np.float64]
    steps: int

    def __repr__(self) -> str:
        return (
            f"ELBO per row on {len(self.rows)} rows, nats\n"
            f"  encoder: {self.encoder}\n"
            f"  refined: {self.refined}, by {self.steps} steps for every row\n"
            f"  amortisation gap: {self.gap}, the mean of paired differences ± its standard error"
        )


def amortisation_gap(fit: Any, data: Any, *, steps: int = 200, key: Any = 0) -> AmortisationGap:
    """Compare an encoder with parameters that are refined for each row, all others fixed.

    A large gap says that a larger encoder, or longer training, would raise the ELBO without any
    change to the model; the rest, between the refined ELBO and `Fit.log_marginal`, is due to the
    family.

    Parameters
    ----------
    fit
        A fit with an `Amortised` family.
    data
        Rows, best held out from the fit; a tree like the data of the fit.
    steps
        Steps of Adam on the parameters of every row, at a rate that falls from 0.03 to zero.
    key
        Integer or JAX key.

    Raises
    ------
    TypeError, ValueError
        If `fit` has no encoder, `data` does not fit, or `steps` is not a positive integer.

    References
    ----------
    Cremer, Li & Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, section 3.

    Examples
    --------
    >>> import advi, numpy as np
    >>> def log_joint(z, x):
    ...     return advi.Terms(0.0, rows=-0.5 * (z["h"] ** 2 + (x - z["h"]) ** 2))
    >>> model = advi.Model(log_joint, {"h": advi.real(local=True)})
    >>> def encode(params, x):
    ...     return params["a"] * x[None], params["log_sd"]
    >>> start = {"a": np.array([0.5]), "log_sd": np.array([-0.35])}
    >>> x = np.linspace(-1, 1, 20)
    >>> fit = advi.fit(model, x, family=advi.Amortised(encode, start), max_steps=1)
    >>> bool(abs(advi.amortisation_gap(fit, x).gap.value) < 0.01)
    True
    """
    posterior = getattr(fit, "posterior", None)
    if not isinstance(posterior, GlobalPosterior | LocalPosterior):
        raise TypeError(f"fit: got {describe(fit)}; expected an advi.Fit.")
    amortised = any(isinstance(b.family, Amortised) for b in posterior.guide.blocks)
    if not amortised or not isinstance(posterior, LocalPosterior):
        raise ValueError(
            f"amortisation_gap: got a fit with {posterior.guide.description}; expected one with an "
            "encoder, advi.Amortised(encode, params)."
        )
    check_count("steps", steps)
    posterior = posterior.on(data)
    rows, guide = posterior.rows, posterior.chunk_guide
    program = _program(guide, trace(guide.model, rows.chunk_spec))
    rng = host_rng(key, Stream.GAP)
    gap_key = device_key(key, Stream.GAP_STEPS)
    before, after = [], []
    with precision(rows.spec.float_dtype):
        for number, (batch, index, count) in enumerate(rows.chunks()):
            eps = rng.standard_normal((GAP_DRAWS, guide.noise_dim)).astype(rows.spec.float_dtype)
            pair = program(posterior.at(index), batch, gap_key, number, eps, steps)
            for values, out in zip(pair, (before, after), strict=True):
                out.append(jax.device_get(values)[:count].astype(np.float64))
    encoder, refined = np.concatenate(before), np.concatenate(after)
    gap = RowValues.of(refined - encoder)
    return AmortisationGap(
        RowValues.of(encoder).mean, RowValues.of(refined).mean, gap.mean, gap.rows, int(steps)
    )


@lru_cache(maxsize=64)
def _program(guide: Guide, log_joint: LogJoint) -> Any:
    """Return the compiled function to the ELBOs (C,) of rows before and after refinement."""
    objective = Elbo(estimator="stl")  # without noise where the family can be exact
    log_p = real_log_density(guide.model, log_joint, guide.estimated)
    differences = jax.vmap(log_difference(guide, log_joint), in_axes=(None, None, 0))
    local = [b.local for b in guide.blocks]

    def program(params: Any, batch: Any, key: Array, chunk: Array, eps: Array, steps: Array) -> Any:
        key = jax.random.fold_in(key, chunk)
        optimizer = optax.adam(lambda step: REFINE_RATE * (1 - step / steps))
        fixed = tuple(() if own else p for own, p in zip(local, params, strict=True))

        def joined(tables: Any) -> Any:
            return tuple(t if o else f for o, t, f in zip(local, tables, fixed, strict=True))

        def step(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            tables, state = carry
            eps = objective.noise(jax.random.fold_in(key, i), REFINE_DRAWS, guide.noise_dim)

            def loss(tables: Any) -> Array:
                # rows share no parameters here: the sum's gradient is that of each row's ELBO
                return -objective.value(lambda z: log_p(z, batch), guide, joined(tables), eps)

            gradients = jax.grad(loss)(tables)
            with mixed_dtypes():
                updates, state = optimizer.update(gradients, state, tables)
            return optax.apply_updates(tables, updates), state

        start = tuple(p if own else () for own, p in zip(local, params, strict=True))
        refined, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
        return tuple(differences(p, batch, eps).rows.mean(0) for p in (params, joined(refined)))

    return compiled(program)
