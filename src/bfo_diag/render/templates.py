"""The one place that finds and fills the templates of files that are written (pages, packages).

What goes into a page is escaped and cleaned here, for every value of every template; the templates can't forget it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bfo_diag.render.text import clean, clip

_PLAIN = (".md.j2", ".py.j2", ".txt.j2", ".toml.j2")
"""Templates whose output is no markup: the caller escapes what the format needs. All others are escaped as HTML."""


_LONGEST = 8_000
"""Characters of one value on a page; what is longer is a log, and not to be read there."""


@cache
def folder() -> Path:
    """Return where the templates are: in an installed package beside the code, else in the checkout.

    An editable install has only the latter.
    """
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_templates"
    return packaged if packaged.is_dir() else package.parents[1] / "templates"


def render(name: str, /, **values: Any) -> str:
    """Return the template `name` filled with `values`; a value that the template wants and lacks is an error."""
    return _environment(name.endswith(_PLAIN)).get_template(name).render(values)


def source(name: str) -> Markup:
    """Return the text of a file of ours (a style sheet, a script) to be put into a page as it is."""
    return Markup((folder() / name).read_text(encoding="utf-8"))  # our own file, never data


@cache
def _environment(plain: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(folder()),
        autoescape=not plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=None if plain else _clean,
    )


def _clean(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return clip(clean(value), _LONGEST, where="in the log")
    return value
