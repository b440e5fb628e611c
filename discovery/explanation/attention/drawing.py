"""Pairs of writers as small heat maps, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from discovery.show.drawing import COLOURS, INK

COLUMNS, CELL, ROOM = 2, 0.52, 1.15  # maps a row; inches a cell; inches for names
SCALE = LinearSegmentedColormap.from_list(
    "score", [COLOURS["key"], "#FFFFFF", COLOURS["query"]]
)  # orange lowers, blue raises: told apart without red-green vision


@dataclass(frozen=True)
class Heat:
    """One head's largest pairs."""

    title: str
    rows: Sequence[str]  # written at the query
    columns: Sequence[str]  # written at the key
    scores: NDArray[np.float64]  # [rows, columns]


def draw_heats(heats: Sequence[Heat]) -> Figure:
    """All on scales of their own, since heads differ much."""
    lines = -(-len(heats) // COLUMNS)
    cells = max(len(h.rows) for h in heats)
    side = cells * CELL
    width, height = ROOM + side + 0.25, side + ROOM
    figure = Figure(figsize=(COLUMNS * width, lines * height), facecolor="white")
    for i, heat in enumerate(heats):
        line, column = divmod(i, COLUMNS)
        left, bottom = column * width + ROOM, (lines - 1 - line) * height + 0.75
        box = (
            left / (COLUMNS * width), bottom / (lines * height),
            len(heat.columns) * CELL / (COLUMNS * width), len(heat.rows) * CELL / (lines * height),
        )  # fmt: skip
        _draw(figure.add_axes(box), heat)
    return figure


def _draw(axes: Axes, heat: Heat) -> None:
    most = float(np.abs(heat.scores).max()) or 1.0
    axes.imshow(heat.scores, cmap=SCALE, vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(heat.columns)), heat.columns, rotation=40, ha="right", size=8)
    axes.set_yticks(range(len(heat.rows)), heat.rows, size=8)
    axes.tick_params(length=0)
    axes.set_title(heat.title, size=9, color=INK, loc="left")
    axes.set_xlabel("at the key", size=8)
    axes.set_ylabel("at the query", size=8)
    for (i, j), score in np.ndenumerate(heat.scores):
        if abs(score) >= 0.02 * most:
            axes.text(j, i, f"{score:+.1f}" if most >= 1 else f"{score:+.2f}", size=7, ha="center",
                      va="center", color="white" if score > 0.6 * most else INK)  # fmt: skip
