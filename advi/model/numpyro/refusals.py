"""Explanations of NumPyro's errors that do not name their cause, such as bare assertions."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import numpy as np

NOT_BROADCAST = "Incompatible shapes for broadcasting"


class UnseededError(TypeError):
    """A random key was needed, and there is none."""


RANDOM = (
    "draws random numbers outside of its sample sites (numpyro.prng_key(), or a network with "
    "dropout); expected a density that depends on latents and data alone. Draw them in a "
    "numpyro.sample site, draw them before and bind them, or run the network without dropout."
)


@contextmanager
def explained(model: object) -> Iterator[None]:
    """Turn errors of NumPyro in running a model that do not name their cause into TypeErrors."""
    try:
        yield
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise TypeError(f"{model!r} {reason}") from error


def _reason(error: Exception) -> str | None:
    frames = [(frame.f_code.co_name, frame.f_locals) for frame, _ in walk_tb(error.__traceback__)]
    inside = dict(frames)  # the innermost of each name
    messages = [values["msg"] for name, values in frames if name == "apply_stack"]
    drawn = [msg["name"] for msg in messages if msg["type"] == "sample"]
    if isinstance(error, NotImplementedError) and frames[-1][0] == "sample" and drawn:
        return f"has a site {drawn[0]!r} that cannot be drawn from: it may have an improper prior."
    without_key = isinstance(error, UnseededError) or "PRNG key" in str(error)
    if without_key or (isinstance(error, AssertionError) and not str(error)):
        if "_subs_wrapper" in inside:
            called = inside["_subs_wrapper"]
            return (
                f"scans over {called['length']} steps, but its site {called['site']['name']!r} is "
                "given values for fewer: the others would be drawn at random. Expected a scan of "
                "as many steps as there are values. Fit it so, and forecast by fit.predictive(n, "
                "data) with data for more steps."
            )
        if drawn:
            return (
                f"has a site {drawn[0]!r} that gets no value: it is hidden from what gives one, "
                "as handlers.block(hide=...) does. Expected every latent to be seen. Leave the "
                "handler out, or give the site a value inside it by handlers.substitute."
            )
        return RANDOM if without_key else None
    if drawn and NOT_BROADCAST in str(error) and "_masked_observe" not in inside:
        stack = messages[-1]["cond_indep_stack"]
        plates = ", ".join(f"{frame.name!r} of size {frame.size}" for frame in stack)
        if not plates:
            return None
        return (
            f"has a site {drawn[-1]!r} whose shapes do not broadcast inside of plate {plates}: "
            f"{str(error).rstrip('.')}. Expected data as long as the plate: give it the length of "
            "the data, or the size of all rows with subsample_size=len(data). Arrays that are "
            "bound stay as they are, for batches and new rows too: give those by row as data."
        )
    if "_masked_observe" in inside and "broadcast" in str(error):
        called = inside["_masked_observe"]
        return _misfit(called["name"], called["fn"], called["obs"], called["obs_mask"])
    return None


def _misfit(name: str, fn: Any, obs: Any, obs_mask: Any) -> str:
    return (
        f"has a site {name!r} with an obs_mask of shape {np.shape(obs_mask)} and values of shape "
        f"{np.shape(obs)}; expected a mask that broadcasts with the batch shape {fn.batch_shape} "
        f"of its distribution, one entry for each event of shape {fn.event_shape}. An event that "
        "is observed in part needs a latent for the rest."
    )
