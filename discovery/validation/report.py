"""The page that a reader gets: verdicts first, then every figure that they rest on."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from discovery.runs.json_files import write_bytes
from discovery.validation.decision import GOOD
from discovery.validation.figures import draw_all
from discovery.validation.rungs import circuit_input, cut_edges
from discovery.validation.verdicts import (
    Verdict,
    heading,
    headline,
    interval,
    left_out,
    said,
    scale,
)


def write_report(folder: Path, validation: Mapping[str, Any], found: Sequence[Verdict]) -> Path:
    """Draw the figures and write report.html, which holds them all; returns its path."""
    figures = {name: Markup(svg) for name, svg in draw_all(folder, validation).items()}
    path, picture = folder / "report.html", folder / "circuit.svg"
    drawn = picture.read_bytes() if picture.is_file() else None
    write_bytes(path, page(validation, found, figures, drawn).encode())
    return path


def page(
    validation: Mapping[str, Any], found: Sequence[Verdict], figures: Mapping[str, Markup],
    picture: bytes | None = None,
) -> str:  # fmt: skip
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
    environment.filters["said"] = said
    environment.filters["place"] = place
    counted = [v for v in found if v.counted]
    groups = {
        "Holds": [v for v in counted if v.holds is True],
        "Does not hold": [v for v in counted if v.holds is False],
        "Not decided": [v for v in counted if v.holds is None],
    }
    beside = [v for v in found if not v.counted]
    template = environment.get_template("report.html")
    return template.render(
        v=validation, groups=groups, beside=beside, headline=headline(validation, found),
        left_out=left_out(validation), figures=figures, good=GOOD,
        heading=heading(validation["decision"]["verdict"]),
        scales={one["name"]: scale(one, validation) for one in validation["decision"]["figures"]},
        picture=None if picture is None else base64.b64encode(picture).decode(),
    )  # fmt: skip


def place(value: float) -> str:
    """Where on a bar from 0 to 100 % a share is marked; beyond its ends, at the end."""
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%"


def share(value: float | None, digits: int = 2) -> str:
    """A number of a table, or that there is none."""
    return "undefined" if value is None else f"{value:.{digits}f}"
