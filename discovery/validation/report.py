"""The page that a reader gets: verdicts first, then every figure that they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from discovery.json_files import write_bytes
from discovery.rungs import circuit_input, cut_edges
from discovery.validation.figures import draw_all
from discovery.validation.verdicts import Verdict, headline, interval


def write_report(folder: Path, validation: Mapping[str, Any], found: Sequence[Verdict]) -> Path:
    """Draw the figures and write report.html, which holds them all; returns its path."""
    figures = {name: Markup(svg) for name, svg in draw_all(folder, validation).items()}
    path = folder / "report.html"
    write_bytes(path, page(validation, found, figures).encode())
    return path


def page(
    validation: Mapping[str, Any], found: Sequence[Verdict], figures: Mapping[str, Markup]
) -> str:
    """The page as HTML. Everything but the figures is escaped."""
    environment = Environment(
        loader=PackageLoader("discovery.validation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = interval
    environment.filters["cut_edges"] = cut_edges
    environment.filters["circuit_input"] = circuit_input
    groups = {
        "Holds": [v for v in found if v.holds is True],
        "Does not hold": [v for v in found if v.holds is False],
        "Not decided": [v for v in found if v.holds is None],
    }
    template = environment.get_template("report.html")
    return template.render(v=validation, groups=groups, headline=headline(validation, found),
                           figures=figures)  # fmt: skip
