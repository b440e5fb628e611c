"""Which heads and MLPs matter over a data set, and which matter more for one than for another.

Importance on one prompt is the flow through the component (discovery/flow/scores.py; Ferrando &
Voita 2024, section 4, where components are found that serve one domain). Two data sets are compared
by the difference of their means, with a bootstrap interval over prompts, and by Welch's t-test; a
component is named as different where its p-value passes Benjamini and Hochberg's rule over all
components. Flow is no effect: what is named has to be tested by intervention.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.prompts import Prompts
from discovery.flow.scores import ComponentFlow, component_flow
from discovery.job.build import task_prompts
from discovery.settings.run import ComponentsSettings
from discovery.show.drawing import COLOURS, GREY, INK, save_figure
from discovery.show.tables import markdown
from discovery.tasks.choices import Task

CONFIDENCE = 0.95  # of each interval by itself
FALSE_DISCOVERIES = 0.05  # share expected among the components that are named
RESAMPLES = 2000
LARGEST = 12  # rows in a printed table


@dataclass(frozen=True, eq=False)
class Difference:
    """First data set less the second, [writer] each, in flow."""

    writers: tuple[str, ...]
    flow: Float64[np.ndarray, " writer"]  # difference of the means
    low: Float64[np.ndarray, " writer"]  # its bootstrap interval (percentiles) at CONFIDENCE
    high: Float64[np.ndarray, " writer"]
    frequency: Float64[np.ndarray, " writer"]  # difference of the shares of prompts
    adjusted_p: Float64[np.ndarray, " writer"]  # Welch, after Benjamini and Hochberg
    named: Bool[np.ndarray, " writer"]  # adjusted_p below FALSE_DISCOVERIES


def data_set(settings: ComponentsSettings, task: Task, loaded: LoadedModel) -> Prompts:
    """The prompts of one data set; InputError without the answers that `start` needs."""
    needs = {"state": (), "answers": ("answers",), "contrast": ("answers", "wrong")}
    return task_prompts(task, loaded, settings.seed, needs[settings.start])


def other_data_set(settings: ComponentsSettings, loaded: LoadedModel) -> Prompts | None:
    """The prompts of `versus`, if there is one."""
    if settings.versus is None:
        return None
    try:
        return data_set(settings, settings.versus, loaded)
    except InputError as error:
        raise InputError(f"versus: {error}") from error


def importances(
    settings: ComponentsSettings, prompts: Prompts, loaded: LoadedModel
) -> ComponentFlow:
    """Flow through every component on every prompt, from what `start` says; a length at a time.

    Of an answer of several tokens the first is asked.
    """
    prompts = prompts.reading(0)
    groups = list(prompts.alike().values())
    parts = list[ComponentFlow]()
    for some in map(prompts.take, groups):
        parts.append(component_flow(
            loaded.model, some.clean,
            right=None if settings.start == "state" else some.answers,
            wrong=some.wrong if settings.start == "contrast" else None,
            threshold=settings.threshold,
        ))  # fmt: skip
    order = np.argsort(np.concatenate(groups))
    names = ("flow", "on_route", "constant")
    whole = {name: np.concatenate([getattr(p, name) for p in parts])[order] for name in names}
    return replace(parts[0], **whole)


def difference(first: ComponentFlow, second: ComponentFlow, seed: int) -> Difference:
    """How the first data set differs from the second.

    InputError for unlike models or thresholds, and for fewer than 2 prompts in either.
    """
    gap = first.minus(second)
    few = min(len(first.flow), len(second.flow))
    if few < 2:
        raise InputError(f"versus: an interval needs at least 2 prompts a data set, not {few}")
    found = stats.bootstrap(
        (first.flow, second.flow), _mean_difference, n_resamples=RESAMPLES, batch=100, axis=0,
        vectorized=True, confidence_level=CONFIDENCE, method="percentile",
        random_state=np.random.default_rng(seed),  # pyright: ignore[reportCallIssue]
    ).confidence_interval  # fmt: skip
    with warnings.catch_warnings():  # a flow that is the same on all prompts has no t
        warnings.simplefilter("ignore", RuntimeWarning)
        p = np.asarray(stats.ttest_ind(first.flow, second.flow, equal_var=False)[1])
    p = np.where(np.isnan(p), np.where(gap.flow == 0, 1.0, 0.0), p)
    adjusted = stats.false_discovery_control(p)
    return Difference(
        gap.writers, gap.flow, found.low, found.high, gap.frequency, adjusted,
        adjusted < FALSE_DISCOVERIES,
    )  # fmt: skip


def _mean_difference(a: NDArray[np.float64], b: NDArray[np.float64], axis: int) -> NDArray[Any]:
    return a.mean(axis) - b.mean(axis)


# ---- what is written and printed ---------------------------------------------------------------


def flow_json(flow: ComponentFlow) -> dict[str, Any]:
    """A data set: mean, spread (standard deviation) and share of routes, by component."""
    columns = zip(flow.writers, flow.mean, flow.spread, flow.frequency, strict=True)
    return {
        "n_prompts": len(flow.flow),
        "constants": float(flow.constant.mean()),
        "components": {
            name: {"mean": float(m), "spread": float(s), "on_route": float(f)}
            for name, m, s, f in columns
        },
    }


def difference_json(gap: Difference) -> dict[str, Any]:
    """The difference by component, and the names of those that differ, the largest first."""
    fields = ("flow", "low", "high", "frequency", "adjusted_p")
    order = np.argsort(-np.abs(gap.flow), kind="stable")
    return {
        "confidence": CONFIDENCE,
        "false_discoveries": FALSE_DISCOVERIES,
        "resamples": RESAMPLES,
        "named": [gap.writers[i] for i in order if gap.named[i]],
        "components": {
            name: {field: float(getattr(gap, field)[i]) for field in fields}
            for i, name in enumerate(gap.writers)
        },
    }


def flow_rows(flow: ComponentFlow) -> list[dict[str, object]]:
    """The components with the largest mean flow."""
    order = np.argsort(-flow.mean, kind="stable")
    return [
        {
            "component": flow.writers[i],
            "mean": f"{flow.mean[i]:.4f}",
            "spread": f"{flow.spread[i]:.4f}",
            "on route": f"{flow.frequency[i]:.0%}",
        }
        for i in [i for i in order if flow.writers[i] != "input"][:LARGEST]
    ]


def describe_difference(gap: Difference) -> str:
    """How many components are named, and those with the largest differences."""
    n = int(gap.named.sum())
    text = f"{n} of {len(gap.named)} components differ (false discoveries {FALSE_DISCOVERIES:.0%})"
    return f"{text}\n{markdown(_difference_rows(gap))}" if n else text


def _difference_rows(gap: Difference) -> list[dict[str, object]]:
    order = np.argsort(-np.abs(gap.flow), kind="stable")
    return [
        {
            "component": gap.writers[i],
            "difference": f"{gap.flow[i]:+.4f}",
            "interval": f"{gap.low[i]:+.4f} to {gap.high[i]:+.4f}",
            "on route": f"{gap.frequency[i]:+.0%}",
        }
        for i in [i for i in order if gap.named[i]][:LARGEST]
    ]


def draw_components(
    folder: Path, name: str, graph: Graph, values: NDArray[np.float64], *, title: str,
    marked: NDArray[np.bool_] | None = None,
) -> Path:  # fmt: skip
    """Layers x heads and a column of MLPs as a heat map: name.png and name.svg; the former's path.

    Heads and MLPs have a scale each, since MLPs carry much more. Without `marked` values are flows
    >= 0; with it, differences, and the marked components have a dot.
    """
    heads = np.array([graph.head(layer, 0) for layer in range(graph.n_layers)])
    blocks = [("heads", heads[:, None] + np.arange(graph.n_heads), COLOURS["value"])]
    if graph.has_mlp:
        mlps = np.array([[graph.mlp(layer)] for layer in range(graph.n_layers)])
        blocks.append(("MLP", mlps, COLOURS["MLP"]))
    widths = [graph.n_heads, *[1] * (len(blocks) - 1)]
    size = 2.6 + 0.5 * sum(widths) + 1.1 * len(blocks), 1.4 + 0.27 * max(graph.n_layers, 6)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    panels = figure.subplots(1, len(blocks), squeeze=False, width_ratios=widths)[0]
    for axes, (label, index, colour) in zip(panels, blocks, strict=True):
        part = None if marked is None else marked[index]
        _draw_block(figure, axes, values[index], label, colour, part)
    panels[0].set_ylabel("layer", color=GREY)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        save_figure(figure, folder, name, "svg")
        return save_figure(figure, folder, name, "png")


def _draw_block(
    figure: Figure, axes: Axes, values: NDArray[np.float64], label: str, colour: str,
    marked: NDArray[np.bool_] | None,
) -> None:  # fmt: skip
    most = float(np.abs(values).max()) or 1.0
    colours, norm = ["white", colour], PowerNorm(0.5, 0, most)  # small flows stay visible
    if marked is not None:
        colours, norm = [COLOURS["query"], "white", COLOURS["key"]], Normalize(-most, most)
    scale = LinearSegmentedColormap.from_list(label, colours)
    image = axes.imshow(values, cmap=scale, norm=norm, origin="lower", aspect="auto")
    if marked is not None:
        layers, columns = np.nonzero(marked)
        axes.plot(columns, layers, ".", color=INK, ms=4, mew=0)
    single = values.shape[1] == 1
    axes.set_xticks([0] if single else range(values.shape[1]))
    axes.set_xticklabels([label] if single else [str(i) for i in range(values.shape[1])])
    axes.set_yticks(range(0, len(values), max(1, len(values) // 15)))
    axes.set_xlabel("" if single else "head", color=GREY)
    axes.tick_params(length=0, labelsize=8, colors=GREY)
    axes.set_frame_on(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=40, fraction=0.6 / values.shape[1])
    bar.set_label(f"{'difference in ' * (marked is not None)}flow, {label}", fontsize=8, color=GREY)
    bar.ax.tick_params(labelsize=7.5, colors=GREY)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
