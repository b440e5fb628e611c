"""A circuit's edges as a table: a figure, or LaTeX. The strongest come first."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from discovery.show.drawing import COLOURS, FAINT, GREY, INK, STYLE, DrawnEdge, split_reader

LINE, MARGIN, HEADER = 0.21, 0.25, 0.85  # inches
COLUMNS = {"from": 0.25, "to": 1.35, "feeds": 2.45, "effect": 4.1}  # where they begin, inches
WIDTH, BAR = 7.2, (4.3, 6.9)
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def strongest(edges: Sequence[DrawnEdge]) -> list[DrawnEdge]:
    """By the size of their effects, largest first."""
    return sorted(edges, key=lambda e: (-abs(e.effect), e.writer, e.reader))


def table_figure(edges: Sequence[DrawnEdge], *, title: str, subtitle: str, width: str) -> Figure:
    """A line an edge: from, to, what is fed, the effect and a bar of its size."""
    rows = strongest(edges)
    height = HEADER + (len(rows) + 1) * LINE + MARGIN
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    largest = max((abs(e.effect) for e in rows), default=0.0) or 1.0
    with matplotlib.rc_context(STYLE):
        look = {"va": "center_baseline", "parse_math": False}
        axes.text(MARGIN, height - 0.26, title, size=12, color=INK, weight="bold", **look)
        axes.text(MARGIN, height - 0.5, subtitle, size=8, color=GREY, wrap=True, **look)
        y = height - HEADER
        for name, x in COLUMNS.items():
            side = "right" if name == "effect" else "left"
            label = width.strip("|") if name == "effect" else name
            axes.text(x, y, label, size=8, color=GREY, ha=side, **look)
        for edge in rows:
            y -= LINE
            node, feeds, _ = split_reader(edge.reader)
            axes.plot([MARGIN, BAR[1]], [y + LINE / 2] * 2, color=FAINT, lw=0.6, zorder=0)
            words = {
                "from": edge.writer,
                "to": node,
                "feeds": feeds,
                "effect": f"{edge.effect:.3g}",
            }
            for name, x in COLUMNS.items():
                side = "right" if name == "effect" else "left"
                axes.text(x, y, words[name], size=8, color=INK, ha=side, **look)
            size = abs(edge.effect) / largest * (BAR[1] - BAR[0])
            axes.barh(
                y, size, 0.1, BAR[0], color=COLOURS[feeds], hatch="" if edge.effect >= 0 else "///"
            )
    return figure


def latex(edges: Sequence[DrawnEdge], width: str) -> str:
    """A tabular with the rules of booktabs."""
    lines = [r"\begin{tabular}{lllr}", r"\toprule",
             rf"from & to & feeds & {_escaped(width.strip('|'))} \\", r"\midrule"]  # fmt: skip
    for edge in strongest(edges):
        node, feeds, _ = split_reader(edge.reader)
        cells = [_escaped(word) for word in (edge.writer, node, feeds)]
        lines.append(" & ".join([*cells, f"${edge.effect:.3g}$"]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)
