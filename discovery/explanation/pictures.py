"""The drawings that parts share: bars of means, the lens's curve, a heat map of places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from discovery.explanation.section import Picture, drawn
from discovery.show.drawing import COLOURS, GREY, INK
from discovery.statistics.intervals import Interval
from discovery.statistics.result import Floats

KINDS = {"head": COLOURS["query"], "MLP": COLOURS["MLP"], "other": GREY}
LINE, DASHED = COLOURS["query"], COLOURS["key"]


def bars(means: Mapping[str, object], caption: str) -> Picture:
    """Direct effects by node or neuron, from the top down; each an Interval, in logits."""
    names, found = list(means), list(means.values())
    kinds = [_kind(name) for name in names]
    figure = Figure(figsize=(8, 0.8 + 0.22 * len(names)))
    axes = figure.add_subplot()
    axes.barh(names, [value(mean) for mean in found], color=[KINDS[kind] for kind in kinds],
              xerr=_whiskers(found), error_kw={"ecolor": INK, "elinewidth": 1})  # fmt: skip
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("direct effect on the answer, logits (right less wrong)")
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    shown = [kind for kind in KINDS if kind in kinds]
    if len(shown) > 1:
        for kind in shown:
            axes.barh(names[:1], [0], color=KINDS[kind], label=kind)
        axes.legend(frameon=False, fontsize=8)
    return drawn(figure, caption)


def lens_curve(means: Sequence[object], probability: Sequence[float]) -> Picture:
    """The lens after the embedding and each layer: intervals in logits, and probabilities."""
    figure = Figure(figsize=(8, 3))
    axes = figure.add_subplot()
    at = np.arange(len(means)) - 1
    low, high = (np.array([getattr(m, end) for m in means], float) for end in ("low", "high"))
    axes.fill_between(at, low, high, color=LINE, alpha=0.25, linewidth=0)
    axes.plot(at, [value(m) for m in means], color=LINE, marker="o", markersize=3)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("after layer (-1: the embedding)")
    axes.set_ylabel("logits, right less wrong")
    twin = axes.twinx()
    twin.plot(at, probability, color=DASHED, linestyle="--")
    twin.set_ylabel("probability of the answer (dashed)")
    twin.set_ylim(0, 1)
    axes.spines["top"].set_visible(False)
    twin.spines["top"].set_visible(False)
    return drawn(figure, "logit lens at the answer: mean over prompts, and its interval")


def heat(
    values: Floats, dots: np.ndarray, down: Sequence[str], across: Sequence[str], above: int,
    label: str, caption: str,
) -> Picture:  # fmt: skip
    """[down, across] from 0 (white) to 1, a dot where `dots`, a line below the first `above`."""
    figure = Figure(figsize=(2.2 + 0.9 * len(across), 0.9 + 0.2 * len(down)))
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    rows, columns = np.nonzero(dots)
    axes.scatter(columns, rows, s=14, color=DASHED, edgecolor=INK, linewidth=0.5)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down, fontsize=8)
    axes.axhline(above - 0.5, color=INK, linewidth=1)
    figure.colorbar(image, ax=axes, label=label)
    return drawn(figure, caption)


def value(found: object) -> float:
    """An interval's estimate for a picture; 0 where there is none."""
    estimate = found.estimate if isinstance(found, Interval) else None
    return 0.0 if estimate is None else estimate


def _whiskers(means: Sequence[object]) -> Floats:
    """[2, bars]: how far intervals reach below and above."""
    reach = [
        (max(0.0, value(m) - (m.low or 0.0)), max(0.0, (m.high or 0.0) - value(m)))
        if isinstance(m, Interval)
        else (0.0, 0.0)
        for m in means
    ]
    return np.array(reach).T


def _kind(node: str) -> str:
    return "head" if node.startswith("a") else "MLP" if node[0] == "m" else "other"
