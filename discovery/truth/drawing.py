"""The truth table as a picture: every case a dot, a method's median a bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from discovery.show.drawing import Shown
from discovery.truth.bench import Judged

INK, DOT, FAINT = "#222222", "#0072B2", "#E4E4E4"


def figure_of(found: Sequence[Judged]) -> Figure:
    """AUROC of edges, a panel for each set and ablation."""
    panels = list(dict.fromkeys((one.set, one.ablation) for one in found))
    methods = list(dict.fromkeys(one.method for one in found))
    figure = Shown(
        figsize=(1.6 + 2.6 * len(panels), 1.3 + 0.36 * len(methods)), facecolor="white",
        layout="constrained",
    )  # fmt: skip
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (name, ablation) in zip(axes, panels, strict=True):
        for y, method in enumerate(methods):
            own = [
                one.edges.auroc
                for one in found
                if (one.set, one.ablation, one.method) == (name, ablation, method)
                and one.edges is not None
            ]
            if own:
                spread = y + np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else [y]
                ax.plot(own, spread, ".", color=DOT, alpha=0.55, markersize=5, clip_on=False)
                ax.plot([np.median(own)] * 2, [y - 0.32, y + 0.32], color=INK, linewidth=2)
        ax.axvline(0.5, color=FAINT, linewidth=1, zorder=0)
        ax.set(xlim=(0, 1.02), xlabel="AUROC of edges")
        ax.set_title(f"{name}, {ablation}", loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    return figure
