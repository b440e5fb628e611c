"""The picture: direct effects of the strongest heads before and after each knock-out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from discovery.explanation.backups.knocked import KnockOuts
from discovery.explanation.backups.search import Knocked
from discovery.explanation.section import Picture, drawn
from discovery.show.drawing import COLOURS, FAINT, GREY, INK
from discovery.statistics.intervals import mean_interval
from discovery.statistics.result import Floats

PANELS, HEADS = 4, 14  # at most
BEFORE, AFTER = COLOURS["query"], COLOURS["key"]
SMALL = 8.5  # points


def dumbbells(
    test: KnockOuts, some: Sequence[Knocked], rng: np.random.Generator, level: float
) -> Picture | None:
    """A panel a knock-out, a row a head; None where there is nothing to draw."""
    panels = list(some)[:PANELS]
    if not panels:
        return None
    heads = strongest_heads(test, panels)
    figure = Figure(figsize=(2.0 + 2.4 * max(len(panels), 2), 1.3 + 0.27 * len(heads)))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, one in zip(axes, panels, strict=True):
        _panel(ax, test, one, heads, rng, level)
    names = [test.graph.writers[h] for h in heads]
    axes[0].set_yticks(range(len(heads)), names, fontsize=SMALL)
    axes[0].set_ylim(len(heads) - 0.4, -0.6)
    marks = ((BEFORE, "o", "whole model"), (AFTER, "o", "with nodes out"), (AFTER, "x", "out"))
    figure.legend(
        handles=[Line2D([], [], color=c, marker=m, ls="", ms=5, label=n) for c, m, n in marks],
        loc="upper left", ncols=3, fontsize=SMALL, frameon=False, bbox_to_anchor=(0.02, 1.06),
    )  # fmt: skip
    figure.supxlabel("direct effect on the answer (logits)", fontsize=SMALL + 0.5)
    figure.tight_layout()
    return drawn(
        figure,
        "Direct effects of the strongest heads, in the whole model and with nodes out of it, each"
        f" with its interval over prompts ({1 - level:.0%}). A cross: the head is among those out.",
    )


def strongest_heads(test: KnockOuts, panels: Sequence[Knocked]) -> list[int]:
    """Heads with the largest direct effect in any of these runs, in the graph's order."""
    graph, runs = test.graph, [test.clean, *(test.of(k.nodes) for k in panels)]
    heads = [graph.head(layer, h) for layer in range(graph.n_layers) for h in range(graph.n_heads)]
    size = np.abs([run.direct[heads].mean(-1) for run in runs]).max(0)
    order = sorted(range(len(heads)), key=lambda i: (-size[i], i))[:HEADS]
    return sorted(heads[i] for i in order)


def _panel(
    ax: Axes, test: KnockOuts, one: Knocked, heads: Sequence[int], rng: np.random.Generator,
    level: float,
) -> None:  # fmt: skip
    clean, after = test.clean.direct, test.of(one.nodes).direct
    ax.axvline(0, color=GREY, lw=0.8)
    for y, head in enumerate(heads):
        ax.axhline(y, color=FAINT, lw=0.6, zorder=0)
        out = head in one.nodes
        ends = clean[head].mean(), after[head].mean()
        ax.plot(ends, [y, y], color=GREY, lw=1.2, alpha=0.4 if out else 1, zorder=1)
        _point(ax, clean[head], y - 0.12, BEFORE, "o", rng, level)
        _point(ax, after[head], y + 0.12, AFTER, "x" if out else "o", rng, level)
    ax.set_title(_wrapped(one), fontsize=SMALL + 0.5, color=INK, loc="left")
    ax.tick_params(labelsize=SMALL, length=2)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _point(
    ax: Axes, values: Floats, y: float, colour: str, mark: str, rng: np.random.Generator,
    level: float,
) -> None:  # fmt: skip
    i = mean_interval(values, rng, level=1 - level)
    if i.low is not None and i.high is not None:
        ax.plot([i.low, i.high], [y, y], color=colour, lw=1.6, zorder=2)
    ax.plot([values.mean()], [y], mark, color=colour, ms=4.5, zorder=3)


def _wrapped(one: Knocked) -> str:
    name = f"the class\n{one.name.replace(' and ', ', ')}" if one.is_class else one.name
    return f"without {name}"
