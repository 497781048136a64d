"""The documentation leaves nothing out; that its pages build and run is another job of CI's."""

import re
from pathlib import Path

import advi

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
MAIN = '__name__ == "__main__"'
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference_once():
    entries = re.findall(r"^   (\w+)$", REFERENCE, flags=re.MULTILINE)
    assert sorted(entries) == sorted(advi.__all__)


def test_every_page_and_notebook_is_in_a_table_of_contents():
    pages = [page for room in ("guide", "api") for page in (DOCS / room).glob("*.md")]
    entries = {f"{page.parent.name}/{page.stem}" for page in pages}
    entries |= {f"notebooks/{path.stem}" for path in ROOT.glob("models/notebooks/*.ipynb")}
    listed = set(re.findall(r"^(?:guide|api|notebooks)/\w+$", INDEX, flags=re.MULTILINE))
    assert listed == entries


def commands(room):
    """The names of the modules and packages of a room that `python -m` runs."""
    scripts = {p for p in (ROOT / room).glob("*.py") if MAIN in p.read_text(encoding="utf-8")}
    packages = {path.parent for path in (ROOT / room).glob("*/__main__.py")}
    return {path.stem for path in scripts | packages}


def test_every_benchmark_is_on_its_page():
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (?!question)", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(commands("benchmarks"))


def test_every_command_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Worked models") : readme.index("## Documentation")]
    listed = re.findall(r"^\| `((?:models|benchmarks)\.\w+)` \|", table, flags=re.MULTILINE)
    expected = [f"{room}.{name}" for room in ("models", "benchmarks") for name in commands(room)]
    assert sorted(listed) == sorted(expected)


def test_every_benchmark_runs_in_a_test():
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    called = set(re.findall(r"\b(\w+?)(?:_main)?\.(?:main|run)\(", tests))
    assert commands("benchmarks") - called == set()
