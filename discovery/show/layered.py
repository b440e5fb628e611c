"""A circuit's own nodes in layers, as a figure for a paper: rows without nodes take no room.

Row = the heads or the MLP of a layer, bottom to top. Within a row nodes stand where their
neighbours are (barycentres, swept up and down: Sugiyama et al. 1981), so that few curves cross. The
entry of a key/value group has a row of its own below its layer's heads. Positions depend on the
edges: figures of two circuits do not lie over each other, as those on the grid do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from acdc.names import named
from discovery.show.drawing import (
    BOX_HEIGHT,
    ENTRY_HEIGHT,
    FAINT,
    GREY,
    MIN_WIDTH,
    DrawnEdge,
    Layout,
    Place,
)

COLUMN, ROW, ENTRY_ROW = 0.78, 0.82, 0.3  # inches between nodes, rows, and an entry and its heads
LEFT, RIGHT, HEADER, FOOTER = 0.9, 0.35, 1.2, 0.35
SWEEPS = 12
RANKS = {"kv": 0, "head": 1, "mlp": 2}  # of the rows of a layer

Row = tuple[int, int]  # layer, rank; input and logits lie outside


class Layered:
    """Places of the nodes that the edges touch; see discovery.show.drawing.Places."""

    bow, widest = 0.28, 1.7  # a curve past a row goes around the box that stands there
    always: tuple[str, ...] = ("input", "logits")

    def __init__(self, layout: Layout, edges: Sequence[DrawnEdge]) -> None:
        self.layout = layout
        rows = ordered_rows(layout, edges)
        widest = max(map(len, rows.values()))
        self.width = max(LEFT + widest * COLUMN + RIGHT, MIN_WIDTH)
        middle = (LEFT + self.width - RIGHT) / 2
        self.first = middle - (widest - 1) / 2 * COLUMN
        self.right = middle + max((widest - 1) / 2 * COLUMN, 0.5)
        self.heights = _heights(rows)
        self.height = max(self.heights.values()) + HEADER
        self._places = {
            name: self._place(name, middle + (i - (len(names) - 1) / 2) * COLUMN, row)
            for row, names in rows.items()
            for i, name in enumerate(names)
        }

    def _place(self, node: str, x: float, row: Row) -> Place:
        ends, entry = node in ("input", "logits"), row[1] == RANKS["kv"] and row[0] >= 0
        size = (1.6, 0.25) if ends else (0.58, ENTRY_HEIGHT if entry else BOX_HEIGHT)
        return Place(x, self.heights[row], *size)

    def place(self, node: str) -> Place:
        """See Places.place."""
        if node not in self._places:
            raise ValueError(f"{node!r} is no node of these edges.")
        return self._places[node]

    def span(self, kv_head: int, layer: int) -> tuple[float, float] | None:
        """See Places.span."""
        size = self.layout.n_heads // self.layout.n_kv_heads
        heads = [f"a{layer}.h{kv_head * size + i}" for i in range(size)]
        found = [self._places[head].x for head in heads if head in self._places]
        return (min(found), max(found)) if found else None

    def background(self, axes: Axes) -> None:
        """See Places.background: a line and a name for each row."""
        for (layer, rank), y in self.heights.items():
            if not 0 <= layer < self.layout.n_layers or rank == RANKS["kv"]:
                continue
            axes.plot([LEFT, self.width - RIGHT], [y, y], color=FAINT, lw=0.6, zorder=0)
            kind = "heads" if rank == RANKS["head"] else "MLP"
            axes.text(0.25, y, f"{layer} {kind}", size=7.5, color=GREY, va="center")


def ordered_rows(layout: Layout, edges: Sequence[DrawnEdge]) -> dict[Row, list[str]]:
    """The nodes by row, bottom to top, each row from left to right."""
    joined = _neighbours(layout, edges)
    rows: dict[Row, list[str]] = defaultdict(list)
    for node in sorted(joined, key=_key):
        rows[_row(layout, node)].append(node)
    order = sorted(rows)
    places = {node: i - len(rows[row]) / 2 for row in order for i, node in enumerate(rows[row])}
    for sweep in range(SWEEPS):
        for row in order if sweep % 2 else order[::-1]:
            middle = {n: sum(places[m] for m in joined[n]) / len(joined[n]) for n in rows[row]}
            rows[row].sort(key=lambda node: (middle[node], _key(node)))
            places |= {n: i - (len(rows[row]) - 1) / 2 for i, n in enumerate(rows[row])}
    return {row: rows[row] for row in order}


def _neighbours(layout: Layout, edges: Sequence[DrawnEdge]) -> Mapping[str, list[str]]:
    """By node, in the order of the edges; a group's entry lies with the heads that read it."""
    joined: dict[str, list[str]] = defaultdict(list, {"input": ["logits"], "logits": ["input"]})
    for edge in sorted(edges, key=lambda e: (e.writer, e.reader)):
        reader = named(edge.reader).node
        joined[edge.writer].append(reader)
        joined[reader].append(edge.writer)
    size = layout.n_heads // layout.n_kv_heads
    for entry in [named(node) for node in joined if named(node).kind == "kv"]:
        heads = (f"a{entry.layer}.h{entry.index * size + i}" for i in range(size))
        for head in (head for head in heads if head in joined):
            joined[head].append(entry.node)
            joined[entry.node].append(head)
    return joined


def _heights(rows: Mapping[Row, Sequence[str]]) -> dict[Row, float]:
    """Of each row; heads stand close above their groups' entries."""
    out, y, before = dict[Row, float](), FOOTER, None
    for row in rows:
        if before is not None:
            y += ENTRY_ROW if before == (row[0], RANKS["kv"]) else ROW
        out[row], before = y, row
    return out


def _row(layout: Layout, node: str) -> Row:
    name = named(node)
    if name.kind in ("input", "logits"):
        return (-1, 0) if name.kind == "input" else (layout.n_layers, 0)
    return name.layer, RANKS[name.kind]


def _key(node: str) -> tuple[int, int, int]:
    name = named(node)
    return name.layer, RANKS.get(name.kind, 0), name.index
