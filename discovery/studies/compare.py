"""Several methods on one model and task: faithfulness over circuit size, and what they share.

Curves are of the test prompts. Sizes, CPR (area under faithfulness, higher is better) and CMD (area
between it and 1, lower is better) are MIB's (Mueller et al. 2025): CPR with signed scores, CMD with
absolute ones. ACDC gives a circuit, no ranking; for its curve its kept edges come first and the
rest after, each by the effect when it was tested, which is a convention of ours and is said in the
table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm.auto import tqdm

from acdc.curve import FaithfulnessCurves, faithfulness_curves
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import Metric
from acdc.selection import Rule, top_n
from discovery.job.prepare import Job
from discovery.methods import Found, Method, Scoring, last, shown
from discovery.settings.run import Settings
from discovery.show.drawing import Shown, save_figure
from discovery.studies.needed import Needed, of_circuit, of_scores, of_searches

Told = Callable[[Needed], None]


@dataclass(frozen=True)
class Compared:
    """One method's outcome."""

    method: str
    kept: NDArray[np.bool_] | None  # the circuit that the method itself chose, if it does not rank
    scores: NDArray[np.float64]  # [writers, readers]
    curves: FaithfulnessCurves | None  # on the test prompts, if asked for
    needed: tuple[Needed, ...]  # for each target, the circuit too
    seconds: float  # to the scores; the curve is not counted


def check_questions(asked: Sequence[Settings]) -> None:
    """InputError if one of the methods can say nothing of the question; no model is loaded."""
    for one in asked:
        one.method.check_question(one.metric.load(), one.ablation.name)


def compare_on(
    job: Job, methods: Sequence[Method], rule: Rule, targets: Sequence[float],
    with_curves: bool = True, told: Told = lambda one: None,
) -> Iterator[Compared]:  # fmt: skip
    """`compare` on a job's prompts; InputError unless some are held out to tune and to test on."""
    if {"tune", "test"} - job.held_out.keys():
        raise InputError("tune, test: a comparison needs prompts of both; give the task more")
    yield from compare(
        job.data, job.metric, methods, rule, job.settings.seed, targets, job.held_out["tune"],
        job.held_out["test"], with_curves, told,
    )  # fmt: skip


def compare(
    data: Data, metric: Metric, methods: Sequence[Method], rule: Rule, seed: int,
    targets: Sequence[float], tune: Data, test: Data, with_curves: bool = True,
    told: Told = lambda one: None,
) -> Iterator[Compared]:  # fmt: skip
    """Scores and curves of each method in turn, and the edges that it needs; all else is shared.

    `told` is called with what a method needs for a target as soon as that is known.

    A method that gives no scores and has no size of its own is asked for each target anew, and its
    curve is that of the last. InputError without corrupt prompts, if the ablation needs them:
    faithfulness is measured against the empty circuit.
    """
    if data.ablation.needs_corrupt and not data.prompts.has_corrupt:
        raise InputError("task: a comparison needs corrupt prompts, and the task has none")
    for method in tqdm(methods, unit="method", dynamic_ncols=True):
        found, needed, seconds = _asked(method, data, metric, seed, targets, tune, test, told)
        curves = None
        if with_curves:
            with torch.no_grad():
                curves = faithfulness_curves(test, metric, ranking(found), rule)
        kept = None if found.ranks else found.mask
        yield Compared(method.label, kept, ranking(found), curves, tuple(needed), seconds)


def _asked(
    method: Method, data: Data, metric: Metric, seed: int, targets: Sequence[float], tune: Data,
    test: Data, told: Told,
) -> tuple[Found, list[Needed], float]:  # fmt: skip
    """What the method ends with, what it needs for each target, and its seconds without the last.

    A method of a size of its own is asked for that alone, and its circuit judged as it is.
    """
    start = time.perf_counter()
    if isinstance(method, Scoring):
        scores = method.scores(data, metric, seed)
        seconds = time.perf_counter() - start
        needed = list[Needed]()
        for one in of_scores(method, data, metric, seed, scores, targets, tune, test):
            needed.append(_timed(one, seconds, told))
        found = Found(mask=data.graph.legal, scores=scores, score=method.label, ranks=True)
        return found, needed, seconds
    if method.sized:
        found = last(shown(method.find(data, metric, seed), data.graph.n_edges, method.label))
        seconds = time.perf_counter() - start
        one = of_circuit(method, found, metric, tune, test)
        return found, [_timed(one, seconds, told)], seconds
    both = list[tuple[Found, Needed]]()
    for found, one in of_searches(method, data, metric, seed, targets, tune, test):
        both.append((found, one))
        told(one)
    return both[-1][0], [one for _, one in both], time.perf_counter() - start


def _timed(one: Needed, seconds: float, told: Told) -> Needed:
    """With the seconds of its scores, and told."""
    one = replace(one, row={**one.row, "seconds": round(seconds, 1)})
    told(one)
    return one


def ranking(found: Found) -> NDArray[np.float64]:
    """Scores that rank: a method's own, or its circuit's edges first and each part by score."""
    if found.ranks:
        return found.scores
    first = 2 * np.abs(found.scores).max() + 1
    return np.where(found.mask, found.scores + first, found.scores)


def as_json(found: Sequence[Compared], data: Data) -> dict[str, Any]:
    """compare.json: the table, the edges needed, and the curves."""
    curves = {one.method: one.curves.to_json() for one in found if one.curves is not None}
    needed = [some.row for one in found for some in one.needed]
    return {"table": facts(found, data), "needed": needed, "curves": curves}


def facts(found: Sequence[Compared], data: Data) -> list[dict[str, Any]]:
    """Rows of the table: edges and seconds, CPR and CMD, share of ACDC's edges in the top n."""
    chosen = next((c.kept for c in found if c.kept is not None), None)
    rows = []
    for one in found:
        shared = None
        if chosen is not None:
            n = int(chosen.sum())
            best = top_n(data.graph, one.scores, n).circuit.mask if n else chosen
            shared = int((best & chosen).sum()) if one.kept is None else n
        rows.append(
            {
                "method": one.method,
                "edges": None if one.kept is None else int(one.kept.sum()),
                "cpr": None if one.curves is None else round(one.curves.cpr, 3),
                "cmd": None if one.curves is None else round(one.curves.cmd, 3),
                "shared": shared,
                "seconds": round(one.seconds, 2),
            }
        )
    return rows


def draw_curves(folder: Path, found: Sequence[Compared], title: str) -> Path:
    """`figure_of` as curve.png and curve.svg; returns the first's path."""
    figure = figure_of(found, title)
    save_figure(figure, folder, "curve", "svg")
    return save_figure(figure, folder, "curve", "png")


def figure_of(found: Sequence[Compared], title: str) -> Figure:
    """Faithfulness (absolute ranking) against the share of edges, log scale."""
    figure = Shown(figsize=(7.5, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for level in (0.0, 1.0):
        axes.axhline(level, color="#bbbbbb", linewidth=0.8)
    for one in found:
        points = () if one.curves is None else one.curves.absolute.points
        x, y = [p.share for p in points], [p.faithfulness for p in points]
        axes.plot(x, y, marker="o", markersize=3.5, linewidth=1.4, label=one.method)
    axes.set(xscale="log", xlabel="share of edges asked for", ylabel="faithfulness")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
