"""Configuration of the documentation: python -m sphinx -W --keep-going -b html docs docs/_build/html."""

import re
from typing import Any

import nnunet_mtl

project = "nnunet_mtl"
author = "nnunet_mtl developers"
copyright = "nnunet_mtl developers, Apache-2.0"
version = release = nnunet_mtl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# what a leaf may define, in the docstring of the trainer
napoleon_custom_sections = [("Hooks", "params_style")]
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"nnunet_mtl {release}"


def as_restructured_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring, which is written as plain text with `code`, into what Sphinx reads: ``code``, no emphasis."""
    for number, line in enumerate(lines):
        plain_and_code = re.split(r"`+([^`]+)`+", line)
        lines[number] = "".join(
            f"``{text}``" if place % 2 else text.replace("*", r"\*").replace("|", r"\|")
            for place, text in enumerate(plain_and_code)
        )


def setup(app: Any) -> None:
    """Read docstrings before napoleon does, whose priority is 500."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
