"""Effect handlers that make a NumPyro model a function of its latents and its data."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Delta, Unit
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from advi.model.numpyro.refusals import UnseededError
from advi.model.numpyro.supports import plain, support_of


class WholePlates(Messenger):
    """Handler that gives every plate all of its indices: minibatches are taken from the data.

    `lengths` has the number of indices of plates where it is not the plate's size. Nor is it where
    the data are the plate's subsample already: their rows are the indices. `rows` are the leading
    axes of the data, by which that is seen; None takes every subsample for the data's.
    """

    def __init__(self, lengths: Mapping[str, int], rows: Collection[int] | None = ()) -> None:
        Messenger.__init__(self)
        self.lengths, self.rows = lengths, rows
        self.declared: dict[str, tuple[int, int]] = {}  # size and subsample size by plate
        self.filled: dict[str, int] = {}  # length of the plates whose subsample the data are
        self.scales: dict[str, float] = {}  # NumPyro's factors of the sites inside, by plate

    def _is_filled(self, size: int, subsample_size: int) -> bool:
        by_rows = self.rows is None or (subsample_size in self.rows and size not in self.rows)
        return subsample_size < size and by_rows

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "subsample":
            msg["type"] = "subsampled"  # there are no other rows for the plates to take
        if msg["type"] == "plate":
            name, (size, subsample_size) = msg["name"], msg["args"]
            length = self.lengths.get(name, size)
            if name not in self.lengths and self._is_filled(size, subsample_size or size):
                length = self.filled[name] = subsample_size
            before = self.declared.get(name, (size,))[0]
            if before != size:
                raise ValueError(
                    f"the plate {name!r} has the size {before} at one place and {size} at another; "
                    "expected one size. Give plates of different things different names."
                )
            self.declared[name] = (size, subsample_size or size)
            self.scales[name] = size / length
            msg["value"] = jnp.arange(length)
            msg["args"] = (size, length)


class NothingRandom(Messenger):
    """Handler that raises UnseededError if a key is needed, as for a site without a value."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "prng_key":
            raise UnseededError


class KnownValues(Messenger):
    """Handler that gives sample sites with a single possible value, `dist.Delta`, that value.

    They become observed sites, marked as auxiliary: no observations of the model's.
    """

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["value"] is None:
            known = plain(msg["fn"])
            if isinstance(known, Delta):
                shape = (*msg["kwargs"]["sample_shape"], *msg["fn"].shape())
                msg["value"], msg["is_observed"] = jnp.broadcast_to(known.v, shape), True
                msg["infer"] = {**msg["infer"], "is_auxiliary": True}


def is_data(site: Any) -> bool:
    """Return whether a site is an observed one, no factor and no known value."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    return not (site["infer"].get("is_auxiliary") or isinstance(plain(site["fn"]), Unit))


class Unobserved(Messenger):
    """Handler that leaves observed sites, but factors and known values, to be drawn."""

    def process_message(self, msg: Any) -> None:
        if is_data(msg):
            msg["value"], msg["is_observed"] = None, False


class DependentSupports(Messenger):
    """Handler that maps real coordinates to latents whose support depends on other latents."""

    def __init__(self, coordinates: dict[str, Array]) -> None:
        Messenger.__init__(self)
        self.coordinates = coordinates  # by site
        self.log_det: Any = 0.0  # log-Jacobian of the maps, nats, once the model has run

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.coordinates:
            x, transform = self.coordinates[msg["name"]], biject_to(support_of(msg["fn"]))
            msg["value"] = transform(x)
            self.log_det += jnp.sum(transform.log_abs_det_jacobian(x, msg["value"]))
