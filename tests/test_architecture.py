"""The shape of the code: imports point up one list of rooms, and importing costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import advi

ROOT = Path(advi.__file__).parent

# Every room, from the bottom up: a module imports from rooms below its own, or from its own
# package. A new module is given its place here.
ROOMS = [
    ["errors", "interrupts", "jaxpr_keys", "known", "scales", "status", "table"],
    ["conversions"],
    ["jaxprs"],
    ["arrays", "device", "frozen", "progress"],
    ["archive", "keys", "lock", "networks", "prefetch", "draws", "moments"],
    ["transforms"],
    ["latents"],
    ["model"],
    ["data"],
    ["tracing"],
    ["deferred", "indices", "jacobians"],
    ["density"],
    ["constrained", "families", "growth"],
    ["guide"],
    ["log_prob", "optimizers"],
    ["make_guide", "vocabulary"],
    ["row_data"],
    ["gaussian"],
    ["diagnostics"],
    ["flat", "objective", "slopes", "unbiased"],
    ["first_look", "ridges"],
    ["held_out", "row_posterior"],
    ["row_elbo"],
    ["stages", "streams"],
    ["all_rows", "checkpoint", "headlines", "predict", "stored_params", "trust"],
    ["storage"],
    ["interop", "loo", "plots"],
    ["result"],
    ["failures", "initial", "load", "prior_starts"],
    ["planned", "row_fit"],
    ["amortisation", "check", "compare", "drivers", "flat_ends"],
    ["steps"],
    ["fit"],
    ["__init__"],
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def modules():
    """Module name, such as "stages.plan", to its file."""
    paths = sorted(ROOT.rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports(path):
    """The modules of advi that a file imports when it runs: "stages.plan", "errors"."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []  # only type checkers read it
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "advi":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("advi."):
                found.add(node.module.removeprefix("advi."))
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {n.removeprefix("advi.") for n in names if n.startswith("advi.")}
            assert "advi" not in names, f"{path.name}: import a module, not the package"
    return found


MODULES = modules()
GRAPH = {name: imports(path) for name, path in MODULES.items()}


def room(module):
    return module.partition(".")[0]


def test_every_module_has_a_room():
    assert {room(name) for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up_the_list(module):
    for imported in GRAPH[module]:
        assert room(imported) in LEVEL, f"{module} imports {imported}, which is no module"
        if room(imported) != room(module):
            assert LEVEL[room(imported)] < LEVEL[room(module)], f"{module} imports {imported}"


def test_imports_within_a_room_have_no_cycle():
    """Nor does the whole graph."""
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " imports ".join([*open_, module])
        if module in done or module not in GRAPH:
            return
        open_.append(module)
        for imported in GRAPH[module]:
            visit(imported)
        open_.pop()
        done.add(module)

    for module in GRAPH:
        visit(module)


def test_only_the_package_imports_fit():
    assert [name for name, imported in GRAPH.items() if "fit" in imported] == ["__init__"]


def test_no_module_imports_the_public_names():
    public = set(advi.__all__)
    taken = {name: imported & public - set(MODULES) for name, imported in GRAPH.items()}
    assert not any(taken.values())


def test_public_names_exist_and_are_sorted():
    assert list(advi.__all__) == sorted(advi.__all__)
    assert all(hasattr(advi, name) for name in advi.__all__)
    assert all(getattr(advi, name).__doc__ for name in advi.__all__)


IMPORT = """
import sys
import jax
import jax.monitoring
events = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
x64 = jax.config.jax_enable_x64
import advi
heavy = ["scipy.optimize", "scipy.stats", "arviz", "matplotlib", "pandas", "sklearn", "IPython"]
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
