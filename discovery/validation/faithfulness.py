"""How much of the model a circuit gives, over the choices that move the answer.

Miller, Chughtai & Saunders (2024) show that one circuit may look faithful or not by how it is
measured; hence a matrix, and never one figure. Three directions, all as a share of what the
ablation destroys, F(M) - F(nothing kept):

    sufficiency   everything but the circuit is cut:         (F(C) - F(0)) / (F(M) - F(0))
    noising       only the circuit is cut out of the model:  (F(M) - F(M without C)) / (...)
    denoising     corrupted run, the circuit's edges carry clean outputs: (F - F(0)) / (...)

1 is the whole model in each. A ratio of means and a mean of ratios are different numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from acdc.ablation import ABLATIONS
from acdc.forward import PatchedForward
from discovery.statistics.intervals import (
    Interval,
    mean_interval,
    mean_of_ratios,
    ratio_of_means,
)
from discovery.validation.bench import Bench, Floats, Mask, Values, node_mask

Direction = Literal["sufficiency", "noising", "denoising"]
UNDER = ("resample", "mean", "zero")  # the same three for every circuit, whatever it was found by


@dataclass(frozen=True)
class Cell:
    """One way of measuring one circuit."""

    direction: Direction
    ablation: str
    granularity: Literal["edges", "nodes"]
    positions: Literal["all", "answer"]  # where edges are cut
    score: float  # mean of the run
    model: float  # mean F(M)
    empty: float  # mean F(0)
    gap: Interval  # mean |F(M) - F(run)| over prompts; of F(0) - F(run) for noising
    ratio_of_means: Interval
    mean_of_ratios: Interval
    kl: float  # mean KL(model || run), nats
    accuracy: float


def faithfulness_matrix(bench: Bench, mask: Mask, rng: np.random.Generator) -> tuple[Cell, ...]:
    """All cells: three ablations, edges and nodes, cuts at all positions and at the answer's.

    Denoising needs corrupted prompts, so it is there under resample ablation only.
    """
    cells = []
    for ablation in UNDER:
        under = bench.under(ABLATIONS[ablation])
        masks = {"edges": mask, "nodes": node_mask(bench.graph, mask)}
        for granularity, kept in masks.items():
            for direction, positions, run in _runs(kept & bench.graph.legal, bench, ablation):
                values = under.run(run)
                empty = _empty(under, positions)
                cells.append(
                    _cell(under, values, empty, direction, ablation, granularity, positions, rng)
                )
    return tuple(cells)


def _runs(
    mask: Mask, bench: Bench, ablation: str
) -> Iterator[tuple[Direction, Literal["all", "answer"], Callable[[PatchedForward], torch.Tensor]]]:
    rest = bench.graph.legal & ~mask
    yield "sufficiency", "all", lambda f: f.run(mask)
    yield "sufficiency", "answer", lambda f: f.run(mask, "answer")
    yield "noising", "all", lambda f: f.run(rest)
    if ablation == "resample":
        yield "denoising", "all", lambda f: f.swapped().run(rest)


def _empty(bench: Bench, positions: Literal["all", "answer"]) -> Values:
    if positions == "all":
        return bench.empty
    nothing = bench.graph.legal & False
    return bench.run(lambda f: f.run(nothing, "answer"))


def _cell(
    bench: Bench, run: Values, empty: Values, direction: Direction, ablation: str,
    granularity: str, positions: str, rng: np.random.Generator,
) -> Cell:  # fmt: skip
    model, whole = bench.model.score, bench.model.score - empty.score
    part = model - run.score if direction == "noising" else run.score - empty.score
    gap = empty.score - run.score if direction == "noising" else model - run.score
    return Cell(
        direction, ablation, granularity, positions,  # type: ignore[arg-type]
        *(float(v.mean()) for v in (run.score, model, empty.score)),
        gap=mean_interval(np.abs(gap), rng),
        ratio_of_means=ratio_of_means(part, whole, rng),
        mean_of_ratios=mean_of_ratios(part, whole, rng),
        kl=float(run.kl.mean()),
        accuracy=float(run.correct.mean()),
    )  # fmt: skip


def spread(cells: tuple[Cell, ...], direction: Direction) -> dict[str, float]:
    """Least, median and largest ratio of means over the cells of one direction that have one."""
    ratios: list[float] = [
        c.ratio_of_means.estimate
        for c in cells
        if c.direction == direction and c.ratio_of_means.estimate is not None
    ]
    if not ratios:
        return {}
    values: Floats = np.array(ratios)
    return {
        "least": float(values.min()),
        "median": float(np.median(values)),
        "largest": float(values.max()),
    }
