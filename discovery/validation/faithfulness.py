"""How much of the model a circuit gives, over the choices that move the answer.

Miller, Chughtai & Saunders (2024) show that one circuit may look faithful or not by how it is
measured; hence a matrix, and never one figure. Three directions, all as a share of what the run's
own ablation destroys, F(M) - F(0), where F(0) has every edge cut and carrying what the run's own
ablation says, whatever the row cuts and how:

    sufficiency   everything but the circuit is cut:         (F(C) - F(0)) / (F(M) - F(0))
    noising       only the circuit is cut out of the model:  (F(M) - F(M without C)) / (...)
    denoising     corrupted run, the circuit's edges carry clean outputs: (F - F(0)) / (...)

1 is the whole model in each. A row's `floor` is its share with no edge kept: 0 by definition in the
run's own way of cutting, anything in another. A ratio of means and a mean of ratios are different
numbers, and errors that cancel show in neither, so two-sided measures stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from acdc.ablation import ABLATIONS, RESAMPLE, Ablation, Resample
from acdc.forward import PatchedForward
from acdc.metrics import differ
from discovery.statistics.intervals import (
    Interval,
    mean_interval,
    mean_of_ratios,
    ratio_of_means,
)
from discovery.validation.bench import Bench, Floats, Mask, Values, node_mask, two_sided

Direction = Literal["sufficiency", "noising", "denoising"]
Positions = Literal["all", "answer"]


@dataclass(frozen=True)
class Cell:
    """One way of measuring one circuit."""

    direction: Direction
    ablation: str
    granularity: Literal["edges", "nodes"]
    positions: Positions  # where edges are cut
    n: int  # prompts
    score: float  # mean of the run
    model: float  # mean F(M)
    empty: float  # mean F(0), of the run's own ablation
    gap: Interval  # mean |F(M) - F(run)| over prompts; of F(0) - F(run) for noising
    ratio_of_means: Interval
    mean_of_ratios: Interval
    floor: float | None  # the ratio with no edge kept; None: F(M) and F(0) do not differ
    kl: float  # mean KL(model || run), nats
    accuracy: float
    # 1 = the model (noising: as far from it as with every edge cut); see bench.TwoSided
    kl_share: float | None
    error_share: float | None
    correlation: float | None


def other_ablations(bench: Bench) -> list[Ablation]:
    """Resample, mean and zero, as far as they are not what the run itself asked."""
    own, has_corrupt = type(bench.data.ablation), bench.data.prompts.has_corrupt
    usable = (a for a in ABLATIONS.values() if has_corrupt or not a.needs_corrupt)
    paired = [RESAMPLE] if bench.paired is not None else []
    return [*paired, *(a for a in usable if type(a) is not own)]


def faithfulness_cells(
    bench: Bench, mask: Mask, ablations: Sequence[Ablation], rng: np.random.Generator
) -> tuple[Cell, ...]:
    """Edges and nodes, cuts at all positions and at the answer's, under each of the ablations.

    The zero is the bench's own. Denoising puts clean values into corrupted prompts' runs, so it is
    there only where cut edges carry what those prompts gave.
    """
    cells = []
    for ablation in ablations:
        under = bench if ablation is bench.data.ablation else bench.under(ablation)
        nothing = {at: _cut_all(under, at) for at in ("all", "answer")}
        for granularity, kept in (("edges", mask), ("nodes", node_mask(bench.graph, mask))):
            for direction, positions, run in _runs(kept & bench.graph.legal, under):
                values, floor = under.run(run), nothing[positions]
                at = (direction, ablation.name, granularity, positions)
                cells.append(_cell(bench, values, floor, at, rng))
    return tuple(cells)


def _runs(
    mask: Mask, bench: Bench
) -> Iterator[tuple[Direction, Positions, Callable[[PatchedForward], torch.Tensor]]]:
    rest = bench.graph.legal & ~mask
    yield "sufficiency", "all", lambda f: f.run(mask)
    yield "sufficiency", "answer", lambda f: f.run(mask, "answer")
    yield "noising", "all", lambda f: f.run(rest)
    if isinstance(bench.data.ablation, Resample):
        yield "denoising", "all", lambda f: f.swapped().run(rest)


def _cut_all(bench: Bench, positions: str) -> Values:
    nothing = bench.graph.legal & False
    if positions == "answer":
        return bench.run(lambda f: f.run(nothing, "answer"))
    return bench.empty


def _cell(
    bench: Bench, run: Values, nothing: Values, at: tuple[str, str, str, str],
    rng: np.random.Generator,
) -> Cell:  # fmt: skip
    """`nothing` has no edge kept, cut in the row's way; the bench's `empty` is the zero."""
    model, empty, noising = bench.model.score, bench.empty.score, at[0] == "noising"
    whole = model - empty
    part = model - run.score if noising else run.score - empty
    least = 0.0 if noising else float((nothing.score - empty).mean())
    alike = two_sided(run, bench.model, bench.empty)
    gap = empty - run.score if noising else model - run.score
    return Cell(
        *at, bench.n,  # type: ignore[arg-type]
        *(float(v.mean()) for v in (run.score, model, empty)),
        gap=mean_interval(np.abs(gap), rng),
        ratio_of_means=ratio_of_means(part, whole, rng),
        mean_of_ratios=mean_of_ratios(part, whole, rng),
        floor=least / float(whole.mean()) if differ(float(whole.mean()), 0.0) else None,
        kl=float(run.kl.mean()),
        accuracy=alike.accuracy,
        kl_share=_turned(alike.kl_share, noising),
        error_share=_turned(alike.error_share, noising),
        correlation=alike.correlation,
    )  # fmt: skip


def _turned(share: float | None, noising: bool) -> float | None:
    return 1 - share if noising and share is not None else share


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
