"""Faithfulness over circuit size: how well a ranking of edges finds what the model uses.

Circuits of 0.1 to 100 % of the edges are taken from the scores and measured, and
f(C) = (m(C) - m(empty)) / (m(model) - m(empty)), with m the metric's mean over prompts (a ratio of
means), is integrated over the requested share, linear, by trapezoids from the first share on:
CPR = area under f (1 at best, but f may exceed 1), CMD = area under |1 - f| (0 at best). This is
MIB's definition (Mueller et al. 2025, arXiv 2504.13151), which takes CPR from the signed ranking
and CMD from the absolute one; `FaithfulnessCurves` holds both areas of both. Everything up to 1 %
of the edges spans 0.9 % of the axis: look at the curve on a log axis too. Knows no tasks or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.data import Data, Run
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.metrics import Metric, differ
from acdc.selection import RANKINGS, Ranking, Rule, select

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """One circuit of a curve."""

    share: float  # of all edges, as requested
    requested: int  # int(share x edges)
    n_edges: int  # after pruning
    metric: float  # in the metric's own unit and sign
    faithfulness: float  # 0 = the empty circuit, 1 = the model


@dataclass(frozen=True)
class Curve:
    """One ranking's circuits, smallest first, and the areas."""

    ranking: Ranking
    points: tuple[Point, ...]
    cpr: float  # area under f
    cmd: float  # area under |1 - f|

    @property
    def average(self) -> float:
        """The mean of f over the sizes (MIB's third number)."""
        return sum(point.faithfulness for point in self.points) / len(self.points)


@dataclass(frozen=True)
class FaithfulnessCurves:
    """Both rankings of one set of scores."""

    metric: str
    unit: str
    model: float  # metric of the full model
    empty: float  # metric with every edge cut
    rule: Rule
    signed: Curve
    absolute: Curve

    @property
    def cpr(self) -> float:
        """MIB's CPR: from the signed ranking."""
        return self.signed.cpr

    @property
    def cmd(self) -> float:
        """MIB's CMD: from the absolute ranking."""
        return self.absolute.cmd

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, tuples and dictionaries, with `cpr` and `cmd` at the top."""
        return {**asdict(self), "cpr": self.cpr, "cmd": self.cmd}


def faithfulness_curves(
    data: Data,
    metric: Metric,
    scores: NDArray[np.float64],
    rule: Rule = "top_n",
    shares: Sequence[float] = SHARES,
    cut_in: Graph | None = None,
    run: Run | None = None,
) -> FaithfulnessCurves:
    """Measure the circuits of both rankings of `scores` [writers, readers], densely.

    `shares` are of all edges, increasing, in (0, 1]. `cut_in`: a graph of the same edges in which
    circuits are pruned, where not the data's own. `run` runs one in a way of its own. InputError
    for malformed scores or shares, and where the metric does not tell the model from the empty
    circuit.
    """
    if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
        raise InputError(f"shares={list(shares)}: must increase within (0, 1]")
    graph = cut_in or data.graph
    sizes = [int(share * graph.n_edges) for share in shares]
    chosen = [select(graph, scores, n, ranking, rule) for ranking in RANKINGS for n in sizes]
    masks = [np.zeros_like(graph.legal), *(one.circuit.mask for one in chosen)]
    empty, *values = data.circuits(metric, masks, run=run).mean(1).tolist()
    model = float(data.values(metric, lambda forward: forward.clean.logits).mean())
    if not differ(model, empty):
        raise InputError(
            f"metric {metric.name} is {model} for the model and the empty circuit alike, so"
            " faithfulness is not defined; take prompts that differ, or another metric"
        )
    measured = list(zip([one.circuit for one in chosen], values, strict=True))
    signed, absolute = (
        _curve(ranking, shares, sizes, measured[i * len(shares) :], (model, empty))
        for i, ranking in enumerate(RANKINGS)
    )
    return FaithfulnessCurves(metric.name, metric.unit, model, empty, rule, signed, absolute)


def areas(shares: Sequence[float], faithfulness: Sequence[float]) -> tuple[float, float]:
    """(CPR, CMD): trapezoids under f and |1 - f| from the first share to the last."""
    x, f = np.array(shares), np.array(faithfulness)
    return _area(x, f), _area(x, np.abs(1 - f))


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def _curve(
    ranking: Ranking,
    shares: Sequence[float],
    sizes: Sequence[int],
    measured: Sequence[tuple[Circuit, float]],
    ends: tuple[float, float],
) -> Curve:
    model, empty = ends
    points = []
    for share, requested, (circuit, value) in zip(shares, sizes, measured, strict=False):
        faithfulness = (value - empty) / (model - empty)
        points.append(Point(share, requested, circuit.n_edges, value, faithfulness))
    cpr, cmd = areas(shares, [p.faithfulness for p in points])
    return Curve(ranking, tuple(points), cpr, cmd)
