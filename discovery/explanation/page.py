"""explanation.html: a readable page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from discovery.explanation.parts import Explanation
from discovery.show.tables import html

FIRST = ("story", "roles")  # the whole before its parts
FEW = 8  # rows of a table that is not folded


def page(about: Mapping[str, Any], explanation: Explanation) -> str:
    """The page as HTML. Everything but the pictures is escaped."""
    environment = Environment(
        loader=PackageLoader("discovery.explanation", "templates"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["table"] = lambda rows: Markup(html(rows))
    environment.filters["svg"] = Markup
    made = explanation.sections
    order = [*(n for n in FIRST if n in made), *(n for n in made if n not in FIRST)]
    return environment.get_template("explanation.html").render(
        about=about, e=explanation, few=FEW, sections={name: made[name] for name in order}
    )
