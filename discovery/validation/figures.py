"""Pictures of a validation: the ladder, the matrix, the knock-outs, the edges' stability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discovery.show.drawing import save_figure
from discovery.validation.rungs import circuit_input, cut_edges

INK, GREY, LINE = "#1b4965", "#8a8a8a", "#cccccc"
MARKERS = {"sufficiency": "o", "noising": "s", "denoising": "^"}
SHOWN_EDGES = 60


def draw_all(folder: Path, validation: Mapping[str, Any]) -> dict[str, str]:
    """Writes <name>.svg and .png of each of `figures`; returns the SVG texts by name."""
    out = {}
    for name, draw in figures(validation).items():
        figure = draw(validation)
        save_figure(figure, folder, name, "png")
        text = save_figure(figure, folder, name, "svg").read_text(encoding="utf-8")
        out[name] = text[text.index("<svg") :]
    return out


def figures(validation: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, Any]], Figure]]:
    """What draws each figure that there is, by its file's name: "validation_ladder"."""
    drawn: dict[str, Callable[[Mapping[str, Any]], Figure]] = {"ladder": ladder, "matrix": matrix}
    if validation["completeness"] is not None:
        drawn["knockouts"] = knockouts
    if validation["stability"] is not None:
        drawn["stability"] = stable_edges
    return {f"validation_{name}": draw for name, draw in drawn.items()}


def ladder(validation: Mapping[str, Any]) -> Figure:
    """Share of the score that each resampling leaves, with its interval."""
    rows = [r for r in validation["scrubbing"] if r["recovered"] is not None]
    figure, axes = _axes(0.42 * len(rows) + 1.3)
    for y, row in enumerate(reversed(rows)):
        found = row["recovered"]
        axes.plot([found["low"], found["high"]], [y, y], color=INK, linewidth=2)
        axes.plot(found["value"], y, "o", color=INK)
        axes.annotate(f"{found['value']:.0%}", (found["value"], y), (0, 6),
                      textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    names = [f"{cut_edges(r['resampled'])}\n{circuit_input(r['inputs'])}" for r in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.6, len(rows) - 0.3)
    _levels(axes)
    axes.set_xlabel(f"share: 0 = {validation['zero']}, 1 = the model")
    return figure


def matrix(validation: Mapping[str, Any]) -> Figure:
    """Faithfulness by ablation, granularity, positions and direction."""
    cells = validation["faithfulness"]["cells"]
    groups = list(
        dict.fromkeys((c["granularity"], c["ablation"], c["positions"]) for c in reversed(cells))
    )
    figure, axes = _axes(0.36 * len(groups) + 1.5)
    for cell in cells:
        found = cell["ratio_of_means"]
        if found["estimate"] is None:
            continue
        at = groups.index((cell["granularity"], cell["ablation"], cell["positions"]))
        y = at + {"sufficiency": 0.15, "noising": -0.15, "denoising": 0.0}[cell["direction"]]
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [y, y], color=GREY, linewidth=1.2)
        axes.plot(found["estimate"], y, MARKERS[cell["direction"]], color=INK, markersize=5)
    axes.set_yticks(range(len(groups)), [f"{g}, {a}, at {p}" for g, a, p in groups])
    for name, marker in MARKERS.items():
        axes.plot([], [], marker, color=INK, markersize=5, label=name)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    _levels(axes)
    axes.set_xlabel(f"share (ratio of means): 0 = {validation['zero']}, 1 = the model")
    return figure


def knockouts(validation: Mapping[str, Any]) -> Figure:
    """F(C without K) against F(M without K): on the diagonal, circuit and model agree."""
    tried = validation["completeness"]["tried"]
    figure = Figure(figsize=(5.0, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    kinds = {"empty": "*", "class": "s", "random": "o", "greedy": "^", "exact": "."}
    for kind, marker in kinds.items():
        some = [t for t in tried if t["search"].split()[0] == kind]
        if some:
            x, y = [t["model"] for t in some], [t["circuit"] for t in some]
            size = 11 if kind == "empty" else 5
            axes.plot(x, y, marker, color=INK, alpha=0.65, markersize=size, label=kind)
    worst = validation["completeness"]["worst"]
    axes.plot(worst["model"], worst["circuit"], "o", mfc="none", mec="#c1121f", markersize=13,
              label="worst")  # fmt: skip
    both = [t[k] for t in tried for k in ("model", "circuit")]
    axes.axline((min(both), min(both)), slope=1, color=LINE, linewidth=1)
    unit = validation["unit"]
    axes.set(xlabel=f"F(M without K), {unit}", ylabel=f"F(C without K), {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def stable_edges(validation: Mapping[str, Any]) -> Figure:
    """How often resamples found each edge of the circuit, with exact intervals."""
    found = validation["stability"]
    order = sorted(range(len(found["edges"])), key=lambda i: found["frequency"][i])[-SHOWN_EDGES:]
    figure, axes = _axes(0.17 * len(order) + 1.2)
    for y, i in enumerate(order):
        axes.plot([found["low"][i], found["high"][i]], [y, y], color=GREY, linewidth=1)
        axes.plot(found["frequency"][i], y, "o", color=INK, markersize=3)
    axes.set_yticks(range(len(order)), [found["edges"][i] for i in order], fontsize=6)
    axes.set_ylim(-1, len(order))
    axes.axvline(0.5, color=LINE, linewidth=1)
    axes.set(xlim=(-0.02, 1.02), xlabel=f"share of {found['resamples']} resamples that keep it")
    return figure


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, height), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    return figure, axes


def _levels(axes: Axes) -> None:
    for level in (0.0, 1.0):
        axes.axvline(level, color=LINE, linewidth=1, zorder=0)
