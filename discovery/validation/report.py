"""The page that a reader gets: verdicts first, then every figure that they rest on."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from discovery.runs.json_files import write_bytes
from discovery.validation.figures import draw_all
from discovery.validation.rungs import circuit_input, cut_edges
from discovery.validation.verdicts import interval, left_out


def write_report(folder: Path, validation: Mapping[str, Any]) -> Path:
    """Draw the figures and write report.html, which holds them all; returns its path."""
    figures = {name: Markup(svg) for name, svg in draw_all(folder, validation).items()}
    path, picture = folder / "report.html", folder / "circuit.svg"
    drawn = picture.read_bytes() if picture.is_file() else None
    write_bytes(path, page(validation, figures, drawn).encode())
    return path


def page(
    validation: Mapping[str, Any], figures: Mapping[str, Markup], picture: bytes | None = None
) -> str:
    """The page as HTML; `picture` is the circuit's SVG, shown as an image, in which nothing runs.

    Everything but the figures is escaped.
    """
    environment = Environment(
        loader=PackageLoader("discovery.validation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = interval
    environment.filters["share"] = share
    environment.filters["cut_edges"] = cut_edges
    environment.filters["circuit_input"] = circuit_input
    environment.filters["place"] = place
    found = validation["verdicts"]
    counted = [one for answer in (True, False, None) for one in found
               if one["counted"] and one["holds"] is answer]  # fmt: skip
    return environment.get_template("report.html").render(
        v=validation,
        counted=counted,
        beside=[one for one in found if not one["counted"]],
        left_out=left_out(validation),
        figures=figures,
        picture=None if picture is None else base64.b64encode(picture).decode(),
    )


def place(value: float) -> str:
    """Where on a bar from 0 to 100 % a share is marked; beyond its ends, at the end."""
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%"


def share(value: float | None, digits: int = 2) -> str:
    """A number of a table, or that there is none."""
    return "undefined" if value is None else f"{value:.{digits}f}"
