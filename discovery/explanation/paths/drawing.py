"""A walk of path patching as a picture: nodes by layer, upward, one curve a path."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as Curve

from discovery.explanation.paths.walk import Path, Walk
from discovery.show.drawing import COLOURS, GREY, INK

MOST = 28  # paths drawn, the strongest
NUMBERED = 16  # with their figure
LEAST = 0.04  # of the strongest path into the same node, to be drawn
GAP, ROW, WIDTH, MOST_BOW = 1.9, 1.15, 9.0, 2.0  # inches
ALONG = (0.5, 0.35, 0.65, 0.25, 0.75, 0.43, 0.57)  # of a path, where its figure may stand
FEEDS = {"q": "query", "k": "key", "v": "value"}
_LAYER = re.compile(r"[am](\d+)")


def draw_walk(found: Walk, unit: str) -> Figure | None:
    """The significant paths; None where there is none."""
    best = dict[str, float]()
    for p in found.paths:
        best[p.node] = max(best.get(p.node, 0.0), p.size)
    paths = [p for p in found.paths if p.significant and p.size >= LEAST * best[p.node]]
    paths = sorted(paths, key=lambda p: -p.size)[:MOST]
    if not paths:
        return None
    places = layout(paths)
    rows = max(y for _, y in places.values())
    figure = Figure(figsize=(WIDTH, ROW * rows + 1.5), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(-0.5, ROW * rows + 1.0))
    axes.axis("off")
    largest = paths[0].size
    for path in reversed(paths):
        _draw_path(axes, places, path, path.size / largest)
    taken = [(x, ROW * y) for x, y in places.values()]
    for path in paths[:NUMBERED]:
        _number(axes, _curve(places, path), path, taken)
    for node, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.28", "fc": "white", "ec": INK, "lw": 0.9}
        axes.text(x, ROW * y, node, ha="center", va="center", size=10, color=INK, bbox=box)
    _draw_legend(axes, ROW * rows + 0.7, unit)
    return figure


def layout(paths: Sequence[Path]) -> dict[str, tuple[float, int]]:
    """x in inches and row of each node, above its senders, near those that it feeds."""
    ends = [(p.sender, p.node) for p in paths]
    nodes = list(dict.fromkeys(n for pair in ends for n in reversed(pair)))
    heights = sorted({_height(n) for n in nodes})
    places = dict[str, tuple[float, int]]()
    for row, height in reversed(list(enumerate(heights))):
        here = [n for n in nodes if _height(n) == height]
        wanted = {n: _mean([places[to][0] for of, to in ends if of == n and to in places])
                  for n in here}  # fmt: skip
        here.sort(key=lambda n: (wanted[n], n))
        gap = min(GAP, (WIDTH - 1.2) / max(1, len(here) - 1))
        middle = _mean([wanted[n] for n in here])
        half = gap * (len(here) - 1) / 2
        middle = min(max(middle, half + 0.6), WIDTH - half - 0.6)
        shift = 0.35 * gap * (1 if row % 2 else -1) if len(here) == 1 and row > 0 else 0.0
        for i, node in enumerate(here):
            places[node] = (middle - half + i * gap + shift, row)
    return places


def _height(node: str) -> float:
    match = _LAYER.match(node)
    if match is None:
        return -1.0 if node == "input" else float("inf")
    return int(match[1]) + 0.5 * (node[0] == "m")


def _mean(xs: Sequence[float]) -> float:
    return sum(xs) / len(xs) if xs else WIDTH / 2


def _curve(places: dict[str, tuple[float, int]], path: Path) -> list[tuple[float, float]]:
    """Start, middle control point and end of a path; one that passes rows is bowed outwards."""
    (x0, row0), (x1, row1) = places[path.sender], places[path.node]
    third = {"q": -0.2, "k": 0.0, "v": 0.2}.get(_part(path), 0.0)
    start, end = (x0, ROW * row0 + 0.15), (x1 + third, ROW * row1 - 0.17)
    outwards = 1 if start[0] + end[0] >= WIDTH else -1
    bow = outwards * min(0.55 * (row1 - row0 - 1), MOST_BOW) + 0.5 * third
    middle = min(max((start[0] + end[0]) / 2 + bow, 0.2), WIDTH - 0.2)
    return [start, (middle, (start[1] + end[1]) / 2), end]


def _part(path: Path) -> str:
    """q, k, v, l (logits) or m."""
    return path.receiver[-2] if path.receiver.endswith(">") else path.receiver[0]


def _colour(path: Path) -> str:
    part = _part(path)
    return COLOURS[FEEDS.get(part, "logits" if part == "l" else "MLP")]


def _draw_path(
    axes: Axes, places: dict[str, tuple[float, int]], path: Path, strength: float
) -> None:
    points = _curve(places, path)
    codes = [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3]
    axes.add_patch(FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=9, fill=False,
        lw=0.7 + 3 * strength**0.7, color=_colour(path), alpha=0.45 + 0.5 * strength**0.5,
        linestyle="solid" if path.in_circuit else (0, (4, 2)),
        gid=f"{path.sender}->{path.receiver}",
    ))  # fmt: skip


def _number(
    axes: Axes, points: Sequence[tuple[float, float]], path: Path, taken: list[tuple[float, float]]
) -> None:
    """The effect beside its curve, where it covers no other if there is such a place."""
    (x0, y0), (x1, y1), (x2, y2) = points
    spots = [
        ((1 - t) ** 2 * x0 + 2 * t * (1 - t) * x1 + t**2 * x2,
         (1 - t) ** 2 * y0 + 2 * t * (1 - t) * y1 + t**2 * y2)
        for t in ALONG
    ]  # fmt: skip
    free = [s for s in spots if all(abs(s[0] - x) > 0.5 or abs(s[1] - y) > 0.17 for x, y in taken)]
    x, y = (free or spots)[0]
    taken.append((x, y))
    box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85}
    text = f"{path.effect.estimate or 0:+.2f}"
    axes.text(x, y, text, ha="center", va="center", size=8, color=_colour(path), bbox=box)


def _draw_legend(axes: Axes, y: float, unit: str) -> None:
    x = 0.3
    for word in ("query", "key", "value", "logits"):
        axes.add_line(Line2D([x, x + 0.3], [y, y], color=COLOURS[word], lw=2.4))
        axes.text(x + 0.37, y, word, size=9, va="center", color=INK)
        x += 1.15
    axes.add_line(Line2D([x, x + 0.4], [y, y], color=INK, lw=1.4, linestyle=(0, (4, 2))))
    axes.text(x + 0.48, y, "not in the circuit", size=9, va="center", color=INK)
    axes.text(x + 2.0, y, f"numbers: change of the score, {unit}", size=9, va="center", color=GREY)
