"""The results of many fits of one shape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from advi.core.errors import describe
from advi.core.table import Table
from advi.core.types import Floats
from advi.data.spec import DataSpec
from advi.diagnostics.alarms import verdict_on
from advi.inference.many.many_fits import ManyFits
from advi.posterior.base import density_of
from advi.posterior.record import FitRecord
from advi.results import pickled
from advi.results.fit import Fit
from advi.variational.guide import Guide

NO_ANSWER = ("interrupted", "diverged")
Moments = dict[str, Floats]  # by latent (n, *shape)


@dataclass(frozen=True, eq=False)
class PickledFits:
    """What `Fits` shows of many fits, without their model and data."""

    records: Sequence[FitRecord]
    refitted: frozenset[int]
    means_and_sds: tuple[Moments, Moments]

    @property
    def num(self) -> int:
        """Number of fits."""
        return len(self.records)

    @property
    def guide(self) -> Guide:
        """The family of all fits."""
        return self.records[0].posterior.guide

    @property
    def spec(self) -> DataSpec:
        """The float type; that of no data."""
        return density_of(self.records[0].posterior).spec

    def record(self, index: int) -> FitRecord:
        """Return the record of one fit."""
        return self.records[index]

    def moments(self, name: str) -> Moments:
        """Return means or sds, by latent (n, *shape); `name` is "mean" or "sd"."""
        return self.means_and_sds[("mean", "sd").index(name)]


@dataclass(frozen=True, eq=False, repr=False)
class Fits:
    """Many fits of one model, in the order of their data sets, weights or keys.

    ``fits[i]`` is an ordinary `Fit`, ``len(fits)`` their number, and iteration gives one after
    another. `fit_many` makes them. `pickle` carries them as it carries a `Fit`, without model and
    data.
    """

    _many: ManyFits | PickledFits

    def __len__(self) -> int:
        return self._many.num

    @overload
    def __getitem__(self, index: int) -> Fit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fit]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return one of the fits, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"fits: got the index {describe(index)}; expected an integer.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"fits: got the index {index}; expected one of {len(self)} fits.")
        return Fit(self._many.record(int(index) % len(self)))

    def __iter__(self) -> Iterator[Fit]:
        return (self[i] for i in range(len(self)))

    @property
    def status(self) -> tuple[str, ...]:
        """Status of each fit, as `Fit.status`."""
        return tuple(self._many.record(i).outcome.status for i in range(len(self)))

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each fit has converged, (n,)."""
        return np.array([status == "converged" for status in self.status])

    @property
    def refitted(self) -> tuple[int, ...]:
        """Indices of the fits that the plan of `fit` made, since the compiled one had not ended."""
        return tuple(sorted(self._many.refitted))

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Level of each fit's verdict: "good", "means_only", "poor" or "not checked"."""
        return tuple(verdict_on(self._many.record(i)).level for i in range(len(self)))

    @cached_property
    def elbo(self) -> Floats:
        """ELBO of each fit on fresh draws, (n,), nats."""
        return np.array([self._many.record(i).outcome.elbo.value for i in range(len(self))])

    def mean(self) -> Any:
        """Return posterior means, a tree of arrays ``(n, *shape)``.

        From 1,000 fixed draws of each fit, of real latents exact; `Fit.mean` takes 4,000. NaN for
        fits that are "interrupted" or "diverged".
        """
        return self._tree(self._moments("mean"))

    def sd(self) -> Any:
        """Return posterior standard deviations, a tree of arrays ``(n, *shape)``, NaN as means."""
        return self._tree(self._moments("sd"))

    def summary(self) -> Table:
        """Return for each scalar coordinate how means and sds are spread over the fits.

        Columns: the mean over the fits of the means, their standard deviation, and the mean of the
        sds. Fits that are "interrupted" or "diverged" are left out; without others all is NaN.
        """
        means, sds = self._moments("mean"), self._moments("sd")
        rows = np.flatnonzero(self._answered) if self._answered.any() else [0]
        coordinates = self._many.guide.model.coordinates
        names = tuple(c for name in means for c in coordinates[name])
        M, S = (np.concatenate([v.reshape(len(self), -1)[rows] for v in of.values()], axis=1)
                for of in (means, sds))  # fmt: skip
        columns = {"mean": M.mean(0), "sd of means": M.std(0), "mean sd": S.mean(0)}
        return Table(names, columns)

    @cached_property
    def _answered(self) -> NDArray[np.bool_]:
        """Whether each fit has a posterior, (n,)."""
        return np.array([status not in NO_ANSWER for status in self.status])

    def _moments(self, name: str) -> Moments:
        moments = self._many.moments(name)
        shaped = (
            (k, v, self._answered.reshape(-1, *[1] * (v.ndim - 1))) for k, v in moments.items()
        )
        return {k: np.where(answered, v, np.nan) for k, v, answered in shaped}

    def _tree(self, values: dict[str, Floats]) -> Any:
        dtype = self._many.spec.float_dtype
        return self._many.guide.model.to_tree({k: v.astype(dtype) for k, v in values.items()})

    def __repr__(self) -> str:
        def counted(words: tuple[str, ...]) -> str:
            return ", ".join(f"{num} {word}" for word, num in Counter(words).most_common())

        lines = [
            f"Fits: {len(self)} of {self._many.guide.description}, "
            f"{self._many.guide.model.size} real coordinates, {self._many.spec.float_dtype}",
            f"status: {counted(self.status)}",
            f"verdict: {counted(self.verdicts)}",
        ]
        if self.refitted:
            lines.append(f"fitted one by one: {', '.join(map(str, self.refitted[:20]))}")
        num = int(self._answered.sum())
        if num < len(self):
            lines.append(
                f"summary: of {num} fits, without {len(self) - num} interrupted or diverged"
            )
        return "\n".join([*lines, "", str(self.summary())])

    def __reduce__(self) -> tuple[Callable[..., "Fits"], tuple[Any, ...]]:
        states = [pickled.to_state(self._many.record(i)) for i in range(len(self))]
        moments = self._many.moments("mean"), self._many.moments("sd")
        return _of_pickle, (states, frozenset(self._many.refitted), moments)

    def __deepcopy__(self, memo: Any) -> "Fits":
        return self  # nothing changes it

    def __copy__(self) -> "Fits":
        return self


def _of_pickle(
    states: Sequence[pickled.State], refitted: frozenset[int], moments: tuple[Moments, Moments]
) -> Fits:
    return Fits(PickledFits([pickled.of_state(state) for state in states], refitted, moments))
