"""A route of information flow over its tokens (Ferrando & Voita 2024, figures 1 and 3).

Column = token, row = layer, bottom to top. The vertical line of a token is its residual stream;
a green curve is attention from one token to a later one (or, bulging to the right, to itself), with
the numbers of the heads on it; a pink curve on the left is the MLP. Width is flow: 1 where the
route starts, split on the way down. Heads with one source, target and layer share a curve. A
dark rail beside the column where the route starts carries what goes straight into the logit. All
coordinates are inches from the lower left corner. Equal input gives equal SVG bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from acdc.errors import InputError
from discovery.flow.routes import Kind, Route
from discovery.show.drawing import COLOURS, FAINT, GREY, INK, save_figure

ATTENTION, MLP, STREAM, DIRECT = COLOURS["value"], COLOURS["MLP"], "#9AA3AB", COLOURS["logits"]
LEFT, RIGHT, HEADER, FOOTER = 0.7, 0.5, 1.45, 0.8  # inches around the grid
MIN_WIDTH = 7.0  # the legend needs it
LABEL = 5.6  # points, numbers of heads
ALONG = (0.5, 0.36, 0.64, 0.24, 0.76, 0.15, 0.85)  # where on its curve a label may stand
Point = tuple[float, float]


class Grid:
    """Where everything lies; arithmetic on the numbers of tokens and layers."""

    def __init__(self, n_tokens: int, n_layers: int, split: bool) -> None:
        self.n_tokens, self.n_layers = n_tokens, n_layers
        self.column = min(max(15 / n_tokens, 0.5), 0.95)
        self.row = min(max(13 / n_layers, 0.4), 1.1)
        self.arrival = 0.5 * self.row if split else self.row  # from a layer's foot to attention
        span = (n_tokens - 1) * self.column
        self.width = max(LEFT + span + 0.5 * self.column + RIGHT, MIN_WIDTH)
        self.left = LEFT + 0.25 * self.column + (self.width - LEFT - span - RIGHT) / 4
        self.top = FOOTER + n_layers * self.row
        self.height = self.top + HEADER

    def x(self, token: int) -> float:
        """Middle of a column."""
        return self.left + token * self.column

    def y(self, layer: int) -> float:
        """State before a layer; n_layers is the final state."""
        return FOOTER + layer * self.row


def draw_route(
    folder: Path, route: Route, tokens: Sequence[str], *, top: str, title: str, subtitle: str
) -> tuple[Path, Path]:
    """Write route.png and route.svg into the folder and return their paths.

    `tokens` are the texts of the prompt's tokens, `top` says what the route starts from.
    InputError unless there is one text a token.
    """
    if len(tokens) != len(route.tokens):
        raise InputError(f"route: {len(tokens)} texts for {len(route.tokens)} tokens")
    split = bool((route.edges["kind"] == Kind.SKIP).any())
    grid = Grid(len(tokens), (len(route.states) - 1) // 2, split)
    figure = Figure(figsize=(grid.width, grid.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, grid.width), ylim=(0, grid.height))
    axes.axis("off")
    style: Any = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "route"}
    with matplotlib.rc_context(style):
        _draw_grid(axes, grid, route, tokens)
        _draw_streams(axes, grid, route)
        _draw_attention(axes, grid, route)
        _draw_top(axes, grid, route, top)
        _draw_header(axes, grid, route, title, subtitle)
        png = save_figure(figure, folder, "route", "png")
        return png, save_figure(figure, folder, "route", "svg")


def _draw_grid(axes: Axes, grid: Grid, route: Route, tokens: Sequence[str]) -> None:
    """Columns, layer numbers, token texts and how much of the flow ends in each."""
    for layer in range(grid.n_layers):
        y = grid.y(layer) + 0.5 * grid.row
        _text(axes, grid.left - 0.42 * grid.column - 0.1, y, str(layer), size=7, color=GREY)
    for token, text in enumerate(tokens):
        x = grid.x(token)
        axes.plot([x, x], [grid.y(0), grid.top], color=FAINT, lw=0.6, zorder=0)
        flow = float(route.input[token])
        _text(axes, x, FOOTER - 0.16, _shown(text, grid), size=7.5, color=INK if flow else GREY)
        _text(axes, x, FOOTER - 0.33, str(token), size=5.8, color=GREY)
        if flow:
            percent = f"{100 * flow:.0f} %" if flow >= 0.005 else "< 1 %"
            _text(axes, x, FOOTER - 0.5, percent, size=6.2, color=ATTENTION)
    x = grid.left - 0.42 * grid.column - 0.1
    _text(axes, x, grid.top + 0.1, "layer", size=7, color=GREY)
    _text(axes, x, FOOTER - 0.33, "token", size=6, color=GREY)
    _text(axes, x, FOOTER - 0.5, "flow in", size=6, color=GREY)


def _draw_streams(axes: Axes, grid: Grid, route: Route) -> None:
    """Residual lines, MLP curves and a dot for every state that is reached."""
    for edge in _alike(route, Kind.RESIDUAL, Kind.SKIP, Kind.MLP):
        x, y = grid.x(edge["target"]), grid.y(edge["layer"])
        mid, above, gid = y + grid.arrival, y + grid.row, f"{Kind(edge['kind']).name.lower()}"
        gid = f"{gid}:{edge['layer']}:{edge['target']}"
        look: dict[str, Any] = {"gid": gid, "lw": _width(edge["flow"]), "solid_capstyle": "butt"}
        if edge["kind"] == Kind.MLP:
            foot = mid if grid.arrival < grid.row else y
            points = _bulge((x, foot), (x, above), -0.3 * grid.column)
            _curve(axes, points, MLP, edge["flow"], gid)
        else:
            ends = [y, mid] if edge["kind"] == Kind.RESIDUAL else [mid, above]
            axes.plot([x, x], ends, color=STREAM, zorder=2, **look)
    for level, token in np.argwhere(route.states.numpy() > 0).tolist():
        y = grid.y(level // 2) + (level % 2) * grid.arrival
        axes.plot([grid.x(token)], [y], ".", color=INK, ms=2.6, mew=0, zorder=5)


def _draw_attention(axes: Axes, grid: Grid, route: Route) -> None:
    """A curve for all heads of one layer from one token to another, strongest heads named first."""
    curves: dict[tuple[int, int, int], list[tuple[float, int]]] = defaultdict(list)
    for edge in _alike(route, Kind.HEAD):
        key = edge["layer"], edge["source"], edge["target"]
        curves[key].append((edge["flow"], edge["head"]))
    taken: list[tuple[float, float, float]] = []
    order = sorted(curves.items(), key=lambda item: (-sum(f for f, _ in item[1]), item[0]))
    for (layer, source, target), heads in order:
        flow = sum(f for f, _ in heads)
        names = list(dict.fromkeys(h for _, h in sorted(heads, key=lambda p: (-p[0], p[1]))))
        foot, head = (grid.x(source), grid.y(layer)), (grid.x(target), grid.y(layer) + grid.arrival)
        if source == target:
            points = _bulge(foot, head, 0.34 * grid.column)
        else:
            reach = 0.45 * (head[0] - foot[0])
            points = [foot, (foot[0] + reach, foot[1]), (head[0] - reach, head[1]), head]
        _curve(axes, points, ATTENTION, flow, f"head:{layer}:{source}:{target}")
        _name(axes, points, "h" + ",".join(map(str, names)), taken)


def _name(
    axes: Axes, points: list[Point], text: str, taken: list[tuple[float, float, float]]
) -> None:
    """The label of a curve, where it covers no other if there is such a place."""
    half = 0.026 * len(text) + 0.03
    places = [_along(points, t) for t in ALONG]
    free = [
        (x, y)
        for x, y in places
        if all(abs(x - u) > half + other or abs(y - v) > 0.085 for u, v, other in taken)
    ]
    x, y = (free or places)[0]
    taken.append((x, y, half))
    box = {"boxstyle": "round,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.85}
    _text(axes, x, y, text, size=LABEL, color="#005A41", zorder=6, bbox=box)


def _draw_top(axes: Axes, grid: Grid, route: Route, top: str) -> None:
    """What the route starts from, and the rail of what goes straight into it."""
    x, y = grid.x(route.position), grid.top + 0.32
    half = 0.5 * (0.062 * len(top) + 0.2)
    middle = min(max(x, half + 0.1), grid.width - half - 0.1)
    axes.plot([x, x], [grid.top, y], color=INK, lw=0.6, zorder=3)
    box = FancyBboxPatch((middle - half, y - 0.1), 2 * half, 0.2, boxstyle="round,pad=0", zorder=4)
    box.set(facecolor="#F3F3F3", edgecolor=INK, lw=0.7, gid="top")
    axes.add_patch(box)
    _text(axes, middle, y, top, size=7.4, color=INK, zorder=5)
    direct = route.edges[route.edges["direct"] & (route.edges["kind"] != Kind.CONSTANT)]
    if not len(direct):
        return
    first = direct["kind"] == Kind.INPUT
    levels = [grid.y(0), *(grid.y(i) + grid.arrival for i in range(grid.n_layers)), y - 0.1]
    flow = float(direct["flow"][first].sum())
    for layer, ends in enumerate(zip(levels[:-1], levels[1:], strict=True), start=-1):
        flow += float(direct["flow"][~first & (direct["layer"] == layer)].sum())
        if flow:
            look: dict[str, Any] = {"lw": _width(flow), "gid": f"direct:{layer}", "alpha": 0.75}
            axes.plot([x + 0.09] * 2, ends, color=DIRECT, solid_capstyle="butt", zorder=3, **look)


def _draw_header(axes: Axes, grid: Grid, route: Route, title: str, subtitle: str) -> None:
    """Title, subtitle, what was dropped, the colours and three sample widths."""
    top, x = grid.height, 0.25
    room = int(grid.width * 10)
    _text(axes, x, top - 0.24, _cut(title, room), size=12, color=INK, ha="left", weight="bold")
    _text(axes, x, top - 0.48, _cut(subtitle, int(1.5 * room)), size=8.5, color=GREY, ha="left")
    kept = f"shares > {route.threshold:g}" + " renormalised" * route.renormalised
    rest = f"{kept}; constants {route.constant:.1%}, dropped {abs(route.lost):.1%} of the flow"
    _text(axes, x, top - 0.66, _cut(rest, int(1.5 * room)), size=7.5, color=GREY, ha="left")
    names = {"residual": STREAM, "attention (heads)": ATTENTION}
    if (route.edges["kind"] == Kind.MLP).any():
        names["MLP"] = MLP
    if route.from_logit:
        names["straight to the logit"] = DIRECT
    for name, colour in names.items():
        axes.add_line(Line2D([x, x + 0.22], [top - 0.88] * 2, color=colour, lw=2.2))
        _text(axes, x + 0.28, top - 0.88, name, size=7.5, color=INK, ha="left")
        x += 0.45 + 0.064 * len(name)
    _text(axes, x + 0.1, top - 0.88, "flow", size=7.5, color=GREY, ha="left")
    x += 0.42
    for flow in (0.01, 0.1, 1.0):
        axes.add_line(Line2D([x, x + 0.22], [top - 0.88] * 2, color=INK, lw=_width(flow)))
        _text(axes, x + 0.28, top - 0.88, f"{flow:g}", size=7.5, color=INK, ha="left")
        x += 0.58


def _alike(route: Route, *kinds: Kind) -> list[dict[str, Any]]:
    """Edges of some kinds as dictionaries, the thinnest first; those into the logit as well."""
    edges = route.edges[np.isin(route.edges["kind"], kinds)]
    rows = [dict(zip(edges.dtype.names or (), row, strict=True)) for row in edges.tolist()]
    return sorted(rows, key=lambda e: (e["flow"], e["kind"], e["layer"], e["source"], e["head"]))


def _curve(axes: Axes, points: list[Point], colour: str, flow: float, gid: str) -> None:
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    line = PathPatch(Curve(points, codes), fill=False, lw=_width(flow), gid=gid, zorder=3)
    line.set(edgecolor=colour, capstyle="butt", alpha=0.45 + 0.45 * min(flow, 1.0) ** 0.5)
    axes.add_patch(line)


def _bulge(start: Point, end: Point, bow: float) -> list[Point]:
    """Points of a curve between two points of one column, `bow` inches aside."""
    rise = 0.25 * (end[1] - start[1])
    reach = 4 / 3 * bow  # where the control points must be for the curve to reach `bow`
    return [start, (start[0] + reach, start[1] + rise), (end[0] + reach, end[1] - rise), end]


def _along(points: list[Point], t: float) -> Point:
    """The point of a cubic Bezier curve at t in 0..1."""
    weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    x, y = (sum(w * p[i] for w, p in zip(weights, points, strict=True)) for i in (0, 1))
    return x, y


def _width(flow: float) -> float:
    return 0.45 + 4.2 * flow**0.6


def _shown(text: str, grid: Grid) -> str:
    return _cut(text.strip() or repr(text)[1:-1].replace(" ", "␣"), int(grid.column / 0.062))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    look = {"ha": "center", "va": "center_baseline", **look}
    axes.text(x, y, text, parse_math=False, **look)
