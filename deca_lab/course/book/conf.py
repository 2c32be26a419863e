"""Sphinx reads this file: what turns the sources into pages, and how they look. No page asks any network."""

import os
from pathlib import Path
from typing import Any

project = "deca_lab"
author = "the deca_lab contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_later", "_warnings.txt"]
default_role = "code"  # single backticks in our docstrings are code
smartquotes = False

nb_execution_mode = "off"  # the outputs are those that the notebooks hold
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_dmath_double_inline = True  # $$...$$ inside a paragraph, as Jupyter takes it
myst_update_mathjax = False
myst_heading_anchors = 4
myst_heading_slug_func = "deca_lab.course.book.sources.slug"
suppress_warnings = ["myst.header", "config.cache"]

# A formula in raw HTML, inside an answer that folds, is found by its dollars; all others come marked.
mathjax_path = "tex-svg-full.js"
mathjax3_config = {
    "tex": {"inlineMath": [["\\(", "\\)"], ["$", "$"]]},
    "options": {
        "ignoreHtmlClass": "tex2jax_ignore",
        "processHtmlClass": "tex2jax_process|math",
        "enableMenu": False,
    },
}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
# Types of torch and of the standard library have no page here; links between pages are all checked.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = "deca_lab"
html_static_path = [
    str(Path(__file__).parent / "looks"),
    os.environ.get("DECA_LAB_MATHJAX", "") + "/tex-svg-full.js",
]
html_css_files = ["book.css"]
html_js_files = [("knobs.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx's application
    """Leave out what docstrings do not tell: the fields of a NamedTuple, which its own text explains."""
    app.connect("autodoc-skip-member", _skip)


def _skip(app: object, what: str, name: str, thing: object, skip: bool, options: object) -> bool:
    return skip or (thing.__doc__ or "").startswith("Alias for field number")
