"""The sites of a NumPyro model called with some data, and the data that are no arrays to it."""

import re
from typing import Any

import jax

from advi.data.spec import DataSpec
from advi.model.numpyro.call import Call, StaticCall, numbers_among
from advi.model.numpyro.refusals import NOT_BROADCAST
from advi.model.numpyro.sites import Sites, find_sites

# JAX's errors where a Python value is needed: its own class, or a plain TypeError in these words
NEEDS_VALUE = re.compile("concrete value|static_argnums|must have __hash__")
OF_LATENT = "the value of the argument marker"  # of the placeholder that stands for latents
OF_LEAF = re.compile(r"the value of the argument leaves\[(\d+)\]")


def call_and_sites(call: Call, data: Any, spec: DataSpec) -> tuple[Call, Sites]:
    """Return a model's call with data, and its sites.

    Integers and flags among the data that decide about shapes or branches become Python's, and
    plates whose subsample the data are have its length. TypeError if an array decides.
    """
    numbers = numbers_among(data, spec)
    calls = (call, StaticCall(call, numbers)) if numbers else (call,)
    failed: Exception | None = None  # of the last call, without more rows than a subsample has
    for attempted in calls:
        for filled in (False, True):
            try:
                return attempted, find_sites(attempted, spec, filled)
            except Exception as error:
                failed = failed if filled else error
    assert failed is not None
    raise _explained(failed, call, spec)


def _explained(error: Exception, call: Call, spec: DataSpec) -> Exception:
    """Return the error of a model that could not be called, which names the argument at fault."""
    if OF_LATENT in str(error):
        found = TypeError(
            f"{call!r} needs the value of a latent as a Python number or a NumPy array, as in "
            "float(z), np.exp(z) or `if z > 0`; there is none while it is traced. Expected "
            "functions of jax.numpy, and jnp.where or jax.lax.cond for branches."
        )
        found.__cause__ = error
        return found
    if isinstance(error, jax.errors.JAXTypeError) or NEEDS_VALUE.search(str(error)):
        leaf = OF_LEAF.search(str(error))
        if leaf is None:
            bound = "what decides about them beforehand, by its name: "
            bound += f"advi.from_numpyro({call!r}, name=value)"
        else:
            name = call.argument(spec.names[int(leaf[1])])
            bound = f"{name!r} beforehand: advi.from_numpyro({call!r}, {name}={name})"
        found = TypeError(
            f"{call!r} needs a value while it is traced, for a size or a branch, of which only the "
            f"shape is known. Bind {bound}."
        )
        found.__cause__ = error
        return found
    shapes = [f"{call.argument(name)} {shape}" for name, shape in spec.shapes.items()]
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        found = TypeError(
            f"{call!r} takes a part of an array by booleans, of which only the shape is known "
            "while it is traced; expected integers, such as data['x'].astype(int), or jnp.where."
        )
        found.__cause__ = error
        return found
    if NOT_BROADCAST in str(error) and not isinstance(error, TypeError):
        found = ValueError(
            f"{call!r} has arrays that do not broadcast: {str(error).rstrip('.')}. The data are "
            f"{', '.join(shapes) or 'none'}{call.bound}; expected shapes of one model. Arrays that "
            "are bound stay as they are, for batches and new rows too: bind sizes, and give arrays "
            "by row as data."
        )
        found.__cause__ = error
        return found
    error.add_note(f"advi called {call!r} with data of shapes {', '.join(shapes) or 'None'}.")
    return error
