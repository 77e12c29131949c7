"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build``."""

from importlib.metadata import version as version_of
from typing import Any
from urllib.request import urlopen

project = "iobuf_nb"
copyright = "2026, the iobuf_nb developers"
version = release = version_of("iobuf-nb")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.intersphinx", "numpydoc"]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache", "**.ipynb_checkpoints"]

# Markdown and notebooks. Anchors are those of GitHub, so that links work in both places.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "cache"  # notebooks are stored without outputs; only a changed one is executed again
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_ipywidgets_js: dict[str, Any] = {}  # a page needs no scripts of others; live views are for open notebooks

# The API, from the docstrings. A name in single backticks is a reference, if there is something of that name.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say more
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_xref_param_type = False
toc_object_entries_show_parents = "hide"


def reachable(address: str) -> bool:
    """Return whether the inventory of a project can be read now."""
    try:
        with urlopen(f"{address}objects.inv", timeout=5) as inventory:
            return inventory.read(16).startswith(b"# Sphinx")
    except OSError:
        return False


def headings_as_rubrics(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Make the headings of a module's docstring no sections: several pages would have one of the same name."""
    if what == "module":
        for k in range(len(lines) - 1, 0, -1):
            if lines[k] and set(lines[k]) == {"-"}:
                lines[k - 1 : k + 1] = [f".. rubric:: {lines[k - 1]}", ""]


def setup(app: Any) -> None:
    """Connect what changes docstrings."""
    app.connect("autodoc-process-docstring", headings_as_rubrics)


# Without a network, names of other projects are no links, and the build is otherwise the same.
intersphinx_mapping = {
    name: (address, None)
    for name, address in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "numba": "https://numba.readthedocs.io/en/stable/",
    }.items()
    if reachable(address)
}

html_theme = "pydata_sphinx_theme"
html_title = "iobuf_nb"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css", "notebooks.css"]
_ALONE = "index", "tutorial", "gotchas", "how-it-works", "guarantees", "proofs", "benchmarks", "from-go", "changelog"
html_sidebars = {page: [] for page in _ALONE}  # they have no pages below them to list
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
