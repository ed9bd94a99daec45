"""The site: ``pip install -e '.[docs]'``, then ``make docs``."""

from __future__ import annotations

import re
from typing import Any

project = "recbole_hellm"
author = "The authors of recbole_hellm"
copyright = author
extensions = [
    "myst_nb",  # pages, and notebooks with the outputs that they were kept with
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # the site loads nothing from elsewhere
    "sphinx_copybutton",
]
exclude_patterns = ["records", "results/*.csv", "results/*.tex", "results/*.html"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["notebooks.css"]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
# Tables are printed with headings of the third level, whatever page they are put into.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config",
}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

_OUTWARD = re.compile(r"\[([^\]]+)\]\((?:\.\./([^)]*)|(records[^)]*))\)")
_FILE_NAME = re.compile(r"\[[\w/-]+\.md\]\(([\w/-]+\.md[^)]*)\)")
_BOUND = re.compile(r"(?:Annotated\[)+(\w+)(?:, [^\[\]]*\])+")


def _named(link: re.Match[str]) -> str:
    text, target = link[1].strip("`"), link[2] or f"docs/{link[3]}"
    return f"`{target}`" if target.endswith(text) else f"{text} (`{target}`)"


def _for_the_site(_app: Any, page: str, source: list[str]) -> None:
    """Links as a site has them, where a reader of the repository sees names of files."""
    if page.startswith("notebooks/"):  # their links are those of the site
        return
    text = _OUTWARD.sub(_named, source[0])  # what is outside this folder is no part of the site
    text = _FILE_NAME.sub(r"[](\1)", text)  # the title of the page
    source[0] = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _without_bounds(*parts: Any) -> tuple[str, str] | None:
    """Signatures of settings without the bounds of values, which `--help` tells."""
    signature, returned = parts[-2:]
    return (_BOUND.sub(r"\1", signature), returned) if signature else None


def setup(app: Any) -> None:
    """Sphinx's entry point."""
    app.connect("source-read", _for_the_site)
    app.connect("autodoc-process-signature", _without_bounds)
