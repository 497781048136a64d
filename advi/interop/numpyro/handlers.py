"""Effect handlers that make a NumPyro model a function of its latents and its data."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger


class WholePlates(Messenger):
    """Handler that gives every plate all of its indices: minibatches are taken from the data.

    Parameters
    ----------
    lengths
        Plate's name to the number of indices, where that is not the plate's size.

    Attributes
    ----------
    declared : dict
        Plate's name to the size and the subsample size that the model declares.
    scales : dict
        Plate's name to the factor by which NumPyro scales the sites inside.
    """

    def __init__(self, lengths: dict[str, int]) -> None:
        Messenger.__init__(self)
        self.lengths = lengths
        self.declared: dict[str, tuple[int, int]] = {}
        self.scales: dict[str, float] = {}

    def process_message(self, msg: Any) -> None:
        """Set the indices of a plate."""
        if msg["type"] == "plate":
            name, (size, subsample_size) = msg["name"], msg["args"]
            length = self.lengths.get(name, size)
            self.declared[name] = (size, subsample_size or size)
            self.scales[name] = size / length
            msg["value"] = jnp.arange(length)
            msg["args"] = (size, length)


class MovingSupports(Messenger):
    """Handler that maps real coordinates to values of latents whose support moves with others.

    Parameters
    ----------
    coordinates
        Site's name to its real coordinates.

    Attributes
    ----------
    log_det
        Log-Jacobian of the maps, nats, once the model has run.
    """

    def __init__(self, coordinates: dict[str, Array]) -> None:
        Messenger.__init__(self)
        self.coordinates = coordinates
        self.log_det: Any = 0.0

    def process_message(self, msg: Any) -> None:
        """Set the value of a latent."""
        if msg["type"] == "sample" and msg["name"] in self.coordinates:
            x, transform = self.coordinates[msg["name"]], biject_to(msg["fn"].support)
            msg["value"] = transform(x)
            self.log_det += jnp.sum(transform.log_abs_det_jacobian(x, msg["value"]))
