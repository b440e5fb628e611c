"""A circuit as a picture for a paper.

    python scripts/draw.py run=FOLDER style=layered format=pdf
    python scripts/draw.py run=FOLDER style=table format=tex edges=20
    python scripts/draw.py run=circuit.json style=grid out=figure.svg format=svg

Styles: grid (all heads of the model, comparable between circuits), layered (the circuit's own
nodes), spans (a column a span, of a run with graph.positions), table (its edges, strongest first).
Words are fields of discovery/show/settings.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command import refusals_as_exit, shown

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.schema import ALL
from discovery.choices.fields import checked
from discovery.job.summary import caption, title
from discovery.runs.json_files import read_json, write_bytes
from discovery.show.drawing import DrawnEdge, Grid, Layout, circuit_figure, save_circuit
from discovery.show.edge_table import latex, strongest, table_figure
from discovery.show.layered import Layered
from discovery.show.settings import DrawSettings
from discovery.show.spans import Columns, from_token_to_token

USAGE = __doc__ or ""


def draw(asked: DrawSettings) -> Path:
    """Write the picture; returns its path. InputError for what is no run and no circuit."""
    given = Path(asked.run)
    circuit = Circuit.load(given / "circuit.json" if given.is_dir() else given)
    if asked.style == "spans" and circuit.graph.spans == ALL:
        raise InputError(
            f"run={asked.run}: its edges are at all positions, and style=spans draws those of a run"
            " with graph.positions=spans or tokens"
        )
    result, search = ((read_json(given / f"{n}.json") or {}) for n in ("result", "search"))
    width = "|score|" if search.get("ranks") else "|effect|"
    edges = strongest(drawn(circuit, asked.style))[: asked.edges]
    if not edges:
        raise InputError(f"run={asked.run}: its circuit keeps no edge, so there is nothing to draw")
    if asked.format == "tex":
        write_bytes(asked.path, latex(edges, width).encode())
        return asked.path
    words = headings(asked, result, circuit)
    if asked.style == "table":
        figure = table_figure(edges, **words, width=width)
    else:
        graph = circuit.graph
        layout = Layout(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.has_mlp)
        places = Grid(layout) if asked.style == "grid" else Layered(layout, edges)
        if asked.style == "spans":
            places = Columns(layout, edges, circuit.graph.spans.names)
        figure = circuit_figure(places, edges, **words, width=width)
    return save_circuit(figure, asked.path)


def drawn(circuit: Circuit, style: str) -> list[DrawnEdge]:
    """The kept edges with their scores; where spans have no place, those at any of them."""
    if style == "spans":
        return from_token_to_token(circuit)
    circuit = circuit if style == "table" else circuit.without_spans()
    graph = circuit.graph
    return [
        DrawnEdge(graph.writers[w], graph.readers[r].name, float(circuit.scores[w, r]))
        for w, r in np.argwhere(circuit.mask).tolist()
    ]


def headings(asked: DrawSettings, result: Mapping[str, Any], circuit: Circuit) -> dict[str, str]:
    """Title and caption as asked, or as the run says."""
    plain = f"{circuit.n_edges} of {circuit.graph.n_edges:,} edges"
    own = (title(result), caption(result)) if result else (Path(asked.run).stem, plain)
    return {
        "title": own[0] if asked.title is None else asked.title,
        "subtitle": own[1] if asked.caption is None else asked.caption,
    }


def read_words(words: Sequence[str]) -> DrawSettings:
    """The settings of the words; InputError for what is no field=value."""
    for word in words:
        if "=" not in word:
            raise InputError(f"{word}: words are of the form field=value, such as run=FOLDER")
    return checked(DrawSettings, dict(word.split("=", 1) for word in words))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw as the words say."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & {*words}:
        print(f"usage: circuits draw run=FOLDER [field=value ...]\n\n{USAGE}")
        return
    with refusals_as_exit():
        print(f"picture  {shown(draw(read_words(words)).resolve())}")


if __name__ == "__main__":
    main()
