"""Every notebook runs from top to bottom, and is kept without what its runs leave behind."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "models" / "notebooks").glob("*.ipynb"))


# the build of the documentation runs all of them
SHORT = "numpyro_arviz"
RUNS = [
    pytest.param(path, marks=[] if path.stem == SHORT else pytest.mark.slow, id=path.stem)
    for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", RUNS)
def test_notebook_runs(path, monkeypatch):
    reason = 'needs pip install -e ".[notebooks]"'
    for package in ("arviz_stats", "ipykernel", "matplotlib", "nbclient", "sklearn"):
        pytest.importorskip(package, reason=reason)
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_light(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
    assert [cell for cell in notebook["cells"] if cell["metadata"]] == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
