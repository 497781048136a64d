"""The shape of the code: public names, and an import that costs little."""

import subprocess
import sys
from pathlib import Path

import pytest

import advi

ROOT = Path(advi.__file__).parent


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
