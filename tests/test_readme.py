"""The README's Python runs as it stands, in order, and prints what the README says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import advi

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
REASON = re.compile(r"^(status: \w+), .*$|^(verdict): .*(\n  .*)*$", flags=re.MULTILINE)


def same_everywhere(text):
    """Return the words of a text without what differs from machine to machine.

    Those are the last digits, which of its tests told the plan that it had converged, and the
    verdict of a fit that lies near a threshold, as that of eight schools does.
    """
    return NUMBER.sub("#", REASON.sub(r"\1\2", text)).split()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What every block of Python printed, by its place, and the fit that the first one made."""
    namespace, printed, first = {}, {}, None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))  # where one of them writes a file
        for place, (language, block) in enumerate(BLOCKS):
            if language == "python":
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec(compile(block, "README.md", "exec"), namespace)
                printed[place] = out.getvalue()
                first = first or namespace["fit"]
    return printed, first


def test_snippets_run_and_print_what_is_shown(ran):
    printed, _ = ran
    last = ""
    for place, (language, block) in enumerate(BLOCKS):
        last = printed.get(place, last)
        if language == "text":
            assert same_everywhere(last) == same_everywhere(block)


def test_the_first_fit_is_the_one_shown(ran):
    """The numbers of the first table, to what the plan's tolerances leave open."""
    _, fit = ran
    shown = next(block for language, block in BLOCKS if language == "text")
    means = {
        line.split()[0]: float(line.split()[1]) for line in shown.split("\n\n")[1].splitlines()[1:]
    }
    sds = fit.summary()["sd"]
    for name, sd in zip(fit.summary().rows, sds, strict=True):
        # between keys the plan's means differ by 0.04 sd, between machines by no more
        assert abs(fit.summary()[name]["mean"] - means[name]) < 0.1 * sd


NOT_LATENTS = ("amortisation_gap", "check", "compare", "fit", "from_numpyro", "load", "log_density")
NOT_LATENTS += ("svi", "fit_many", "calibrate")


def test_every_public_helper_is_in_the_table():
    table = README[README.index("## Latents") : README.index("## Why a fit ended")]
    helpers = [name for name in advi.__all__ if name.islower() and name not in NOT_LATENTS]
    assert [name for name in helpers if not re.search(rf"`(advi\.)?{name}\b", table)] == []
