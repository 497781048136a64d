"""Writing a fit to one file that is readable without the model's code and data."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from advi.core.archive import Name, write
from advi.core.keys import key_words
from advi.model.coordinates import by_key
from advi.model.density import SOME_ROWS
from advi.model.latents import Latent
from advi.model.model import Model
from advi.posterior.base import Posterior, density_of
from advi.posterior.global_posterior import GlobalPosterior
from advi.posterior.record import FitRecord, Outcome
from advi.results.codec import to_data
from advi.results.stored_params import infinite_draws, params_of
from advi.variational.gaussian import Gaussian

KIND, VERSION = "a fit", 2
HOLDING = 2  # the first version with latents that are held; a file has the lowest that it needs
# fields of `Outcome` with a format of their own; all others are in "further"
OWN_PLACE = frozenset({"status", "elbo", "trace", "num_gradients", "held_out_gap", "other_modes"})
# fields of every `Progress`
TRACE = {"stage": np.str_, "step": np.int64, "elbo": np.float64, "eval_elbo": np.float64}


@dataclass(frozen=True)
class MissingLogJoint:
    """Placeholder for the log-joint of a loaded fit, which raises an error when evaluated."""

    path: str  # of the file

    def __call__(self, z: Any, data: Any) -> Any:
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
    unknown = Gaussian.diagonal(np.full(model.size, np.nan), np.nan)
    at_modes = [mode.gaussian or unknown for mode in modes]
    document = {
        "float": posterior.float_dtype,
        "latents": to_data(_latents(model, guide.local)),
        "num_rows": model.num_rows if guide.local else None,
        "blocks": [
            _to_data(block, f"the family of {', '.join(map(repr, block.names))}")
            for block in guide.blocks
        ],
        "choices": list(guide.choices),
        "status": [str(outcome.status), outcome.status.message],
        "key": list(key_words(record.key)),
        "num_gradients": outcome.num_gradients,
        "num_values": density_of(record.posterior).num_values,
        "infinite": infinite_draws(guide, params, weighted, posterior.float_dtype),
        "further": _further(outcome),
        "labels": _labels(model),
    }
    held = model.held
    if model.row_axes:
        document["row_axes"] = dict(model.row_axes)
    if held:
        document["held"] = list(held)
    arrays: dict[str, Any] = {
        "elbo": np.array(outcome.elbo, float),
        "held_out_gap": np.array(outcome.held_out_gap, float),
        "rivals.elbo_difference": np.array([mode.elbo_difference for mode in modes], float),
        "rivals.distance": np.reshape([mode.distance for mode in modes], (-1, model.size)),
        "rivals.loc": np.reshape([q.loc for q in at_modes], (-1, model.size)),
        "rivals.sds": np.reshape([q.sds for q in at_modes], (-1, model.size)),
    }
    for i, (name, value) in enumerate(held.items()):
        arrays[f"held.{i}"] = np.broadcast_to(value, model.latents[name].shape)
    for field, dtype in TRACE.items():
        arrays[f"trace.{field}"] = np.array([getattr(p, field) for p in outcome.trace], dtype)
    for i in range(len(guide.blocks)):
        leaves = jax.tree.leaves(params[i])
        params_of(guide, i, leaves, posterior.float_dtype)  # so that the file is readable
        arrays |= {f"params.{i}.{k}": leaf for k, leaf in enumerate(leaves)}
    if weighted is not None:
        points, weights = weighted
        arrays |= {"corrected.points": points, "corrected.weights": weights}
    if record.examination is not None:
        verdict, khat, comparison, _ = record.examination
        document["verdict"] = [verdict.level, list(verdict.reasons), verdict.action]
        arrays["khat"] = np.array(khat, float)
        if comparison is not None:
            document["method"] = comparison.method
            arrays |= {"shift": comparison.shift, "log_ratio": comparison.log_ratio}
    write(path, KIND, HOLDING if held else 1, document, arrays)


def _labels(model: Model) -> dict[str, Any]:
    """Return the names of axes, and the labels of the fit; as pairs, in their order."""
    latents = {n: list(axes) for n, axes in model.axes.dims.items() if n in model.latents}
    for name, axis in model.row_axes.items():  # rows come first where a model is declared
        if name in latents:
            latents[name].insert(0, latents[name].pop(axis))
    named = {"dims": latents, "coords": model.coords, "categories": model.categories}
    return {kind: [[name, list(found[name])] for name in found] for kind, found in named.items()}


def _further(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome without a format of their own: numbers and sentences."""
    fields = {k: v for k, v in vars(outcome).items() if k not in OWN_PLACE}
    # JSON has neither NaN nor infinity
    return {k: repr(v) if isinstance(v, float) else to_data(v) for k, v in fields.items()}


def _with_tables(record: FitRecord) -> Posterior:
    """Return the posterior with encoders replaced by tables for the fitted rows."""
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
    """Return the tree of the latents for the file, dicts in their order of declaration.

    Each has its present transform, whatever is registered on loading, and no initial value. Local
    latents have the shape of one row. A node that is no dict, list or tuple, such as a module of a
    network, becomes a dict of its parts by their keys, in which all latents keep their names.
    """
    stored = {}
    for name, latent in model.latents.items():
        shape = latent.shape[1:] if name in local else latent.shape
        stored[name] = Latent(latent.constraint, shape, local=name in local, transform=latent.free)
        _to_data(stored[name], f"latent {name!r}")  # fails here, with the name
    position = {name: i for i, name in enumerate(stored)}

    def ordered(node: Any) -> Any:
        if type(node) is str:
            return stored[node]
        if type(node) in (list, tuple):
            return type(node)(map(ordered, node))
        if type(node) is not dict:
            node = by_key(node)
        first = {k: min(map(position.get, jax.tree.leaves(v)), default=0) for k, v in node.items()}  # type: ignore[arg-type]
        return {key: ordered(node[key]) for key in sorted(node, key=first.__getitem__)}

    return ordered(model.to_tree({name: name for name in stored}))


def _to_data(value: Any, name: str) -> Any:
    try:
        return to_data(value)
    except TypeError as error:
        raise TypeError(f"save: {name}: {error}") from None
