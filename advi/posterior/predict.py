"""Functions of posterior draws: predictions for new data, and the log-likelihood of every row."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from advi.core.arrays import numbers
from advi.core.errors import check_bool, check_count, describe
from advi.core.jax_config import compiled, precision
from advi.core.jaxprs.traced import Traced, traced
from advi.core.keys import Stream, device_key
from advi.data.spec import DataSpec, converted, prepare
from advi.model.density import Density
from advi.model.indices import check_indices
from advi.posterior.base import Posterior, density_of

MAX_DRAWS, WORK = 256, 2**24  # draws in one call, and elements that they may read and write


class Program(NamedTuple):
    """A compiled function of `num` draws at once."""

    call: Callable[..., Any]  # (leaves of z (num, ...), data, key, numbers of the draws (num,))
    num: int


def predict(
    posterior: Posterior,
    fn: Callable[..., Any],
    n: int,
    data: Any,
    key: Any,
    forecast: bool = False,
) -> Any:
    """Return `fn` of `n` posterior draws, a tree of host arrays (n, ...).

    A `forecast` may read beyond the data what it does not use.
    """
    with_key, density = wants_key(fn), density_of(posterior)
    spec, z = density.spec, drawn(posterior, n, key, data)
    if data is None:
        data = density.on(None).data
    else:
        with precision(posterior.float_dtype):
            data, spec = prepare(data, posterior.float_dtype, posterior.model.known_names)
        if absent := posterior.model.beside:  # they are of the data that were fitted
            z = {name: values for name, values in z.items() if name not in absent}
            fn = _without(fn, absent)
    return _over_draws(fn, with_key, z, data, spec, key, forecast)


def _without(fn: Callable[..., Any], absent: Sequence[str]) -> Callable[..., Any]:
    """Return a function of draws that says why a deterministic site is not among them."""

    def called(z: Any, *others: Any) -> Any:
        try:
            return fn(z, *others)
        except KeyError as error:
            name = error.args[0] if error.args else None
            if name not in absent:
                raise
            raise ValueError(
                f"fn: z has no {name!r}: deterministic sites are those of the data that were "
                f"fitted. fit.predictive(n, data)[{name!r}] has it for new data; or compute it in "
                "fn from the latents and the data."
            ) from None

    return called


def predictive(
    posterior: Posterior, n: int, data: Any, key: Any, prior: bool
) -> dict[str, NDArray]:
    """Return draws of the observed sites of a NumPyro model by name, host arrays (n, *shape)."""
    check_bool("prior", prior)
    draw = sites_of(
        posterior,
        data,
        "predictive: the model is a log-joint, which does not say how data are drawn; expected "
        "one of NumPyro's. Write fit.predict(fn, n, data) with a fn(z, data, key) that draws.",
    )
    beside = posterior.model.beside

    def of_one(z: Any, data: Any, key: Array) -> dict[str, Array]:
        return draw({name: v for name, v in z.items() if name not in beside}, data, key, prior)

    return predict(posterior, of_one, n, data, key, forecast=True)


def sites_of(posterior: Posterior, data: Any, refusal: str) -> Any:
    """Return the function that draws the sites of a NumPyro model, which can be called with data.

    TypeError with the `refusal` if there is none; RuntimeError of a loaded fit.
    """
    program = posterior.model.program
    if program.predictive is None:
        density_of(posterior).log_joint  # noqa: B018 - a loaded fit has none, and says so
        raise TypeError(refusal)
    if data is not None:
        new = converted(data, posterior.float_dtype, posterior.model.known_names)
        return program.predictive.on(*new, posterior.model.shapes)
    return program.predictive


def log_likelihood(posterior: Posterior, data: Any, n: int, key: Any) -> NDArray:
    """Return the log-likelihood of every row at `n` posterior draws, a host array (n, N)."""
    density = density_of(posterior).on(data)
    return row_terms(density, drawn(posterior, n, key, data))


def drawn(posterior: Posterior, n: int, key: Any, data: Any) -> Any:
    """Return posterior draws in the tree of the latents, of local ones at the rows of `data`."""
    check_count("n", n)
    at = posterior.on(data) if posterior.guide.local else posterior
    return posterior.model.to_tree(at.sample(n, key))


def row_terms(density: Density, z: Any) -> NDArray:
    """Return `Terms.rows`, unscaled, at draws `z` with leaves (n, *shape): (n, N), nats."""
    if density.log_joint.num_rows is None:
        if density.model.program.needs_all_rows:
            raise ValueError(f"log-likelihood by row: {density.model.program.needs_all_rows}")
        raise ValueError(
            "log_joint returned a scalar, which does not say what belongs to one row; return "
            "advi.Terms(shared, rows) with one log-likelihood per data row."
        )
    model, log_joint = density.model, density.log_joint

    def rows(z: Any, data: Any) -> Array:
        return log_joint(model.from_tree(z), data).rows

    return _over_draws(rows, False, z, density.data, density.spec, 0)


def wants_key(fn: Any) -> bool:
    """Return whether a function of one draw takes a key; TypeError if it is no such function."""
    if not callable(fn):
        raise TypeError(f"fn: got {describe(fn)}; expected a function fn(z, data) of one draw.")
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return False  # a built-in without a signature
    for arguments in (2, 3):
        try:
            signature.bind(*[None] * arguments)
        except TypeError:
            continue
        return arguments == 3
    raise TypeError(
        f"fn{signature}: expected a function fn(z, data), or fn(z, data, key) that draws at random."
    )


def _check_returned(out: Any) -> None:
    """Raise TypeError unless a function returned numbers."""
    leaves = jax.tree.leaves(out)
    if not leaves:
        raise TypeError(f"fn returned {describe(out)}; expected an array, or a tree of arrays.")
    for leaf in leaves:
        array = numbers("fn returned", leaf)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise TypeError("fn returned a random key; expected numbers.")


def _over_draws(
    fn: Callable,
    with_key: bool,
    z: Any,
    data: Any,
    spec: DataSpec,
    key: Any,
    forecast: bool = False,
) -> Any:
    """Return a function of one draw at all of them, a few at a time: host arrays (n, ...)."""
    with precision(spec.float_dtype):
        leaves, treedef = jax.tree.flatten(z)
        leaves = [np.asarray(leaf, spec.float_dtype) for leaf in jax.device_get(leaves)]
        n = len(leaves[0])
        shapes = tuple(leaf.shape[1:] for leaf in leaves)
        most = min(MAX_DRAWS, 1 << (n - 1).bit_length())
        program = _program(fn, with_key, treedef, shapes, spec, data, most, forecast)
        index = np.arange(-(-n // program.num) * program.num)  # the last draw repeated is cut off
        noise = device_key(key, Stream.PREDICT)
        parts = []
        for numbers in index.reshape(-1, program.num):
            chunk = [leaf[np.minimum(numbers, n - 1)] for leaf in leaves]
            parts.append(jax.device_get(program.call(chunk, data, noise, numbers)))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:n], *parts)


def _program(
    fn: Callable,
    with_key: bool,
    treedef: Any,
    shapes: tuple,
    spec: DataSpec,
    data: Any,
    most: int,
    forecast: bool,
) -> Program:
    def one(leaves: list[Array], data_leaves: list[Array], key: Array, number: Array) -> Any:
        z, data = treedef.unflatten(leaves), spec.treedef.unflatten(data_leaves)
        try:
            out = fn(z, data, jax.random.fold_in(key, number)) if with_key else fn(z, data)
        except Exception as error:
            of_z, of_data = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (z, data))
            error.add_note(f"advi called fn with z of shapes {of_z} and data of shapes {of_data}.")
            raise
        _check_returned(out)
        return out

    # at every call: values that `fn` reads from outside may have changed
    flat, out = traced(
        one,
        [jax.ShapeDtypeStruct(shape, spec.float_dtype) for shape in shapes],
        [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in spec.leaves],
        jax.eval_shape(lambda: jax.random.key(0)),
        np.int32(0),
    )
    names = ["the draws"] * len(shapes) + [f"data leaf {name!r}" for name in spec.names]
    known = [None] * len(shapes) + [*jax.tree.leaves(data), None, None]
    what = "the model" if forecast else "fn"
    check_indices(flat, known, [*names, "", ""], what, constants_too=not forecast)
    fitting = max(WORK // max(flat.cost, 1), 1)
    call = _compiled(flat, jax.tree.structure(out))
    return Program(call, min(most, 1 << (fitting.bit_length() - 1)))


@lru_cache(maxsize=16)
def _compiled(flat: Traced, out_tree: Any) -> Callable[..., Any]:
    def call(leaves: list[Array], data: Any, key: Array, numbers: Array) -> Any:
        def at(leaves: list[Array], number: Array) -> Any:
            return out_tree.unflatten(flat(*leaves, *jax.tree.leaves(data), key, number))

        return jax.vmap(at)(leaves, numbers)

    return compiled(call)
