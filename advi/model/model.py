"""A model: a log-joint over a tree of latents, and the same density on flat R^D."""

import copy
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import GetAttrKey, KeyPath, keystr
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint

from advi.core.arrays import real_numbers
from advi.core.draw_set import entry_names
from advi.core.errors import describe, unknown
from advi.core.table import cut, html_table
from advi.model.latents import Latent


class Terms(NamedTuple):
    """A log density in two parts: what is shared, and one number per data row.

    Parameters
    ----------
    shared
        Scalar, nats: priors and whatever belongs to no single row.
    rows
        (B,), nats: one log-likelihood per data row. What depends on a local latent belongs here.
    prior
        (B,), nats, optional: the log prior density of the local latents of every row, told apart
        from `rows` so that `Elbo(beta=...)` can temper it. Without it `rows` holds both.

    Examples
    --------
    >>> float(Terms(jnp.float32(-1.0), jnp.array([1.0, 2.0])).total(10.0))
    29.0
    """

    shared: Any
    rows: Any
    prior: Any = None

    @property
    def per_row(self) -> Any:
        """(B,) nats: all that belongs to each row."""
        return self.rows if self.prior is None else self.rows + self.prior

    def total(self, scale: float | Array = 1.0) -> Array:
        """Return ``shared + scale * per_row.sum()``; `scale` is N/B for a batch of B rows of N."""
        return self.shared + scale * self.per_row.sum()


class Derived(NamedTuple):
    """Quantities computed from latents and data, which are shown beside the latents.

    The function of latents, data and the number of a draw returns an array for each name.
    """

    names: tuple[str, ...]
    function: Callable[[Any, Any, Any], dict[str, Array]]


NOTHING = Derived((), lambda z, data, number: {})


class Model:
    """A log-joint density over constrained latents.

    Parameters
    ----------
    log_joint
        ``log_joint(z, data)``: the log of the joint density of latents and data, in nats, a
        scalar or `Terms`. `z` has the tree of `latents`, on the constrained scale. It must not
        contain the log-Jacobian of any transform: that is added here. What it reads from outside,
        such as a global variable, is read anew by every fit, and stays as it was for that fit.
    latents
        Pytree (dict, nested dict, tuple) of `Latent`, or of NumPyro constraints for scalars.
    num_rows
        Rows of the data, of which each local latent has as many values. `fit` finds it.
    families
        Latent's name to the family it has unless a fit names another.
    derived
        What else to show with draws and moments; the tree of latents is then a dict.
    rows_leaf
        Place of a data leaf whose leading axis runs over the rows, where those of others differ.
    starts
        Where else a fit may begin: a function of the model for the data's rows, the data, a point
        (D,) and a number n that returns points (n, D) of the real scale, host arrays.
    needs_all_rows
        Why neither steps on some rows nor families of rows are possible, in a sentence; empty if
        they are.

    Attributes
    ----------
    latents : dict
        Name to `Latent`, in the order they were declared. A nested latent is named by its path,
        "scale.tau".
    size : int
        Number of real coordinates D; while `num_rows` is None those of one row.
    local : frozenset of str
        Names of the local latents.
    traces : dict
        Traces of its functions, by the shapes that they are for: what these read from outside is
        as it was when they were made.
    maps : dict
        Latent's name to a transform that is used in place of its own.

    Raises
    ------
    TypeError
        If `log_joint` is not callable or a leaf is not a latent.
    ValueError
        If there is no latent, none of them has a real coordinate, or a name is empty or taken
        twice.

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
        num_rows: int | None = None,
        families: Mapping[str, Any] | None = None,
        derived: Derived = NOTHING,
        rows_leaf: int | None = None,
        needs_all_rows: str = "",
        starts: Callable[..., Any] | None = None,
    ) -> None:
        if not callable(log_joint):
            raise TypeError(
                f"log_joint: got {describe(log_joint)}; expected a function log_joint(z, data). "
                "Write advi.Model(log_joint, latents)."
            )
        _check_no_none(latents)
        paths, self._treedef = jax.tree_util.tree_flatten_with_path(latents, is_leaf=_is_latent)
        if not paths:
            raise ValueError(
                f"latents: got {describe(latents)}, which holds no latent; expected at least one, "
                'e.g. {"mu": advi.real()}.'
            )
        try:
            inspect.signature(log_joint).bind(None, None)
        except TypeError as error:
            raise TypeError(f"log_joint must take two arguments, z and data: {error}.") from None
        except ValueError:
            pass  # a built-in without a signature
        names = [_name(path) for path, _ in paths]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"latents: two are named {twice[0]!r}; rename one of them.")
        if any(getattr(entry, "key", None) == "" for path, _ in paths for entry in path):
            raise ValueError("latents: one is named ''; expected names of at least one letter.")
        position = _declared_positions(latents)
        declared = sorted(range(len(paths)), key=lambda i: position(paths[i][0]))
        self.log_joint = log_joint
        self.num_rows = num_rows
        self._tree = latents
        self.latents = {
            _name(paths[i][0]): _as_latent(_name(paths[i][0]), paths[i][1]) for i in declared
        }
        self.local = frozenset(name for name, v in self.latents.items() if v.local)
        if num_rows is not None:
            self.latents = {
                name: v.with_rows(num_rows) if v.local else v for name, v in self.latents.items()
            }
        # leaf i of the tree is entry self._order[i] of self.latents
        self._order = tuple(int(k) for k in np.argsort(declared))
        stops = tuple(itertools.accumulate(latent.size for latent in self.latents.values()))
        self.size = stops[-1]
        if not self.size:
            raise ValueError(
                f"latents: {', '.join(map(repr, self.latents))} have no real coordinate at all, "
                f"with shapes {', '.join(str(v.shape) for v in self.latents.values())}; expected "
                "at least one."
            )
        self.spans = dict(zip(self.latents, zip((0, *stops[:-1]), stops, strict=True), strict=True))
        self.derived = derived
        self.rows_leaf = rows_leaf
        self.needs_all_rows = needs_all_rows
        self.traces: dict[Any, Any] = {}
        self.maps: dict[str, Any] = {}
        self._of_fit = False
        self.starts = starts
        self.families = {
            name: family for part, family in (families or {}).items() for name in self.resolve(part)
        }

    def with_rows(self, num: int) -> "Model":
        """Return the model for data of `num` rows: each local latent gets a leading axis.

        Every density, draw and transform then is that of an ordinary model; only the log-Jacobian
        of what was local belongs to the rows. Without local latents it is the model itself.

        Examples
        --------
        >>> import advi
        >>> model = Model(lambda z, y: Terms(0.0, rows=-(y - z["h"]) ** 2),
        ...               {"h": advi.real(local=True)})
        >>> model.with_rows(5).latents["h"].shape
        (5,)
        """
        if not self.local or self.num_rows == num:
            return self
        other = Model(
            self.log_joint,
            self._tree,
            num_rows=num,
            families=self.families,
            derived=self.derived,
            rows_leaf=self.rows_leaf,
            needs_all_rows=self.needs_all_rows,
            starts=self.starts,
        )
        other.traces, other.maps, other._of_fit = self.traces, self.maps, self._of_fit
        return other

    def of_fit(self, traces: dict[Any, Any], maps: Mapping[str, Any]) -> "Model":
        """Return the model of one fit, with the traces of its functions and frozen transforms.

        It is equal to that of another fit if their latents are: what the log-joint computes is
        told by its trace.
        """
        other = copy.copy(self)
        for cached in ("_hash", "_key"):
            other.__dict__.pop(cached, None)
        other.traces, other.maps, other._of_fit = traces, dict(maps), True
        return other

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        functions = (identified(self.log_joint), identified(self.derived.function))
        return (
            None if self._of_fit else functions,
            self._treedef,
            tuple((name, v.bijection, v.shape) for name, v in self.latents.items()),
            self.local,
            self.num_rows,
            tuple(self.maps.items()),
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
        latents, size = len(self.latents), self.size
        return (
            f"Model with {latents} latent{'s' if latents != 1 else ''}, "
            f"{size} real coordinate{'s' if size != 1 else ''}"
        )

    def _latent_rows(self) -> list[list[str]]:
        names = list(self.latents)

        def row(index: int) -> list[str]:
            latent = self.latents[names[index]]
            support = getattr(latent.support, "__class__", type(latent.support)).__name__
            return [names[index], support.lstrip("_"), str(latent.shape), str(latent.size)]

        return [["", "support", "shape", "coordinates"], *cut(len(names), row)]

    @cached_property
    def coordinates(self) -> dict[str, tuple[str, ...]]:
        """Names of the constrained coordinates of every latent, such as "eta[0]"."""
        return {name: entry_names(name, latent.shape) for name, latent in self.latents.items()}

    def resolve(self, name: str) -> list[str]:
        """Return the latents a name stands for: itself, or all below it ("decoder").

        Raises
        ------
        ValueError
            If nothing has that name.
        """
        if name in self.latents:
            return [name]
        below = [known for known in self.latents if known.startswith(f"{name}.")]
        if not below:
            raise ValueError(unknown("latent", name, self.latents))
        return below

    def named(self, tree: Any, name: str = "") -> dict[str, Any]:
        """Return a tree's values by latent's name; what is no latent goes by its own path."""
        bare = jax.tree_util.treedef_is_leaf(self._treedef)
        if name in self.latents or (bare and not name):
            return {name or "z": tree}
        parts = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
        if len(parts) == 1 and not parts[0][0]:
            return {name or "z": tree}
        found: dict[str, Any] = {}
        for path, part in parts:
            found |= self.named(part, f"{name}.{_name(path)}" if name else _name(path))
        return found

    def unravel(self, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map flat real coordinates to constrained values.

        Parameters
        ----------
        x
            (D,) real coordinates.

        Returns
        -------
        values : dict
            Name to constrained value.
        log_dets : dict
            Name to the log-Jacobian of that latent's transform: a scalar, or of a local latent one
            number per row.
        """
        return self.constrain(self.split(x))

    def split(self, x: Any) -> dict[str, Any]:
        """Return flat real coordinates (D,) by latent, each of its unconstrained shape."""
        return {
            name: x[slice(*self.spans[name])].reshape(latent.unconstrained_shape)
            for name, latent in self.latents.items()
        }

    def constrain(self, real: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Map real values of some or all latents, by name, to constrained ones.

        The log-Jacobian of a local latent is one number per row.
        """
        values, log_dets = {}, {}
        for name, real_value in real.items():
            values[name], log_det = self._map(name).forward(real_value)
            # a transform's own axes are summed already; what is left leads
            batch = tuple(range(1 if name in self.local else 0, log_det.ndim))
            log_dets[name] = log_det.sum(batch)
        return values, log_dets

    def ravel(self, values: Mapping[str, Array]) -> Array:
        """Map constrained values, by name, to flat real coordinates (D,)."""
        parts = [
            self._map(name).inverse(jnp.asarray(values[name])).reshape(-1) for name in self.latents
        ]
        return jnp.concatenate(parts)

    def _map(self, name: str) -> Any:
        return self.maps[name] if name in self.maps else self.latents[name].bijection

    def to_tree(self, values: Mapping[str, Any]) -> Any:
        """Arrange values by name in the tree of the latents, and derived ones beside them."""
        ordered = [values[name] for name in self.latents]
        tree = jax.tree.unflatten(self._treedef, [ordered[k] for k in self._order])
        beside = {name: values[name] for name in self.derived.names if name in values}
        return {**tree, **beside} if beside else tree

    def from_tree(self, z: Any) -> dict[str, Any]:
        """Arrange a tree shaped like the latents by name.

        Raises
        ------
        TypeError
            If a leaf holds no real numbers.
        ValueError
            If the tree is not that of the latents, or a leaf has another shape (leading axes
            common to all are allowed).
        """
        got = {k: v for k, v in self.named(z).items() if k not in self.derived.names}
        if set(got) != set(self.latents):
            missing = [name for name in self.latents if name not in got]
            extra = [name for name in got if name not in self.latents]
            raise ValueError(
                f"got values for {sorted(got)}; expected one for each of {list(self.latents)} "
                f"(missing: {missing or 'none'}, unknown: {extra or 'none'})."
            )
        for name, latent in self.latents.items():
            got[name] = real_numbers(name, got[name])
            shape = got[name].shape
            if shape[len(shape) - len(latent.shape) :] != latent.shape:
                raise ValueError(
                    f"{name}: got a value of shape {shape}; expected shape {latent.shape}."
                )
        return {name: got[name] for name in self.latents}


class _Identity(NamedTuple):
    """Something without a hash, compared by what it is."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identified(value: Any) -> Any:
    """Return what stands for a value in a key: itself, or without a hash its identity."""
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return value


def _is_latent(node: Any) -> bool:
    # NumPyro's constraints are pytrees themselves, so they are stopped at here
    return isinstance(node, (Latent, Constraint, Distribution))


def _check_no_none(tree: Any) -> None:
    """Raise TypeError if a None stands for a latent; in a module it is an empty place."""
    nodes = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: node is None or _is_latent(node)
    )[0]
    for path, node in nodes:
        if node is None and not any(isinstance(key, GetAttrKey) for key in path):
            _as_latent(_name(path), None)


def _name(path: KeyPath) -> str:
    return keystr(path, simple=True, separator=".") or "z"


def _declared_positions(tree: Any) -> Callable[[KeyPath], tuple[int, ...]]:
    """Return the place of a leaf in the order of declaration (JAX sorts the keys of a dict)."""
    places: dict[int, dict[Any, int]] = {}  # of the keys of every dict, by its identity

    def position(path: KeyPath) -> tuple[int, ...]:
        node, found = tree, []
        for entry in path:
            if isinstance(node, dict):
                key = entry.key  # type: ignore[attr-defined]
                if id(node) not in places:
                    places[id(node)] = {k: i for i, k in enumerate(node)}
                found.append(places[id(node)][key])
                node = node[key]
            elif isinstance(node, (list, tuple)) and hasattr(entry, "idx"):
                found.append(entry.idx)  # type: ignore[attr-defined]
                node = node[entry.idx]  # type: ignore[attr-defined]
            else:
                break
        return tuple(found)

    return position


def _as_latent(name: str, leaf: Any) -> Latent:
    if isinstance(leaf, Latent):
        return leaf
    if isinstance(leaf, Constraint):
        try:
            return Latent(leaf)
        except (TypeError, ValueError) as error:
            raise type(error)(f"latent {name!r}: {error}") from None
    hint = f" Call it: {leaf.__name__}(...)." if hasattr(leaf, "__name__") else ""
    raise TypeError(
        f"latent {name!r}: got {describe(leaf)}; expected a Latent such as advi.real(3) or a "
        f"NumPyro constraint.{hint}"
    )
