"""Sets of draws: weighted points of R^D, and draws by latent with their moments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advi.core.arrays import on_host, real_numbers
from advi.core.axes import NO_AXES, Axes, entry_names, numbered_entry
from advi.core.errors import check_names, describe, unknown
from advi.core.table import Table, largest
from advi.core.types import Floats

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


# draws of a fit that diverged may be infinite
quietly = np.errstate(over="ignore", invalid="ignore")


# of latents, of entries, or of all below: "eta", "eta[Aitkin]" or "eta[3]", "s"
Names = Sequence[str] | str | None


PROBS = (0.05, 0.5, 0.95)


class Coordinate(NamedTuple):
    """A scalar coordinate of a latent, or of a deterministic quantity."""

    label: str
    name: str
    entry: int  # of the flattened value

    def column(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return this entry of values (S, *shape) of the whole, (S,)."""
        return _flat(values)[:, self.entry].astype(np.float64)


class DrawSet(NamedTuple):
    """Draws by latent, with weights if they have any."""

    values: Mapping[str, Float[ndarray, "S ..."]]
    weights: Float[ndarray, " S"] | None = None  # sum to one; None for equal weights
    axes: Axes = NO_AXES  # by which entries are named

    def unwrapped(self, angles: Sequence[str]) -> DrawSet:
        """Return the draws with angles within half a turn of their mean direction.

        Their moments then are those of the angle, wherever it is cut.

        Examples
        --------
        >>> draws = DrawSet({"x": np.array([3.0, 3.1, -3.1])})
        >>> float(draws.unwrapped(["x"]).mean()["x"].round(2))
        3.09
        """
        values = dict(self.values)
        for name in angles:
            x = values[name]
            direction = np.arctan2(self._average(np.sin(x)), self._average(np.cos(x)))
            away = x - direction
            values[name] = direction + np.arctan2(np.sin(away), np.cos(away))
        return self._replace(values=values)

    @quietly
    def mean(self) -> dict[str, Any]:
        """Return the mean of every latent."""
        return {name: self._average(v) for name, v in self.values.items()}

    @quietly
    def sd(self) -> dict[str, Any]:
        """Return the standard deviation of every latent, of equal draws exactly 0."""
        return {name: self._sd(v) for name, v in self.values.items()}

    @quietly
    def quantile(self, q: float | Sequence[float] | Floats) -> dict[str, Any]:
        """Return quantiles of every latent, (*q.shape, *shape)."""
        return {name: self._quantile(v, q) for name, v in self.values.items()}

    @quietly
    def cov(self, names: Names = None) -> Float[ndarray, "K K"]:
        """Return the covariance (K, K) of scalar coordinates."""
        columns = self.columns(self.coordinates(names))
        centred = columns - self._average(columns)
        weights = np.full(len(columns), 1 / len(columns)) if self.weights is None else self.weights
        return (weights[:, None] * centred).T @ centred

    @quietly
    def summary(
        self,
        names: Names = None,
        sort: str | None = None,
        top: int | None = None,
        probs: Any = PROBS,
    ) -> Table:
        """Return mean, sd and quantiles of scalar coordinates.

        By a column, the largest first, and of them the `top`.
        """
        quantiles = _percent(probs)
        if names is None:
            shapes = {name: v.shape[1:] for name, v in self.values.items()}
            rows = tuple(
                c for name, shape in shapes.items() for c in entry_names(name, shape, self.axes)
            )
            columns = np.concatenate([_flat(v) for v in self.values.values()], axis=1)
        else:
            chosen = self.coordinates(names)
            rows = tuple(coordinate.label for coordinate in chosen)
            columns = self.columns(chosen)
        flat = DrawSet({"": columns}, self.weights)
        found = {"mean": flat.mean()[""], "sd": flat.sd()[""]}
        if quantiles:
            found |= zip(quantiles, flat.quantile([*quantiles.values()])[""], strict=True)
        # two digits of the sd, and all others to the same place
        return largest(Table(rows, found, errors=dict.fromkeys(found, "sd")), sort, top)

    def coordinates(self, names: Names = None) -> list[Coordinate]:
        """Return the scalar coordinates of names, each once; TypeError or ValueError if unknown."""
        everything: dict[str, list[Coordinate]] = {}
        for name, values in self.values.items():
            labels = entry_names(name, values.shape[1:], self.axes)
            everything[name] = [Coordinate(label, name, k) for k, label in enumerate(labels)]
        by_label = {c.label: c for found in everything.values() for c in found}
        found: dict[Coordinate, None] = {}
        for name in everything if names is None else check_names("names", names):
            if name in by_label:
                found[by_label[name]] = None
                continue
            below = [known for known in everything if f"{known}.".startswith(f"{name}.")]
            whole = name.partition("[")[0]
            if not below and whole in everything:
                found[self._entry(name, whole, everything[whole])] = None
                continue
            if not below:
                raise ValueError(f"names: {unknown('latent', name, everything)}")
            found |= dict.fromkeys(c for known in below for c in everything[known])
        if not found:
            raise ValueError("names: got none; expected at least one latent with an entry.")
        return list(found)

    def _entry(self, name: str, whole: str, entries: Sequence[Coordinate]) -> Coordinate:
        """Return an entry of a value by its numbers; ValueError if there is none."""
        shape = self.values[whole].shape[1:]
        place = numbered_entry(name, whole, shape, self.axes)
        if place is None:
            labels = [entry.label for entry in entries]
            near = difflib.get_close_matches(name, labels, n=1) or labels[-1:]
            raise ValueError(
                f"names: got {name!r}, which is no entry of {whole!r} of shape {shape}; "
                f"expected one like {(near or [whole])[0]!r}."
            )
        return entries[place]

    def columns(self, coordinates: Sequence[Coordinate]) -> Float[ndarray, "S K"]:
        """Return the draws of scalar coordinates."""
        return np.stack([c.column(self.values[c.name]) for c in coordinates], axis=1)

    def _average(self, values: Floats) -> Any:
        if self.weights is None:
            return values.mean(0)
        return np.tensordot(self.weights, values, axes=1)

    def _sd(self, values: Floats) -> Any:
        found = np.sqrt(self._average((values - self._average(values)) ** 2))
        return np.where(np.ptp(values, axis=0) == 0, 0 * found, found)[()]

    def _quantile(self, values: Floats, q: float | Sequence[float] | Floats) -> Any:
        if self.weights is None:
            return np.quantile(values, q, axis=0)
        columns = _flat(values)
        order = np.argsort(columns, axis=0, kind="stable")
        reached = np.cumsum(self.weights[order], axis=0) / self.weights.sum()  # distribution
        levels = np.asarray(q, float).reshape(-1, 1)
        last = len(columns) - 1
        places = np.array([np.minimum((reached < level).sum(0), last) for level in levels])
        found = np.take_along_axis(columns, np.take_along_axis(order, places, axis=0), axis=0)
        found = np.where(np.isnan(columns).any(0), np.nan, found)
        return found.reshape((*np.shape(q), *values.shape[1:]))


def _percent(probs: Any) -> dict[str, float]:
    """Return probabilities by the names of their columns, "5%"; ValueError if they are none."""
    found = np.atleast_1d(on_host(real_numbers("probs", probs), float))
    names = [f"{100 * p:.10g}%" for p in found.ravel()]
    between = np.all((found >= 0) & (found <= 1))
    if found.ndim != 1 or not between or len(set(names)) < len(names):
        raise ValueError(
            f"probs: got {describe(probs)}; expected probabilities between 0 and 1, each once."
        )
    return dict(zip(names, found.tolist(), strict=True))


def _flat(values: Floats) -> Floats:
    return values.reshape(len(values), -1)


class WeightedDraws(NamedTuple):
    """Points on R^D and their normalised weights."""

    points: Float[ndarray, "S D"]
    weights: Float[ndarray, " S"]  # sum to one

    @property
    def ess(self) -> float:
        """Kish's effective number of draws, 1 / sum w^2."""
        return float(1 / np.sum(self.weights**2))

    def resample(self, num: int, rng: np.random.Generator) -> Float[ndarray, "num D"]:
        """Return `num` points drawn by systematic resampling, in random order."""
        levels = (np.arange(num) + rng.random()) / num
        index = np.searchsorted(np.cumsum(self.weights), levels, side="right")
        return self.points[rng.permutation(np.minimum(index, len(self.weights) - 1))]


def weighted_moments(
    values: Float[ndarray, "S K"], weights: Float[ndarray, " S"]
) -> tuple[Float[ndarray, " K"], Float[ndarray, " K"]]:
    """Return weighted means and sds (K,) of columns (S, K)."""
    mean = weights @ values
    variance = weights @ (values - mean) ** 2
    return mean, np.sqrt(variance)
