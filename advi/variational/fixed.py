"""Latents that are held at a value while the others are fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advi.core.arrays import on_host, real_numbers
from advi.core.errors import describe, format_value, listed
from advi.model.model import Model


@dataclass(frozen=True, eq=False)
class Fixed:
    """A value at which a latent is held, instead of being inferred: the posterior given that value.

    In a dict of families, ``family={"tau": advi.Fixed(1.0)}``, beside those of the other latents.
    The latent has no coordinate, no optimiser sees it, and it counts as a constant in every result.
    The log density is that of the model at the value. As of a `Point`, it has no log-Jacobian of
    the latent, and the ELBO is a lower bound on log p(data, value), in nats: fits at several values
    compare these. `Fit.refine` leaves the latent held; ``advi.fit(model, data, init=fit)`` frees
    it, and starts at the value.

    Parameters
    ----------
    value
        On the constrained scale, inside the support; it is broadcast to the latent's shape. For
        the name of a subtree, such as the parameters of a network, a pytree of that structure; for
        a tuple of names, a tuple of their values. Of a local latent it is the value of every row,
        or has one for each row, with the axes of the latent in the draws; not for steps of an
        optimiser, where the values are a part of the data.

    Raises
    ------
    TypeError
        By `fit`, if the value holds no real numbers.
    ValueError
        By `fit`, if the value has another structure or shape, or is outside of the support; if no
        latent is left to fit; or if a local latent is held in steps of an optimiser.

    Examples
    --------
    >>> import advi
    >>> def log_joint(z, y):
    ...     return -z["tau"] - 0.5 * ((y - z["mu"]) / z["tau"]) ** 2 - 0.5 * z["mu"] ** 2
    >>> model = advi.Model(log_joint, {"mu": advi.real(), "tau": advi.positive()})
    >>> fit = advi.fit(model, np.float32(2.0), family={"tau": advi.Fixed(1.0)})
    >>> float(fit.mean()["mu"]), float(fit.mean()["tau"]), float(fit.sd()["tau"])
    (1.0, 1.0, 0.0)
    """

    value: Any


def values_of(
    model: Model, key: Any, names: Sequence[str], value: Any, local: frozenset[str]
) -> dict[str, NDArray[Any]]:
    """Return the values at which the latents `names` of a key in a dict of families are held.

    `local` are the latents with parameters for every row.
    """
    if of_rows := [name for name in names if name in local]:
        raise ValueError(
            f"family: {listed(of_rows)} is local, one value per row, and steps of an optimiser do "
            "not hold it by advi.Fixed; expected its values as a part of the data, or the "
            "automatic plan, without optimizer, batch_size and streams."
        )
    parts, wanted = {key: value}, (key,)
    if isinstance(key, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(key):
            raise ValueError(
                f"family[{key!r}]: got advi.Fixed of {describe(value)}; expected a tuple of "
                f"{len(key)} values, one for each name."
            )
        parts, wanted = dict(zip(key, value, strict=True)), key
    given: dict[str, Any] = {}
    for part in wanted:
        found = {part: parts[part]} if part in model.latents else model.named(parts[part], part)
        if set(found) != set(model.resolve(part)):
            raise ValueError(
                f"family[{part!r}]: got advi.Fixed of values for {listed(sorted(found))}; "
                f"expected a pytree of the structure of the latents {listed(model.resolve(part))}."
            )
        given |= found
    return {name: _checked(model, name, given[name]) for name in names}


def _checked(model: Model, name: str, value: Any) -> NDArray[Any]:
    """Return a value of one latent's shape, of a local latent of one row or of all, rows first."""
    latent, what = model.latents[name], f"family[{name!r}]"
    shapes, told = [latent.shape], ""
    if name in model.local and model.num_rows is not None:
        shapes = [latent.shape[1:], model.shapes[name]]
        told = f", or {shapes[1]}, of all {model.num_rows} rows: it is local"
    array = on_host(real_numbers(f"{what}: advi.Fixed", value))
    array = array if array.dtype.kind == "f" else array.astype(float)
    shape = next((shape for shape in shapes if _broadcasts(array.shape, shape)), None)
    if shape is None:
        raise ValueError(
            f"{what}: got advi.Fixed of {describe(value)}; expected a value that broadcasts to "
            f"the shape {shapes[0]} of the latent{told}."
        )
    array = np.array(np.broadcast_to(array, shape))
    if shape != shapes[0]:
        array = model.rows_first(name, array)
    if not np.all(latent.constraint(array)) or not np.all(np.isfinite(array)):
        raise ValueError(
            f"{what}: got advi.Fixed({format_value(array)}); expected a value inside the support "
            f"{latent.constraint}."
        )
    return array


def _broadcasts(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Return whether an array of one shape broadcasts to another."""
    try:
        return np.broadcast_shapes(part, whole) == whole
    except ValueError:
        return False


def require_free(model: Model, held: Mapping[str, Any]) -> None:
    """Raise ValueError if no coordinate is left beside the latents that are held."""
    if not sum(latent.size for name, latent in model.latents.items() if name not in held):
        raise ValueError(
            f"family: got advi.Fixed for every latent, {listed(list(model.latents))}; expected one "
            "at least to fit. advi.log_density(model, data) evaluates a model at its values."
        )


def already_held(name: str) -> ValueError:
    """Return the error for a family of a latent that the fit holds at a value."""
    return ValueError(
        f"family: latent {name!r} is held by advi.Fixed; expected families of the others. To free "
        "it, make a new fit: advi.fit(model, data, init=fit)."
    )
