"""How the tests are shared out among the processes of pytest-xdist."""

import pytest


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one process by default: they share what has been compiled."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None
