"""Sphinx configuration; builds offline."""

import importlib
import inspect
import re
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


ROOMS = ("", ".bijections", ".networks", ".solvers", ".data", ".training", ".evaluation")


def generate(app):
    """Writes the pages that the program itself gives."""
    from steadyflow.cli.reference import markdown

    written = (Path(app.srcdir) / "reference.md").read_text(encoding="utf-8")
    pages = {"command-line-reference": markdown(), "more-names": more_names(written)}
    for name, text in pages.items():
        page = Path(app.srcdir) / "_generated" / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def more_names(written):
    """A page of the public classes and functions that reference.md does not show already."""
    modules = set(re.findall(r"automodule:: (\S+)", written))
    named = {name.rpartition(".")[2] for name in re.findall(r"auto\w+:: (\S+)", written)}
    named |= set(re.findall(r"\w+", " ".join(re.findall(r":members: (.*)", written))))
    parts = ["# More of the Python reference\n\nEvery other public name, by the room it is in.\n"]
    for room in ROOMS:
        house = importlib.import_module(f"steadyflow{room}")
        entries = []
        for name in house.__all__:
            thing = getattr(house, name)
            home = getattr(thing, "__module__", None)
            if home is None or home in modules or name in named:
                continue
            kind = "autoclass" if inspect.isclass(thing) else "autofunction"
            entries.append(f".. {kind}:: {home}.{name}")
            named.add(name)
        if entries:
            title = f"steadyflow{room}"
            parts.append(f"## {title}\n\n```{{eval-rst}}\n" + "\n".join(entries) + "\n```\n")
    return "\n".join(parts)


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", readable, priority=100)
