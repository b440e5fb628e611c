"""Iterative attribution: score the edges of the present circuit, drop the least, score again.

In a round, on a minibatch of prompts, the circuit is run with its input on the way from ablated (0)
to clean (1), at points k / points, and an edge's score is

    - (cur(u) - abl(u), at point 1) . mean over points of d loss / d x_v

With one point that is minus the gradient of the mask: what the edge's removal adds to the loss, to
first order. What scores say of the whole model says little once thousands of edges are gone; these
are taken where they are used. A moving average carries them from round to round, and edges on no
path from `input` to `logits` go with those they hung on. The circuits are nested. Knows no tasks or
files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.gradient import LOSSES, Loss, MaskedRun
from acdc.metrics import Metric
from acdc.minibatches import Minibatches

Mask = NDArray[np.bool_]  # [writers, readers]
Scores = NDArray[np.float64]  # [writers, readers], 0 where there is no edge


@dataclass(frozen=True)
class How:
    """What a round is."""

    drop: float = 0.2  # share of the present edges
    batch: int = 16  # prompts
    points: int = 2
    keep: float = 0.5  # weight of the past in the moving average
    loss: Literal["share", "metric"] = "share"  # two-sided, or the metric itself: low = good
    ranking: Literal["signed", "absolute"] = "absolute"


@dataclass(frozen=True, eq=False)
class Round:
    """Where it stands after a round."""

    number: int  # of rounds so far
    mask: Mask  # the circuit
    average: Scores
    left: NDArray[np.int64]  # [writers, readers]: 1 for the first edge that was dropped; 0: none
    loss: float  # of the circuit that was scored, on its minibatch

    @property
    def n_edges(self) -> int:
        """Edges of the circuit."""
        return int(self.mask.sum())

    def order(self) -> Scores:
        """Place in the order of leaving, in (0, 1]; those still in come last, by average.

        So the n best edges are one of the nested circuits, or lie between two.
        """
        value = self.left.astype(float)
        inside = np.flatnonzero(self.mask)
        inside = inside[np.argsort(self.average.ravel()[inside], kind="stable")]
        value.flat[inside] = self.left.max() + 1.0 + np.arange(len(inside))
        return value / value.max()


def iterative(
    data: Data, metric: Metric, n_edges: int, how: How, seed: int, last: Round | None = None
) -> Iterator[Round]:
    """Rounds from the whole model, or from `last`, down to at most `n_edges` edges; at least one.

    InputError for shares out of range; FloatingPointError if a score is NaN or infinite.
    """
    if not (0 < how.drop < 1 and 0 <= how.keep < 1 and how.points >= 1):
        raise InputError(f"{how}: needs 0 < drop < 1, 0 <= keep < 1, points >= 1")
    batches, graph = Minibatches(data, how.batch, seed), data.graph
    loss_of = LOSSES[how.loss](data, metric)
    nothing = np.zeros(graph.legal.shape)
    now = last or Round(0, graph.legal.copy(), nothing, nothing.astype(np.int64), 0.0)
    while now.number == 0 or now.n_edges > n_edges:
        scores, loss = circuit_scores(batches.at(now.number), loss_of, now.mask, how.points)
        past = how.keep if now.number else 0.0
        average = past * now.average + (1 - past) * scores
        size = np.abs(average) if how.ranking == "absolute" else average
        fewer = max(n_edges, int(now.n_edges * (1 - how.drop)))
        kept = _best(size, now.mask, fewer)
        mask = Circuit(graph, kept).pruned().mask
        left = _leave(now, size, kept, mask)
        now = Round(now.number + 1, mask, np.where(mask, average, 0.0), left, loss)
        yield now


def circuit_scores(
    batch: Iterable[PatchedForward], loss_of: Loss, mask: Mask, points: int
) -> tuple[Scores, float]:
    """(scores of the circuit's edges, mean loss of the circuit).

    Losses are summed over prompts and divided once by their number.
    """
    total, loss, n = np.zeros(mask.shape), 0.0, 0
    ones = torch.ones(mask.shape)
    for forward in batch:
        change, n = None, n + forward.n_new
        for k in reversed(range(1, points + 1)):
            run = MaskedRun(forward, ones, mask, k / points)
            change = run.change if change is None else change
            losses = loss_of(forward, run.logits)
            total -= run.gradient(losses, change).double().cpu().numpy()
            loss += float(losses.detach().sum()) if k == points else 0.0
    if not np.isfinite(total).all():
        raise FloatingPointError("an edge score is NaN or infinite: so is the metric or a gradient")
    return total / (n * points), loss / n


def _best(size: Scores, mask: Mask, n_edges: int) -> Mask:
    """The n edges of a circuit of the largest size; of equal ones the first."""
    inside = np.flatnonzero(mask)
    kept = np.zeros_like(mask)
    kept.flat[inside[np.argsort(-size.ravel()[inside], kind="stable")[:n_edges]]] = True
    return kept


def _leave(now: Round, size: Scores, kept: Mask, mask: Mask) -> NDArray[np.int64]:
    """Numbers for those that leave: first what hung on others, then the least."""
    gone = np.flatnonzero(now.mask & ~mask)
    by_itself = ~kept.ravel()[gone]
    gone = gone[np.lexsort((size.ravel()[gone], by_itself))]
    left = now.left.copy()
    left.flat[gone] = now.left.max() + 1 + np.arange(len(gone))
    return left
