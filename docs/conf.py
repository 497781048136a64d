"""Sphinx configuration: ``python -m sphinx -W -b html docs docs/_build/html``."""

import os
import shutil
from pathlib import Path

import advi

HERE = Path(__file__).parent

project = "advi"
author = "The advi authors"
release = version = advi.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
exclude_patterns = ["_build"]

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
numpydoc_show_class_members = False

default_role = "py:obj"  # `Elbo` in a docstring links to it

html_theme = "furo"
html_title = "advi"

# The notebooks live with the models and are copied beside the pages, which Sphinx requires.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "models" / "notebooks", HERE / "notebooks")
