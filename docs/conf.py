"""Sphinx configuration: ``python -m sphinx -W -b html docs docs/_build/html``."""

import os
import shutil
from pathlib import Path
from typing import Any

import advi

HERE = Path(__file__).parent

project = "advi"
author = "The advi authors"
copyright = "2026, the advi authors"
release = version = advi.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas without a network
    "sphinx_design",
    "numpydoc",
    "myst_nb",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Pages with code run when they are built; an error, or a word on stderr, fails the build. A page
# runs again when its code changes, so remove _build after a change of the library.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove-warn"
os.environ["TQDM_DISABLE"] = "1"  # a bar that is gone leaves nothing to show
myst_enable_extensions = ["colon_fence", "dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
numpydoc_show_inherited_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = True  # the types of parameters and results are links
numpydoc_xref_aliases = {name: f"advi.{name}" for name in advi.__all__}

default_role = "py:obj"  # `Elbo` in a docstring links to it

html_theme = "furo"
html_title = "advi"

# The notebooks live with the models and are copied beside the pages, which Sphinx requires.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "models" / "notebooks", HERE / "notebooks")


# A type in a signature is found where it is defined; its page is that of the public name.
PUBLIC = {
    f"{value.__module__}.{name}": f"advi.{name}"
    for name in advi.__all__
    if hasattr(value := getattr(advi, name), "__module__")
}


def resolve_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Return the reference to a public name of a name that is defined elsewhere, or None."""
    target = PUBLIC.get(node.get("reftarget", ""))
    if target is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_any_xref(env, node["refdoc"], app.builder, target, node, contnode)[0][1]


def setup(app: Any) -> None:
    """Connect what Sphinx calls while it builds."""
    app.connect("missing-reference", resolve_public)
