"""A model with data whose moments are to be known, and how NUTS is to sample it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]  # a latent's name to its value


def as_sampled(z: Values) -> Values:
    """Return the latents: most models are sampled as they are fitted."""
    return z


@dataclass(frozen=True)
class Problem:
    """A model and its data.

    Attributes
    ----------
    name
        What it is called.
    model
        What `advi.fit` takes.
    data
        As the model takes them.
    source
        Where the data are from, one line.
    sampled
        What the reference samples where that is not the model: a NumPyro program with the same
        latents, or a model of the same posterior in other coordinates, which NUTS can explore.
    latents
        From draws of `sampled` to those of the model's latents.
    """

    name: str
    model: Any
    data: Any
    source: str = "no data"
    sampled: Any = None
    latents: Callable[[Values], Values] = as_sampled
