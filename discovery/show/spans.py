"""A circuit whose edges are at spans of positions: a column a span, a row a layer.

A node stands in each column in which a path passes through it; edges rise within a column, and pass
from column to column where a head's keys and values are read elsewhere than its queries. So the
picture reads like the published ones of IOI (Wang et al. 2023, figure 2; Haklay et al. 2025).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes

from acdc.circuit import END, Circuit
from acdc.names import named
from discovery.show.drawing import BOX_HEIGHT, FAINT, GREY, INK, MIN_WIDTH, DrawnEdge, Layout, Place

NODE, GAP, ROW = 0.66, 0.34, 0.72  # inches: nodes of a cell, columns, rows
LEFT, RIGHT, HEADER, FOOTER = 0.75, 0.4, 1.2, 0.62


def from_token_to_token(circuit: Circuit) -> list[DrawnEdge]:
    """Each step of the circuit's paths: from a writer's span to that where the reader's node is."""
    graph, names = circuit.graph, circuit.graph.spans.names
    found = list[DrawnEdge]()
    for (w, r), steps in circuit.steps().items():
        part, score = graph.readers[r].part, float(circuit.scores[w, r])
        of = f"<{part}>" if part in ("q", "k", "v") else ""
        for (_, here), to in steps:
            reader = END if to == END else f"{graph.writers[to[0]]}{of}@{names[to[1]]}"
            found.append(DrawnEdge(f"{graph.writers[w]}@{names[here]}", reader, score))
    return found


class Columns:
    """Places of nodes at spans; see discovery.show.drawing.Places."""

    bow, widest = 0.1, 0.5
    always: tuple[str, ...] = (END,)

    def __init__(self, layout: Layout, edges: Sequence[DrawnEdge], spans: Sequence[str]) -> None:
        self.layout = layout
        cells = _cells(edges)
        self.spans = [span for span in spans if any(own == span for own, _ in cells)]
        self.rows = sorted({row for _, row in cells})
        sizes = [max(len(n) for (own, _), n in cells.items() if own == s) for s in self.spans]
        wide = sum(sizes) * NODE + (len(sizes) - 1) * GAP
        self.width = max(LEFT + wide + RIGHT, MIN_WIDTH)
        x = (LEFT + self.width - RIGHT - wide) / 2
        self.middles = dict[str, float]()
        for span, size in zip(self.spans, sizes, strict=True):
            self.middles[span] = x + size * NODE / 2
            x += size * NODE + GAP
        self.first, self.right = self.middles[self.spans[0]], self.middles[self.spans[-1]]
        self.heights = {row: FOOTER + i * ROW for i, row in enumerate(self.rows)}
        top = FOOTER + len(self.rows) * ROW
        self.height = top + HEADER
        self._places = {END: Place(self._end(edges), top, 0.7, 0.25)}
        for (span, row), nodes in cells.items():
            for i, node in enumerate(nodes):
                x = self.middles[span] + (i - (len(nodes) - 1) / 2) * NODE
                self._places[node] = Place(x, self.heights[row], 0.58, BOX_HEIGHT)

    def _end(self, edges: Sequence[DrawnEdge]) -> float:
        """Over the columns whose tokens the logits read."""
        into = {named(e.writer).span for e in edges if e.reader == END}
        middles = [x for span, x in self.middles.items() if span in into]
        return sum(middles) / len(middles) if middles else self.right

    def place(self, node: str) -> Place:
        """See Places.place."""
        if node not in self._places:
            raise ValueError(f"{node!r} is no node of these edges.")
        return self._places[node]

    def span(self, kv_head: int, layer: int) -> tuple[float, float] | None:
        """See Places.span: edges into a group's key or value are drawn to its heads."""
        return None

    def background(self, axes: Axes) -> None:
        """See Places.background: a band and a name for each column, a line for each layer."""
        top = max(self.heights.values()) + ROW / 2
        for span, x in self.middles.items():
            axes.plot([x, x], [FOOTER, top], color=FAINT, lw=9, solid_capstyle="round", zorder=0)
            axes.text(x, 0.28, span, size=8.5, color=INK, ha="center", va="center", weight="bold")
        for (layer, mlp), y in self.heights.items():
            if layer >= 0:
                axes.plot([LEFT, self.width - RIGHT], [y, y], color=FAINT, lw=0.6, zorder=0)
                kind = "MLP" if mlp else "heads"
                axes.text(0.2, y, f"{layer} {kind}", size=7.5, color=GREY, va="center")


def _cells(edges: Sequence[DrawnEdge]) -> dict[tuple[str, tuple[int, bool]], list[str]]:
    """(span, row) -> nodes there; a row is (layer, whether it is the MLP's), -1 for `input`."""
    found: dict[tuple[str, tuple[int, bool]], dict[str, int]] = defaultdict(dict)
    for name in (end for edge in edges for end in (edge.writer, edge.reader) if end != END):
        one = named(name)
        row = (-1 if one.kind == "input" else one.layer, one.kind == "mlp")
        found[one.span, row][f"{one.node}@{one.span}"] = one.index
    return {cell: sorted(nodes, key=lambda n: (nodes[n], n)) for cell, nodes in found.items()}
