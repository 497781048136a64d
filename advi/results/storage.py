"""A fit as one file, which needs neither the model's code nor the data to be read: writing it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from advi.core.archive import Name, write
from advi.core.errors import describe
from advi.core.keys import key_words
from advi.model.density import SOME_ROWS
from advi.model.latents import Latent
from advi.model.model import Model
from advi.posterior.base import density_of
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.local_posterior import LocalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.results.codec import to_data
from advi.results.stored_params import infinite_draws, params_of
from advi.variational.block import Block

KIND, VERSION = "a fit", 1
# fields of `Outcome` that are written in a form of their own; all others are in "further"
OWN_PLACE = frozenset({"status", "elbo", "trace", "num_gradients", "held_out_gap", "other_modes"})
# of every `Progress`
TRACE = {"stage": np.str_, "step": np.int64, "elbo": np.float64, "eval_elbo": np.float64}


@dataclass(frozen=True)
class MissingLogJoint:
    """Stands for the log-joint of a fit that was loaded: whatever evaluates it says it is gone.

    Attributes
    ----------
    path
        The file.
    """

    path: str

    def __call__(self, z: Any, data: Any) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError(
            f"this fit was loaded from {self.path}, without its model and data, and this needs the "
            "log-joint: fit again, from here with advi.fit(model, data, init=loaded). Draws, "
            "moments, summaries and log_prob are there without."
        )


def save(record: FitRecord, path: Name) -> None:
    """Write a fit; see `Fit.save`."""
    posterior, outcome = _with_tables(record), record.outcome
    guide, params, model = posterior.guide, posterior.params, posterior.model
    modes, weighted = outcome.other_modes, posterior.weighted
    document = {
        "float": posterior.float_dtype,
        "latents": to_data(_latents(model, guide.local)),
        "num_rows": model.num_rows if guide.local else None,
        "blocks": [_block_data(block) for block in guide.blocks],
        "choices": list(guide.choices),
        "status": [str(outcome.status), outcome.status.message],
        "key": list(key_words(record.key)),
        "num_gradients": outcome.num_gradients,
        "num_values": density_of(record.posterior).num_values,
        "infinite": infinite_draws(guide, params, weighted, posterior.float_dtype),
        "further": _further(outcome),
    }
    arrays: dict[str, Any] = {
        "elbo": np.array(outcome.elbo, float),
        "held_out_gap": np.array(outcome.held_out_gap, float),
        "rivals.elbo_difference": np.array([mode.elbo_difference for mode in modes], float),
        "rivals.distance": np.reshape([mode.distance for mode in modes], (-1, model.size)),
    }
    for field, dtype in TRACE.items():
        arrays[f"trace.{field}"] = np.array([getattr(p, field) for p in outcome.trace], dtype)
    for i in range(len(guide.blocks)):
        leaves = jax.tree.leaves(params[i])
        params_of(guide, i, leaves, posterior.float_dtype)  # what is written can be read
        arrays |= {f"params.{i}.{k}": leaf for k, leaf in enumerate(leaves)}
    if weighted is not None:
        points, weights = weighted
        arrays |= {"corrected.points": points, "corrected.weights": weights}
    if record.examination is not None:
        verdict, khat, comparison = record.examination
        document["verdict"] = [verdict.level, list(verdict.reasons), verdict.action]
        arrays["khat"] = np.array(khat, float)
        if comparison is not None:
            document["method"] = comparison.method
            arrays |= {"shift": comparison.shift, "log_ratio": comparison.log_ratio}
    write(path, KIND, VERSION, document, arrays)


def _further(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome that have no place of their own: numbers, and sentences."""
    names = [f.name for f in dataclasses.fields(outcome) if f.name not in OWN_PLACE]
    # JSON has neither NaN nor infinity
    return {
        name: repr(value) if isinstance(value := getattr(outcome, name), float) else to_data(value)
        for name in names
    }


def _with_tables(record: FitRecord) -> GlobalPosterior | LocalPosterior:
    """Return the posterior with tables of what its encoders give for the rows that were fitted."""
    posterior = record.posterior
    if isinstance(posterior, GlobalPosterior):
        return posterior
    if density_of(posterior).is_partial:
        raise ValueError(
            f"save: {SOME_ROWS}, and a file holds what the encoder gives for all; expected rows in "
            "memory. The encoder's parameters are in fit.posterior.params."
        )
    guide = posterior.guide.with_encoders_evaluated()
    return dataclasses.replace(posterior, guide=guide, params=posterior.tables)


def _latents(model: Model, local: frozenset[str]) -> Any:
    """Return the tree of the latents, dicts in their order of declaration, as they are stored.

    Each has the very transform its coordinates were fitted with, whatever is registered when it
    is loaded, and nowhere to start. Those in `local` are as they are in one row.
    """
    stored = {}
    for name, latent in model.latents.items():
        shape = latent.shape[1:] if name in local else latent.shape
        stored[name] = Latent(
            latent.support, shape, local=name in local, transform=latent.bijection
        )
        try:
            to_data(stored[name])
        except TypeError as error:
            raise TypeError(f"save: latent {name!r}: {error}") from None
    position = {name: i for i, name in enumerate(stored)}

    def ordered(node: Any) -> Any:
        if type(node) is str:
            return stored[node]
        if type(node) in (list, tuple):
            return type(node)(map(ordered, node))
        if type(node) is not dict:
            raise TypeError(
                f"save: the tree of the latents holds {describe(node)}; expected dicts, lists and "
                "tuples, which a file can hold."
            )
        first = {k: min(map(position.get, jax.tree.leaves(v)), default=0) for k, v in node.items()}  # type: ignore[arg-type]
        return {key: ordered(node[key]) for key in sorted(node, key=first.__getitem__)}

    return ordered(model.to_tree({name: name for name in stored}))


def _block_data(block: Block) -> Any:
    try:
        return to_data(block)
    except TypeError as error:
        names = ", ".join(map(repr, block.names))
        raise TypeError(f"save: the family of {names}: {error}") from None
