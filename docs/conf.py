"""Sphinx configuration; builds offline."""

from pathlib import Path

project = "steadyflow"
copyright = "the steadyflow authors"
author = "the steadyflow authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "steadyflow"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
suppress_warnings = ["ref.python"]

SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "Attributes:", "Yields:")


def readable(app, what, name, obj, options, lines):
    """Docstrings are written for people: formulas become literal blocks, * and | are letters."""
    text, section, literal = [], False, False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if line.strip() and not indented:
            section, literal = line.strip() in SECTIONS, False
        opens = indented and not section and not literal and i and not lines[i - 1].strip()
        if opens:
            text += ["::", ""]
            literal = True
        code = literal or ">>>" in line
        text.append(line if code else line.replace("*", r"\*").replace("|", r"\|"))
    lines[:] = text


def command_line(app):
    """Writes the reference of the command line, as the program gives it."""
    from steadyflow.cli.reference import markdown

    page = Path(app.srcdir) / "_generated" / "command-line-reference.md"
    page.parent.mkdir(exist_ok=True)
    text = markdown()
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", command_line)
    app.connect("autodoc-process-docstring", readable, priority=100)
