"""The shape of the code: eight floors, imports that go down them, and a light package."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import advi

ROOT = Path(advi.__file__).parent

# The floors from the ground up. A room imports from its own files and from lower floors; of rooms
# in one folder, which are on one floor, a later one may import from an earlier one.
FLOORS = [
    ["core", "core.jaxprs"],
    ["data", "transforms"],
    ["model", "model.checks", "model.numpyro"],
    ["variational"],
    ["posterior"],
    ["diagnostics", "inference.plan", "inference.many", "inference.stochastic", "inference"],
    ["results.plots", "results"],
    ["api"],
]
ROOMS = {room: (floor, i) for floor, rooms in enumerate(FLOORS) for i, room in enumerate(rooms)}
MAX_THINGS = 12  # directly in the package
MAX_NAMES = 32  # of a fit in completion
MAX_LINES = 300  # of a file, but for those that are mostly docstring


def modules(root):
    """Module name, such as "model.trace", to its file."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in sorted(root.rglob("*.py"))
    }


def imports(source, known):
    """The modules of advi that a file imports, for type checkers too: "model.trace"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module is None or node.module.split(".")[0] != "advi":
                continue
            base = node.module.removeprefix("advi").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in known or f"{inner}.__init__" in known else base)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.removeprefix("advi.") for name in names if name.startswith("advi.")}
            assert "advi" not in names, "import a module, not the package"
    return found


def room(module):
    """The room of a module: the innermost that its name begins with; "" is the face."""
    parts = module.removesuffix("__init__").rstrip(".").split(".")
    inside = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
    return next((name for name in inside if name in ROOMS), "")


def may_import(importer, imported):
    """Whether a room may import from another one."""
    if importer in ("", imported):
        return True
    if imported == "":
        return False
    (above, i), (below, j) = ROOMS[importer], ROOMS[imported]
    one_folder = importer.split(".")[0] == imported.split(".")[0]
    return below < above or (below == above and one_folder and j < i)


def wrong_ways(graph):
    """The imports that go up, or between rooms of one floor, as pairs of modules."""
    return [
        (module, other)
        for module, imported in graph.items()
        for other in sorted(imported)
        if not may_import(room(module), room(other))
    ]


def circle(graph):
    """The modules of some circle of imports, or nothing."""
    done, open_ = set(), []

    def visit(module):
        if module in open_:
            return open_[open_.index(module) :]
        if module in done or module not in graph:
            return []
        open_.append(module)
        for imported in sorted(graph[module]):
            if found := visit(imported):
                return found
        open_.pop()
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module))), [])


MODULES = modules(ROOT)
GRAPH = {name: imports(path.read_text(encoding="utf-8"), MODULES) for name, path in MODULES.items()}


def test_every_module_has_a_room():
    assert {room(name) for name in MODULES} == {"", *ROOMS}
    assert [name for name in MODULES if not room(name)] == ["__init__"]


def test_few_things_lie_in_the_package():
    things = [path.name for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(things) <= MAX_THINGS, things


def test_imports_go_down_the_floors():
    assert wrong_ways(GRAPH) == []


def test_imports_have_no_circle():
    assert circle(GRAPH) == []


def test_a_planted_import_is_found():
    planted = "if TYPE_CHECKING:\n    from advi.results.fit import Fit\n"
    up = GRAPH | {"core.errors": imports(planted, MODULES)}
    assert wrong_ways(up) == [("core.errors", "results.fit")]
    assert "core.errors" in circle(up)
    aside = GRAPH | {"diagnostics.psis": {"inference.plan.run"}}
    assert wrong_ways(aside) == [("diagnostics.psis", "inference.plan.run")]
    assert wrong_ways(GRAPH | {"model.trace": {"model.checks.flat"}})


def code_lines(path):
    """How many lines of a file are not those of a docstring."""
    source = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [
        node.body[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
    ]
    return len(source.splitlines()) - sum(d.end_lineno - d.lineno + 1 for d in docstrings)


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module):
    path = MODULES[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES or code_lines(path) < lines / 2, lines


def test_no_function_hides_its_module():
    hidden = {name.split(".")[0] for name in MODULES} & set(advi.__all__)
    assert not hidden


def test_public_names_exist_and_are_sorted():
    order = sorted(advi.__all__, key=lambda name: (not name.isupper(), name))
    assert list(advi.__all__) == order
    assert all(hasattr(advi, name) for name in advi.__all__)
    assert all(getattr(advi, name).__doc__ for name in advi.__all__)


def test_public_methods_are_documented():
    classes = [value for name in advi.__all__ if isinstance(value := getattr(advi, name), type)]
    public = [
        (cls.__name__, name, value)
        for cls in classes
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    ]
    families = ("MeanField", "FullRank", "LowRank", "Point", "PerRow", "Amortised", "Elbo", "Iwae")
    assert not [
        f"{cls}.{name}"
        for cls, name, value in public
        if cls not in families and not inspect.getdoc(value)
    ]


def test_completion_of_a_fit_is_short():
    def coin(flips):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("flips", len(flips)):
            numpyro.sample("y", dist.Bernoulli(p), obs=flips)

    own = advi.fit(advi.Model(lambda z, d: -0.5 * z["x"] ** 2, {"x": advi.real()}))
    theirs = advi.fit(advi.from_numpyro(coin), np.array([1, 0, 1]))
    for fit, has_more in ((own, False), (theirs, True)):
        names = [name for name in dir(fit) if not name.startswith("_")]
        assert len(names) <= MAX_NAMES, names
        assert ("predictive" in names) == has_more


IMPORT = """
import sys
import jax
import jax.monitoring
events = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
x64 = jax.config.jax_enable_x64
import advi
heavy = ["numpyro", "optax", "scipy.special", "scipy.linalg", "scipy.sparse"]
heavy += ["arviz", "matplotlib", "pandas", "sklearn", "IPython"]
print([name for name in heavy if name in sys.modules])
print(jax.config.jax_enable_x64 == x64)
print([event for event in events if "compile" in event])
"""


@pytest.mark.parametrize("x64", ["0", "1"])
def test_importing_is_light_and_changes_nothing(x64):
    environment = {"PATH": "", "JAX_ENABLE_X64": x64, "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-W", "error", "-c", IMPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True", "[]"]


FIT = """
import sys
import numpy as np
import advi

def log_joint(z, y):
    return -0.5 * (z["mu"] ** 2 + ((y - z["mu"]) ** 2).sum()) - z["s"]

made = [advi.unit_interval(init=0.5), advi.ordered(2), advi.simplex(3), advi.circular()]
latents = {"mu": advi.real(), "s": advi.positive(init=2.0)}
fit = advi.fit(advi.Model(log_joint, latents), np.arange(3.0))
fit.summary()
repr(made)
fit.save(sys.argv[1])
print(fit.verdict.level, advi.load(sys.argv[1]).verdict.level)
print([name for name in ("numpyro", "optax", "scipy.special") if name in sys.modules])
print(advi.positive().support, "numpyro" in sys.modules)
"""


def test_a_plain_fit_imports_no_other_library(tmp_path):
    environment = {"PATH": "", "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-W", "error", "-c", FIT, str(tmp_path / "fit")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = ["good good", "[]", "Positive(lower_bound=0.0) True"]
    assert done.stdout.splitlines() == expected


def test_names_that_are_imported_later_are_there():
    assert set(dir(advi)) == {*advi.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        advi.fitt  # noqa: B018
