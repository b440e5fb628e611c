"""One circuit as a page of its own inside another page: what a notebook shows.

The dashboard's own drawing, self-contained: nothing is loaded, and the frame may run these scripts
only.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import Any

from discovery.dashboard.contents import circuit
from discovery.dashboard.export import inlined

SCRIPTS = ("dom.js", "grid.js", "spans.js", "circuit.js", "embed.js")
STYLES = ("style.css", "views.css")
HEIGHT = 620  # pixels


def circuit_frame(data: dict[str, Any], title: str) -> str:
    """An iframe with the picture of a circuit file: hover, focus a head, hide weak edges.

    A sentence where there is nothing to draw.
    """
    drawn = circuit(data)
    if drawn is None or not drawn["edges"]:
        return f"<p>{html.escape(title)}: no edges to draw.</p>"
    page = base64.b64encode(circuit_page(drawn, title).encode()).decode()
    return (
        f'<iframe src="data:text/html;charset=utf-8;base64,{page}" sandbox="allow-scripts"'
        f' title="{html.escape(title)}"'
        f' style="width:100%;height:{HEIGHT}px;border:1px solid #8884"></iframe>'
    )


def circuit_html(data: Mapping[str, Any], title: str) -> str:
    """The page of a circuit file by itself; a sentence where there is nothing to draw."""
    drawn = circuit(dict(data))
    if drawn is None or not drawn["edges"]:
        return f"<!doctype html><title>{html.escape(title)}</title><p>No edges to draw.</p>"
    return circuit_page(drawn, title)


def circuit_page(drawn: dict[str, Any], title: str) -> str:
    """The page in the frame."""
    head, tail = inlined(SCRIPTS, STYLES, drawn)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>{head}</head><body>"
        f'<main id="main"><h1>{html.escape(title)}</h1></main>'
        '<div id="tip" aria-hidden="true" hidden></div>'
        '<div id="said" class="unseen" role="status" aria-live="polite"></div>'
        f"{tail}</body></html>"
    )
