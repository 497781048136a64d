"""How the tests are shared out among the processes of pytest-xdist, and data beside the code."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest

# Most programs of the tests run once or twice: optimised and threaded compiling takes longer.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # others do not know it
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # which take longer yet
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes of the tests use all cores

BESIDE = Path(__file__).parents[2] / "shared" / "posteriordb"


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one process by default: they share what has been compiled."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture
def checkout():
    """A checkout of posteriordb, as the environment names it or beside this repository."""
    from models.posteriordb.checkout import VARIABLE, find_root  # and with it JAX

    try:
        return find_root(os.environ.get(VARIABLE) or BESIDE)
    except FileNotFoundError:
        pytest.skip(f"no checkout of posteriordb: {VARIABLE} names none, nor is one in {BESIDE}")
