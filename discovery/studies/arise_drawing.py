"""How a circuit comes about, as one picture: all curves over the steps of the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discovery.show.drawing import COLOURS, GREY, save_figure
from discovery.statistics.intervals import Interval
from discovery.studies.arise import ROLES, Point

LEAST, MOST = -0.3, 1.65  # of faithfulness that is drawn; what lies beyond is at the edge
CROWDED = 0.1  # half of the checkpoints within this share of the training: a logarithmic axis


def draw(folder: Path, points: Sequence[Point], title: str) -> Path:
    """arise.png and arise.svg; the former's path."""
    figure = figure_of(points, title)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "arise"}):
        save_figure(figure, folder, "arise", "svg")
        return save_figure(figure, folder, "arise", "png")


def figure_of(points: Sequence[Point], title: str) -> Figure:
    """Task, heads, circuit, one below the other. Bands are 95 % intervals over prompts."""
    scores = [name for name in ("accuracy", "logit_diff") if name in points[-1].scores]
    panels = len(scores) + 2
    figure = Figure(figsize=(8, 0.7 + 1.9 * panels), facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    axes = list(figure.subplots(panels, 1, sharex=True))
    words = {"accuracy": "accuracy", "logit_diff": "logit difference"}
    for name, own in zip(scores, axes, strict=False):
        _curve(own, points, lambda p, n=name: p.scores[n], COLOURS["query"], words[name])
        own.set_ylabel(words[name], color=GREY)
    heads, circuit = axes[-2:]
    _heads(heads, points)
    _circuit(circuit, points)
    steps = [p.step for p in points]
    if np.median(steps) < CROWDED * max(steps):
        circuit.set_xscale("symlog", linthresh=max(1, min(s for s in steps if s > 0)))
    circuit.set_xlabel("step of the training (bands: 95 % over prompts)", color=GREY)
    for own in axes:
        own.spines[["top", "right"]].set_visible(False)
        own.tick_params(labelsize=8, colors=GREY)
        own.margins(x=0.01)
    return figure


def _heads(axes: Axes, points: Sequence[Point]) -> None:
    """The largest score of each role, and thinly those of all heads."""
    steps = [p.step for p in points]
    colours = dict(zip(ROLES, (COLOURS["key"], COLOURS["value"]), strict=True))
    for role, colour in colours.items():
        every = np.array([p.heads[role].ravel() for p in points])
        axes.plot(steps, every, color=colour, linewidth=0.4, alpha=0.35)
        axes.plot(steps, every.max(1), color=colour, marker="o", ms=3, label=f"{role}, largest")
    axes.set_ylabel("attention of heads,\nrepeated tokens", color=GREY)
    axes.set_ylim(-0.03, 1.05)
    _legend(axes)


def _circuit(axes: Axes, points: Sequence[Point]) -> None:
    for level in (0.0, 1.0):
        axes.axhline(level, color="#cccccc", linewidth=0.8)
    _curve(axes, points, lambda p: p.faithfulness, COLOURS["query"],
           "faithfulness of the final circuit")  # fmt: skip
    steps = [p.step for p in points]
    axes.plot(steps, [p.overlap for p in points], color=COLOURS["MLP"], marker="o", ms=3,
              label="overlap of the circuit found then with it (Jaccard)")  # fmt: skip
    axes.plot(steps, [p.by_chance for p in points], color=COLOURS["MLP"], linestyle=":",
              label="the same by chance")  # fmt: skip
    axes.set_ylim(LEAST, MOST)
    axes.set_ylabel("circuit", color=GREY)
    _legend(axes)


def _curve(
    axes: Axes, points: Sequence[Point], read: Callable[[Point], Interval], colour: str, label: str
) -> None:
    """Estimates and their band; a gap where one is undefined."""
    steps = [p.step for p in points]
    columns = [(i.estimate, i.low, i.high) for i in map(read, points)]
    middle, low, high = np.array(columns, dtype=float).T  # None becomes nan
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(steps, middle, color=colour, marker="o", ms=3, label=label)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="best")
