"""A circuit as a figure: a fixed grid of heads, and curves for the edges.

Column = head, row = layer, bottom to top; the MLP of a layer sits half a row above its heads, in a
column of its own at the right. A key/value group that is read by several heads has its entry below
the bracket over these heads. Positions depend on the architecture only, so figures of different
thresholds or methods can be laid over each other. The colour of a curve says what it feeds, its
width how much it matters. All coordinates are inches from the lower left corner of the figure.
Takes plain names and numbers; equal input gives equal SVG bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from acdc.names import Name, parse
from discovery.runs.json_files import write_bytes

# Okabe and Ito's colours, distinguishable without red-green vision
COLOURS = {
    "query": "#0072B2",
    "key": "#E69F00",
    "value": "#009E73",
    "MLP": "#CC79A7",
    "logits": "#404040",
}
INK, GREY, FAINT = "#222222", "#707070", "#E4E4E4"
ENTRIES = {"q": ("query", -1), "k": ("key", 0), "v": ("value", 1)}  # what is fed, at which third

HEADER, FOOTER = 1.15, 0.66  # inches above and below the grid
LEFT, RIGHT = 0.75, 0.85
MIN_WIDTH = 8.0  # the legend needs it
BOX_HEIGHT, ENTRY_HEIGHT = 0.19, 0.15
ENTRY_DROP = 0.235  # from the middle of a head to the middle of its group's entry
ARROW = 0.075
DPI, MAX_PIXELS = 150, 8000
STYLE: Any = {
    "font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "circuit",
    "pdf.fonttype": 42,
}  # fmt: skip
KINDS = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Layout:
    """The sizes of the architecture that the grid depends on."""

    n_layers: int
    n_heads: int
    n_kv_heads: int  # equal to n_heads unless heads share keys and values
    has_mlp: bool


@dataclass(frozen=True)
class DrawnEdge:
    """From a writer such as "a3.h1" to a reader such as "a5.h2<q>", "a5.kv1<k>", "m4", "logits".

    On columns of spans both are at one: from "a3.h1@s1" to "a5.h2<k>@end".
    """

    writer: str
    reader: str
    effect: float  # unsigned importance is what is drawn


@dataclass(frozen=True)
class Place:
    """A node on the figure."""

    x: float
    y: float
    width: float
    height: float


@runtime_checkable
class Places(Protocol):
    """Where nodes lie: what a figure is drawn on. All in inches."""

    layout: Layout
    width: float
    height: float
    first: float  # middle of the leftmost column
    right: float  # of the rightmost
    bow: float  # of a curve, for each inch that it rises
    widest: float  # bow
    always: tuple[str, ...]  # nodes that are drawn whether an edge touches them or not

    def place(self, node: str) -> Place:
        """The box of a node; ValueError for one that is not there."""
        ...

    def span(self, kv_head: int, layer: int) -> tuple[float, float] | None:
        """From where to where the heads lie that read a group; None: none of them is there."""
        ...

    def background(self, axes: Axes) -> None:
        """Lines and labels behind the nodes."""
        ...


class Grid:
    """Where everything lies; arithmetic on the sizes of the architecture."""

    bow, widest = 0.07, 0.9
    always: tuple[str, ...] = ("input", "logits")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.column = min(max(8.4 / layout.n_heads, 0.62), 1.0)
        self.row = min(max(10.5 / layout.n_layers, 0.52), 1.2)  # from layer to layer
        self.end = max(0.62, 0.75 * self.row)  # from the outermost rows to input and logits
        span = (layout.n_heads - 0.5 + 1.15 * layout.has_mlp) * self.column
        self.width = max(LEFT + span + RIGHT, MIN_WIDTH)
        self.left = LEFT + (self.width - LEFT - span - RIGHT) / 2
        self.right, self.first = self.left + span, self.head_x(0)
        self.base = FOOTER + self.end + ENTRY_DROP
        self.top = self.base + (layout.n_layers - 1) * self.row + 0.5 * self.row * layout.has_mlp
        self.height = self.top + self.end + HEADER

    def head_x(self, head: float | int) -> float:
        return self.left + (head + 0.25) * self.column

    def layer_y(self, layer: int) -> float:
        return self.base + layer * self.row

    def place(self, node: str) -> Place:
        """The box of a node; ValueError as `named`."""
        name = self.named(node)
        box = min(0.58, 0.92 * self.column)
        if name.kind in ("input", "logits"):
            below = name.kind == "input"
            y = self.base - ENTRY_DROP - self.end if below else self.top + self.end
            return Place(self.head_x((self.layout.n_heads - 1) / 2), y, 1.6, 0.25)
        y = self.layer_y(name.layer)
        if name.kind == "mlp":
            y += 0.5 * self.row
            return Place(self.head_x(self.layout.n_heads + 0.15), y, box, BOX_HEIGHT)
        if name.kind == "head":
            return Place(self.head_x(name.index), y, box, BOX_HEIGHT)
        first, last = self.group(name.index)
        return Place(self.head_x((first + last) / 2), y - ENTRY_DROP, box, ENTRY_HEIGHT)

    def group(self, kv_head: int) -> tuple[int, int]:
        """First and last head that read this key/value head."""
        size = self.layout.n_heads // self.layout.n_kv_heads
        return kv_head * size, (kv_head + 1) * size - 1

    def span(self, kv_head: int, layer: int) -> tuple[float, float] | None:
        """See Places.span."""
        first, last = self.group(kv_head)
        return self.head_x(first), self.head_x(last)

    def background(self, axes: Axes) -> None:
        """See Places.background."""
        _draw_grid(axes, self)

    def named(self, node: str) -> Name:
        """What the node's name says; ValueError for one that this architecture does not have."""
        name, layout = parse(node), self.layout
        if name and not name.part:
            count = layout.n_kv_heads if name.kind == "kv" else layout.n_heads
            fits = name.layer < layout.n_layers and name.index < count
            if fits and (layout.has_mlp or name.kind != "mlp"):
                return name
        raise ValueError(f"{node!r} is not a node of {layout}.")


def draw_circuit(
    folder: Path, layout: Layout, edges: Sequence[DrawnEdge], *, title: str, subtitle: str,
    width: str = "|effect|",
) -> tuple[Path, Path]:  # fmt: skip
    """Write circuit.png and circuit.svg into the folder and return their paths.

    `width` says what an edge's width is.
    """
    figure = circuit_figure(Grid(layout), edges, title=title, subtitle=subtitle, width=width)
    png = save_circuit(figure, folder / "circuit.png")
    return png, save_circuit(figure, folder / "circuit.svg")


def save_circuit(figure: Figure, path: Path) -> Path:
    """Write a figure of a circuit, of the kind that the name ends in."""
    with matplotlib.rc_context(STYLE):
        return save_figure(figure, path.parent, path.stem, path.suffix[1:])


def circuit_figure(
    places: Places, edges: Sequence[DrawnEdge], *, title: str, subtitle: str,
    width: str = "|effect|",
) -> Figure:  # fmt: skip
    """The circuit on these places; see `draw_circuit`."""
    figure = Figure(figsize=(places.width, places.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, places.width), ylim=(0, places.height))
    axes.axis("off")
    with matplotlib.rc_context(STYLE):
        places.background(axes)
        _draw_edges(axes, places, edges)
        _draw_nodes(axes, places, edges)
        _draw_header(axes, places, title, subtitle, width, edges)
    return figure


class Shown(Figure):
    """A figure that a notebook draws, whether anybody imported pyplot or not."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def save_figure(figure: Figure, folder: Path, name: str, kind: str) -> Path:
    """Write name.png, .svg or .pdf, at once or not at all, the same bytes for the same figure."""
    path = folder / f"{name}.{kind}"
    write_bytes(path, figure_bytes(figure, kind))
    return path


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of one of KINDS."""
    dpi = min(DPI, MAX_PIXELS / max(figure.get_size_inches()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=KINDS[kind])
    return buffer.getvalue()


def _draw_grid(axes: Axes, grid: Grid) -> None:
    """Layer lines and numbers, head numbers, and a dot where a node could be."""
    layout = grid.layout
    heads = [grid.head_x(head) for head in range(layout.n_heads)]
    for layer in range(layout.n_layers):
        y = grid.layer_y(layer)
        axes.plot([heads[0] - 0.3, heads[-1] + 0.3], [y, y], color=FAINT, lw=0.6, zorder=0)
        axes.plot(heads, [y] * layout.n_heads, ".", color="#C8C8C8", ms=3.2, mew=0, zorder=1)
        _text(axes, grid.left - 0.33, y, str(layer), size=7.5, color=GREY, ha="right")
        if layout.has_mlp:
            place = grid.place(f"m{layer}")
            axes.plot([place.x], [place.y], ".", color="#C8C8C8", ms=3.2, mew=0, zorder=1)
    y = 0.36
    for head, x in enumerate(heads):
        _text(axes, x, y, str(head), size=7.5, color=GREY)
    _text(axes, grid.left - 0.33, y, "head", size=7.5, color=GREY, ha="right")
    _text(
        axes, grid.left - 0.33, grid.top + 0.5 * grid.end, "layer", size=7.5, color=GREY, ha="right"
    )
    if layout.has_mlp:
        _text(axes, grid.place("m0").x, y, "MLP", size=7.5, color=GREY)


def _draw_edges(axes: Axes, grid: Places, edges: Sequence[DrawnEdge]) -> None:
    strongest = _strongest(edges)
    for edge in sorted(edges, key=lambda e: (abs(e.effect), e.writer, e.reader)):
        strength = abs(edge.effect) / strongest
        node, feeds, third = split_reader(edge.reader)
        points = _curve(grid, grid.place(edge.writer), grid.place(node), third)
        codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        look: dict[str, Any] = {"alpha": _opacity(strength), "zorder": 2}
        line = PathPatch(Curve(points, codes), fill=False, lw=_width(strength), **look)
        line.set(edgecolor=COLOURS[feeds], capstyle="butt", gid=f"{edge.writer}->{edge.reader}")
        axes.add_patch(line)
        (x, y), half = points[-1], ARROW * (0.35 + 0.25 * strength)
        tip = [(x - half, y), (x + half, y), (x, y + ARROW)]
        axes.add_patch(Polygon(tip, facecolor=COLOURS[feeds], lw=0, **look))


def _curve(grid: Places, start: Place, end: Place, third: int) -> list[tuple[float, float]]:
    """Bezier points: out of the writer's top, into the reader's bottom, bowed away from the middle.

    The bow grows with the distance, so that edges over different distances separate.
    """
    x0 = start.x + _fan(grid, start, end)
    x1 = end.x + _fan(grid, end, start) + third * end.width / 4
    y0 = start.y + start.height / 2
    y1 = end.y - end.height / 2 - ARROW - 0.01
    rise = max(0.45 * (y1 - y0), 0.12)
    outwards = 1 if x0 + x1 >= grid.first + grid.right else -1
    bow = outwards * min(0.1 + grid.bow * (y1 - y0), grid.widest)
    return [(x0, y0), (x0 + bow, y0 + rise), (x1 + bow, y1 - rise), (x1, y1)]


def _fan(grid: Places, place: Place, other: Place) -> float:
    """Input and logits have many edges: where along the box one starts or ends."""
    if place.width < 1:
        return 0.0
    share = (other.x - place.x) / (grid.right - grid.first)
    return place.width * min(max(0.8 * share, -0.44), 0.44)


def _draw_nodes(axes: Axes, grid: Places, edges: Sequence[DrawnEdge]) -> None:
    used = {e.writer for e in edges} | {split_reader(e.reader)[0] for e in edges}
    for node in sorted(used | {*grid.always}):
        place = grid.place(node)
        ink = INK if node in used else "#B0B0B0"
        name = parse(node)
        assert name is not None  # it has a place
        if name.kind == "kv" and (span := grid.span(name.index, name.layer)) is not None:
            _draw_bracket(axes, span, place)
        fill = "white" if name.kind in ("head", "kv") else "#F3F3F3"
        corner = (place.x - place.width / 2, place.y - place.height / 2)
        style = f"round,pad=0,rounding_size={place.height / 2.6}"
        box = FancyBboxPatch(corner, place.width, place.height, boxstyle=style, zorder=4)
        box.set(facecolor=fill, edgecolor=ink, lw=0.7, gid=f"node:{node}")
        axes.add_patch(box)
        size = 6.2 if name.kind == "kv" else 7.4
        label = str(replace(name, span=""))
        _text(axes, place.x, place.y - 0.006, label, size=size, color=ink, zorder=5)


def _draw_bracket(axes: Axes, span: tuple[float, float], place: Place) -> None:
    """A line below the heads that read the group."""
    y = place.y + place.height / 2 + 0.025
    left, right = span[0] - 0.22, span[1] + 0.22
    axes.plot([left, left, right, right], [y + 0.03, y, y, y + 0.03], color=INK, lw=0.6, zorder=4)


def _draw_header(
    axes: Axes, grid: Places, title: str, subtitle: str, width: str, edges: Sequence[DrawnEdge]
) -> None:
    """Title, subtitle, the colours, and three sample widths."""
    top = grid.height
    room = int(grid.width * 10)
    _text(axes, 0.25, top - 0.24, _cut(title, room), size=12, color=INK, ha="left", weight="bold")
    _text(axes, 0.25, top - 0.48, _cut(subtitle, int(1.5 * room)), size=8.5, color=GREY, ha="left")
    feeds = [name for name in COLOURS if name != "MLP" or grid.layout.has_mlp]
    x, y = 0.25, top - 0.74
    _text(axes, x, y, "feeds", size=7.5, color=GREY, ha="left")
    x += 0.4
    for name in feeds:
        axes.add_line(Line2D([x, x + 0.22], [y, y], color=COLOURS[name], lw=2.2))
        _text(axes, x + 0.28, y, name, size=7.5, color=INK, ha="left")
        x += 0.8
    if not edges:
        return
    x += 0.2
    _text(axes, x, y, width, size=7.5, color=GREY, ha="left")
    x += 0.5
    for strength in (0.05, 0.3, 1.0):
        look: dict[str, Any] = {"lw": _width(strength), "alpha": _opacity(strength)}
        axes.add_line(Line2D([x, x + 0.22], [y, y], color=INK, **look))
        label = f"{strength * _strongest(edges):.2g}"
        _text(axes, x + 0.28, y, label, size=7.5, color=INK, ha="left")
        x += 0.42 + 0.06 * len(label)


def split_reader(reader: str) -> tuple[str, str, int]:
    """Node, what is fed (a key of COLOURS), and on which third of the box the edge ends."""
    name = parse(reader)
    if name is None or not name.reads:
        raise ValueError(
            f"{reader!r} does not say what it reads: expected <q>, <k>, <v>, m or logits."
        )
    ends = {"mlp": ("MLP", 0), "logits": ("logits", 0), **ENTRIES}
    return (str(replace(name, part="")), *ends[name.part or name.kind])


def _strongest(edges: Iterable[DrawnEdge]) -> float:
    return max((abs(e.effect) for e in edges), default=0.0) or 1.0


def _width(strength: float) -> float:
    return 0.65 + 2.5 * strength**0.7


def _opacity(strength: float) -> float:
    return 0.45 + 0.45 * strength**0.5


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    look = {"ha": "center", "va": "center_baseline", **look}
    axes.text(x, y, text, parse_math=False, **look)
