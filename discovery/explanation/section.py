"""What a part of an explanation comes to: sentences, tables, pictures, and every figure as JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

Row = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """Rows of one kind, fields in one order; cells are shown as they are."""

    caption: str  # what a row is, the unit, and what is zero
    rows: Sequence[Row]


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG text."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One part of the page and of explanation.json."""

    title: str
    how: str  # what was done, with source, unit, sign and baseline: what a reader has to know
    says: Sequence[str]  # what was found, each with its figure; what is not explained comes first
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    found: Mapping[str, Any] = field(default_factory=dict)  # JSON, for other parts and programs


def drawn(figure: Figure, caption: str) -> Picture:
    """A figure of matplotlib; equal figures give equal bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "circuit", "svg.fonttype": "none"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = out.getvalue()
    return Picture(caption, text[text.index("<svg") :])
