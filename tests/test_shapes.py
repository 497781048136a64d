"""The shapes that annotations state are those of real fits.

The annotations are jaxtyping's and cost nothing at run time; here they are evaluated, and checked
at every call of the functions that have them.
"""

import functools
import importlib
import inspect
import pkgutil
import types
from collections import Counter

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from beartype import beartype

import advi
from advi.variational.mean_field import MeanFieldParams
from advi.variational.scale import DiagonalScale

KINDS = {kind: getattr(jaxtyping, kind) for kind in ("Bool", "Float", "Int")}
NAMES = KINDS | {"ndarray": np.ndarray, "Array": jax.Array, "tuple": tuple}


def modules():
    for found in pkgutil.walk_packages(advi.__path__, "advi."):
        yield importlib.import_module(found.name)


def states_shapes(annotation):
    return isinstance(annotation, str) and any(f"{kind}[" in annotation for kind in KINDS)


def checked(function, calls):
    """Return a function that checks the shapes it states, and counts its calls."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    stated = {k: v for k, v in function.__annotations__.items() if states_shapes(v)}
    copy.__annotations__ = {name: eval(text, dict(NAMES)) for name, text in stated.items()}
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    copy.__module__ = function.__module__
    of_shapes = jaxtyping.jaxtyped(copy, typechecker=beartype)

    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls[function.__module__, function.__qualname__] += 1
        return of_shapes(*args, **kwargs)

    return counted


@pytest.fixture
def calls(monkeypatch):
    """Numbers of calls of the functions that state shapes, all of which are checked."""
    found = Counter()
    for module in modules():
        classes = [c for c in vars(module).values() if inspect.isclass(c)]
        own = [c for c in classes if c.__module__ == module.__name__]
        # members of a protocol are stated, and called in the classes that have them
        for owner in [module, *(c for c in own if not getattr(c, "_is_protocol", False))]:
            for name, member in list(vars(owner).items()):
                inner = member.fget if isinstance(member, property) else member
                if not inspect.isfunction(inner) or inner.__module__ != module.__name__:
                    continue
                if any(map(states_shapes, inner.__annotations__.values())):
                    found[module.__name__, inner.__qualname__] = 0
                    new = checked(inner, found)
                    is_property = isinstance(member, property)
                    monkeypatch.setattr(owner, name, property(new) if is_property else new)
    return found


def log_joint(z, d):
    prior = dist.Normal(0, 2).log_prob(z["w"]).sum() + dist.HalfNormal(1).log_prob(z["s"])
    return advi.Terms(prior, rows=dist.Normal(d["x"] @ z["w"], z["s"]).log_prob(d["y"]))


MODEL = advi.Model(log_joint, {"w": advi.real(3), "s": advi.positive()})
X = np.random.default_rng(0).standard_normal((64, 3))
DATA = {"x": X, "y": X.sum(1) + np.sin(np.arange(64))}
FAMILIES = ["mean_field", "full_rank", advi.LowRank(2), "triangular"]
OF_THE_PLAN = ["sparse"]  # which steps do not move
GROUPS = 40  # whose mean and sd are hubs


def hierarchy(z, d):
    prior = dist.Normal(0, 2).log_prob(z["mu"]) + dist.HalfNormal(1).log_prob(z["sd"])
    prior += dist.Normal(z["mu"], z["sd"]).log_prob(z["effect"]).sum()
    return prior + dist.Normal(z["effect"], 0.5).log_prob(d["y"]).sum()


STEPS = {"optimizer": optax.adam(1e-2), "batch_size": 8}


def trace_a_step(family):
    steps = advi.svi(MODEL, DATA, family=family, **STEPS)
    state = jax.eval_shape(steps.init, jax.random.key(0))
    jax.eval_shape(steps.step, state, {name: values[:8] for name, values in DATA.items()})


def take_steps(family):
    advi.fit(MODEL, DATA, family=family, max_steps=8, **STEPS)


# shapes are checked where JAX traces: a step that is traced calls the same functions
@pytest.mark.parametrize(
    "by_steps", [trace_a_step, pytest.param(take_steps, marks=pytest.mark.slow)]
)
def test_all_shapes_hold_in_fits(by_steps, calls):
    for family in [*FAMILIES, *OF_THE_PLAN]:
        fit = advi.fit(MODEL, DATA, family=family)
        fit.log_prob(fit.sample(5))
        fit.summary()
        fit.corrected().sample(5)
        fit.cov()
        if family in FAMILIES:
            by_steps(family)
    latents = {"mu": advi.real(), "sd": advi.positive(), "effect": advi.real(GROUPS)}
    of_groups = advi.Model(hierarchy, latents), {"y": np.sin(np.arange(GROUPS))}
    advi.fit(*of_groups, family="sparse").corrected().summary()
    assert len(calls) > 40
    unused = {".".join(name) for name, number in calls.items() if not number}
    assert len(unused) < 0.2 * len(calls), unused


def test_a_wrong_shape_is_found(calls):
    with pytest.raises(jaxtyping.TypeCheckError):
        DiagonalScale(np.ones(3)).mv(np.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        advi.MeanField().log_prob(MeanFieldParams(jnp.zeros(3), jnp.zeros(3)), jnp.zeros((3, 3)))
    assert sum(calls.values()) == 2
