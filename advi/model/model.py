"""A model: a log-joint over a tree of latents."""

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from advi.core.axes import NOTHING as NO_NAMES
from advi.core.axes import ROW, Axes, Labels, all_named, check_dims
from advi.core.errors import describe
from advi.core.identity import identified
from advi.core.table import cut, html_table
from advi.model.coordinates import Coordinates
from advi.model.latent_tree import flatten_latents
from advi.model.program import Program
from advi.transforms import Constant
from advi.transforms.constraints import class_name


class Model(Coordinates):
    """A log-joint density over constrained latents.

    Parameters
    ----------
    log_joint
        ``log_joint(z, data)``: the log of the joint density of latents and data, in nats, a
        scalar or `Terms`. `z` has the tree of `latents`, on the constrained scale. It must not
        contain the log-Jacobian of any transform: that is added here. Values that it reads from
        outside, such as a global variable, are those at the beginning of each fit.
    latents
        Pytree (dict, nested dict, tuple) of `Latent`, or of NumPyro constraints for scalars.
    dims
        Name of a latent to the names of its axes, such as ``{"eta": ["county"]}``; one name will
        do for a vector, None is an axis without a name, and the first axis of a local latent is
        that of the rows. Labels along them are the `coords` of a fit. Axes without a name are
        called "eta_dim_0" and so on, that of the rows "row".

    Attributes
    ----------
    latents : dict
        Name to `Latent`, in the order they were declared. A nested latent is named by its path,
        "scale.tau".
    size : int
        Number of real coordinates D; while `num_rows` is None those of one row.
    local : frozenset of str
        Names of the local latents.
    num_rows : int or None
        Rows of the data, of which each local latent has as many values. `fit` finds it.
    coords : dict
        Name of an axis to the labels along it, those of one fit.
    categories : dict
        Name of a column of the data to the names of its categories, in the order of their codes.
    program : Program
        Properties of a NumPyro model beyond its log-joint.
    traces : dict
        Traces of its functions, by their shapes.

    Raises
    ------
    TypeError
        If `log_joint` is not callable, a leaf is not a latent, or `dims` is not a dict.
    ValueError
        If there is no latent, none of them has a real coordinate, a name is empty or taken
        twice, or `dims` does not fit the latents.

    Examples
    --------
    >>> import advi
    >>> model = Model(lambda z, data: -z["mu"] ** 2 - z["s"]["tau"],
    ...               {"mu": advi.real(), "s": {"tau": advi.positive()}})
    >>> list(model.latents), model.size
    (['mu', 's.tau'], 2)
    """

    def __init__(
        self,
        log_joint: Callable[[Any, Any], Any],
        latents: Any,
        *,
        dims: Mapping[str, str | Sequence[str | None]] | None = None,
    ) -> None:
        if not callable(log_joint):
            raise TypeError(
                f"log_joint: got {describe(log_joint)}; expected a function log_joint(z, data). "
                "Write advi.Model(log_joint, latents)."
            )
        by_name, self._treedef, self._order = flatten_latents(latents)
        try:
            inspect.signature(log_joint).bind(None, None)
        except TypeError as error:
            raise TypeError(f"log_joint must take two arguments, z and data: {error}.") from None
        except ValueError:
            pass  # a built-in without a signature
        self.log_joint = log_joint
        self.local = frozenset(name for name, v in by_name.items() if v.local)
        self._of_row = by_name
        self.num_rows: int | None = None
        self.program = Program()
        self.traces: dict[Any, Any] = {}
        self.maps: dict[str, Any] = {}
        self._of_fit = False
        self.coords: Labels = NO_NAMES
        self.categories: Labels = NO_NAMES
        shapes = {n: ((0,) if v.local else ()) + v.shape for n, v in by_name.items()}
        self._dims = {} if dims is None else check_dims(dims, shapes)
        self._place(by_name)
        self.axes.lengths({n: v.shape for n, v in by_name.items() if not v.local})

    def _place(self, latents: dict[str, Any]) -> None:
        """Set the latents, and the span of each in R^D."""
        self.latents = latents
        stops = tuple(itertools.accumulate(latent.size for latent in latents.values()))
        self.size = stops[-1]
        if not self.size:
            raise ValueError(
                f"latents: {', '.join(map(repr, latents))} have no real coordinate at all, "
                f"with shapes {', '.join(str(v.shape) for v in latents.values())}; expected "
                "at least one."
            )
        self.spans = dict(zip(latents, zip((0, *stops[:-1]), stops, strict=True), strict=True))

    def _place_rows(self) -> None:
        """Set the latents for `num_rows` rows, or for one row while it is None."""
        num = self.num_rows
        rows = self._of_row.items()
        latents = {n: v if num is None or not v.local else v.with_rows(num) for n, v in rows}
        self._place(latents)

    def _copy(self) -> "Model":
        other = copy.copy(self)
        for cached in ("_hash", "_key", "axes", "coordinates", "shapes"):
            other.__dict__.pop(cached, None)
        return other

    def with_program(self, program: Program) -> "Model":
        """Return the model of a probabilistic program."""
        other = self._copy()
        other.program = program
        return other

    def with_rows(self, num: int) -> "Model":
        """Return the model for data of `num` rows: each local latent gets a leading axis.

        Every density, draw and transform then is that of an ordinary model; only the log-Jacobian
        of local latents belongs to the rows. Without local latents it is the model itself.

        Examples
        --------
        >>> import advi
        >>> model = Model(lambda z, y: advi.Terms(0.0, rows=-(y - z["h"]) ** 2),
        ...               {"h": advi.real(local=True)})
        >>> model.with_rows(5).latents["h"].shape
        (5,)
        """
        if not self.local or self.num_rows == num:
            return self
        other = self._copy()
        other.num_rows = num
        other._place_rows()
        return other

    def holding(self, values: Mapping[str, NDArray[Any]]) -> "Model":
        """Return the model with some latents held at constrained values: they leave R^D.

        A value has the latent's shape, of a local latent that of one row, or of all, rows first.

        Examples
        --------
        >>> import advi, numpy as np
        >>> model = Model(lambda z, data: -z["x"] ** 2 / z["s"],
        ...               {"x": advi.real(), "s": advi.positive()})
        >>> model.holding({"s": np.array(2.0)}).size
        1
        """
        if not values:
            return self
        other = self._copy()
        held = {name: self._of_row[name].held_at(value) for name, value in values.items()}
        other._of_row = self._of_row | held
        other.maps = {name: maps for name, maps in self.maps.items() if name not in held}
        other._place_rows()
        return other

    def holding_as(self, other: "Model") -> "Model":
        """Return the model holding what another does, whose latents come in the same order."""
        names = dict(zip(other.latents, self.latents, strict=True))
        return self.holding({names[name]: value for name, value in other.held.items()})

    @property
    def held(self) -> dict[str, NDArray[Any]]:
        """Values of the latents that are held, by name."""
        latents = self.latents.items()
        return {n: v.bijection.value for n, v in latents if isinstance(v.bijection, Constant)}

    def with_labels(self, coords: Labels, categories: Labels) -> "Model":
        """Return the model with the labels of one fit, which no compiled program depends on."""
        if not coords and not categories:
            return self
        other = self._copy()
        other.coords, other.categories = coords, categories
        return other

    @cached_property
    def axes(self) -> Axes:
        """Names of the axes of latents and deterministic quantities, and labels along them."""
        given = {name: (ROW, *(None,) * len(self._of_row[name].shape)) for name in self.local}
        given |= {**self._dims, **self.program.dims}
        dims = {name: all_named(name, axes, name in self.local) for name, axes in given.items()}
        dims |= {name: self._in_place(name, dims[name]) for name in self.row_axes if name in dims}
        return Axes(dims, self.coords)

    @property
    def row_dims(self) -> frozenset[str]:
        """Names of the axes of rows of local latents."""
        return frozenset(self.axes.dims[n][self.row_axes.get(n, 0)] for n in self.local)

    @property
    def known_names(self) -> Labels:
        """Name of a column to the names of its categories, by which further data are coded."""
        own = {axis: labels for axis, labels in self.coords.items() if axis not in self.row_dims}
        return {**own, **self.categories}

    def of_fit(self, traces: dict[Any, Any], maps: Mapping[str, Any]) -> "Model":
        """Return the model of one fit, with the traces of its functions and frozen transforms.

        It is equal to that of another fit if their latents are: the log-joint is compared by its
        trace.
        """
        other = self._copy()
        other.traces, other.maps, other._of_fit = traces, dict(maps), True
        return other

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the deterministic quantities."""
        return self.program.deterministic.names

    @property
    def row_axes(self) -> Mapping[str, int]:
        """Axis of the rows, from the last, in the values of latents where it is not the first."""
        return {} if self.local and self.num_rows is None else self.program.row_axes

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        functions = self.log_joint, self.program.deterministic.function
        return (
            None if self._of_fit else tuple(map(identified, functions)),
            self._treedef,
            tuple((name, v.bijection, v.shape) for name, v in self.latents.items()),
            self.local,
            self.num_rows,
            tuple(self.maps.items()),
            tuple(self.row_axes.items()),
        )

    def __eq__(self, other: object) -> bool:
        # compiled code is found again by equality
        return isinstance(other, Model) and (self is other or self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        rows = self._latent_rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n  ".join([self._headline, *lines])

    def _repr_html_(self) -> str:
        return f"<div>{self._headline}</div>{html_table(self._latent_rows())}"

    @property
    def _headline(self) -> str:
        counts = {"latent": len(self.latents), "real coordinate": self.size}
        words = (f"{num} {word}{'s' if num != 1 else ''}" for word, num in counts.items())
        return f"Model with {', '.join(words)}"

    def _latent_rows(self) -> list[list[str]]:
        names = list(self.latents)

        def row(index: int) -> list[str]:
            latent = self.latents[names[index]]
            support = class_name(latent.constraint)
            shape = str(self.shapes[names[index]])
            return [names[index], support.lstrip("_"), shape, str(latent.size)]

        return [
            ["", "support", "shape", "coordinates"],
            *cut([[index] for index in range(len(names))], row),
        ]
