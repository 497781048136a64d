"""The types that users see: what they write is passed, and their mistakes are found."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PASSES, FAILS = HERE / "passes.py", HERE / "fails.py"
MARK = re.compile(r"# error: (\w+)$")


@pytest.fixture(scope="module")
def found():
    """The errors that pyright finds: file to a list of line, rule and message."""
    if shutil.which("pyright") is None:
        pytest.skip('needs pyright: pip install -e ".[lint]"')
    files = [str(PASSES), str(FAILS)]
    command = ["pyright", "--outputjson", "--pythonpath", sys.executable, *files]
    root = HERE.parents[1]  # with the settings of pyright
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode not in (0, 1):  # 1: there are errors; it needs node, which it may not have
        pytest.skip(f"pyright does not run here: {done.stderr[-300:] or done.stdout[-300:]}")
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(files)
    errors = {path.name: [] for path in (PASSES, FAILS)}
    for one in report["generalDiagnostics"]:
        if one["severity"] == "error":
            line = one["range"]["start"]["line"] + 1
            errors[Path(one["file"]).name].append((line, one.get("rule"), one["message"]))
    return errors


def test_what_users_write_is_passed(found):
    assert found[PASSES.name] == []


def test_mistakes_are_found_where_they_are(found):
    lines = FAILS.read_text(encoding="utf-8").splitlines()
    marks = {number: MARK.search(line) for number, line in enumerate(lines, start=1)}
    marked = {(number, mark[1]) for number, mark in marks.items() if mark}
    assert {(line, rule) for line, rule, _ in found[FAILS.name]} == marked
    assert len(marked) > 20


def test_a_wrong_keyword_is_named(found):
    messages = [message for _, _, message in found[FAILS.name]]
    assert any('No parameter named "familly"' in message for message in messages)
