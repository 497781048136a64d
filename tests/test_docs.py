"""The documentation leaves nothing out; that its pages build and run is another job of CI's."""

import re
from pathlib import Path

import advi

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference_once():
    directives = re.findall(r"^\.\. auto\w+:: advi\.(\w+)$", REFERENCE, flags=re.MULTILINE)
    assert sorted(directives) == sorted(advi.__all__)


def test_every_page_and_notebook_is_in_a_table_of_contents():
    pages = [page for room in ("guide", "api") for page in (DOCS / room).glob("*.md")]
    entries = {f"{page.parent.name}/{page.stem}" for page in pages}
    entries |= {f"notebooks/{path.stem}" for path in ROOT.glob("models/notebooks/*.ipynb")}
    listed = set(re.findall(r"^(?:guide|api|notebooks)/\w+$", INDEX, flags=re.MULTILINE))
    assert listed == entries


def test_every_benchmark_is_on_its_page():
    scripts = {
        path.stem
        for path in ROOT.glob("benchmarks/*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| (?!question)", page, flags=re.MULTILINE)) == scripts
