"""The end of a search: edges come back until a circuit is enough, then those that it can spare go.

A greedy search decides each edge once, while others are still there that go later. Here cut edges
are looked at again in the circuit as it is: the gradient of the mask says which would help most, to
first order; the most promising are tried, one at a time and exactly, and the best comes back. Then
kept edges are tried in two orders and go while the circuit stays enough: as many at once as can,
twice as many each time, and where that is too many, halves of them down to the edge that is needed.
What is enough is for the caller to say, best on prompts that the search did not see. Knows no tasks
or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.gradient import MASKED_PART, MaskedRun
from acdc.metrics import Metric

Mask = NDArray[np.bool_]  # [writers, readers]
Edge = tuple[int, int]  # writer, reader
Cost = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# Of cutting a kept edge, by its slope: first those go that change the error least either way, as a
# strong edge's removal is a step too long for a slope, and several together harm; then those that
# promise to lower it.
ORDERS: tuple[Cost, ...] = (np.abs, np.negative)
TRIED = 16  # of the most promising cut edges, a time that one comes back
FAILURES = 8  # kept edges in a row that cannot be spared before it is over


@dataclass(frozen=True)
class Move:
    """Edges that came back or went together, or one that turned out to be needed."""

    kind: Literal["back", "gone", "needed"]
    edges: tuple[Edge, ...]  # the most promising, or what matters least, first
    effect: float  # of all: error after less error before, on the prompts of the search
    mask: Mask  # after it


def regrow(
    data: Data, metric: Metric, mask: Mask, enough: Callable[[Mask], bool]
) -> Iterator[Move]:
    """Moves from `mask` on; the last one's mask is the circuit (none: it is as it was).

    Errors are Bound.error, means over the prompts of `data`. Edges come back until the circuit is
    enough, or until none of those tried lowers the error.
    """
    error = _errors(data, metric, [mask])[0]
    while not enough(mask):
        candidates = _cut_edges(data, metric, mask)[:TRIED]
        tried = [_with(mask, [edge], True) for edge in candidates]
        errors = _errors(data, metric, tried)
        best = int(np.argmin(errors)) if tried else 0
        if not tried or errors[best] >= error:
            return
        mask, effect, error = tried[best], errors[best] - error, errors[best]
        yield Move("back", (candidates[best],), float(effect), mask)
    for cost in ORDERS:
        for some, spared in _decided(_kept_edges(data, metric, mask, cost), mask, enough):
            if not spared:
                yield Move("needed", tuple(some), 0.0, mask)
                continue
            mask = _with(mask, some, False)
            (after,) = _errors(data, metric, [mask])
            effect, error = after - error, after
            yield Move("gone", tuple(some), float(effect), mask)


def _decided(
    edges: list[Edge], mask: Mask, enough: Callable[[Mask], bool]
) -> Iterator[tuple[list[Edge], bool]]:
    """In turn those that a circuit can spare and be enough, or one that it cannot.

    It ends at FAILURES in a row that it cannot spare. Twice as many are tried each time; too many
    are halved until the one that is needed is known.
    """
    size, halving, failures = 1, False, 0
    while edges and failures < FAILURES:
        some = edges[:size]
        less = _with(mask, some, False)
        if enough(less):
            yield some, True
            mask, edges, failures = less, edges[size:], 0
            size = max(1, size // 2) if halving else 2 * size
        elif len(some) > 1:
            size, halving = len(some) // 2, True
        else:
            yield some, False
            edges, failures, halving = edges[1:], failures + 1, False


def _errors(data: Data, metric: Metric, masks: list[Mask]) -> NDArray[np.float64]:
    return data.errors(metric, masks).mean(1) if masks else np.zeros(0)


def _with(mask: Mask, edges: Sequence[Edge], kept: bool) -> Mask:
    other = mask.copy()
    for edge in edges:
        other[edge] = kept
    return other


def _cut_edges(data: Data, metric: Metric, mask: Mask) -> list[Edge]:
    """Those that would lower the error, to first order, the most promising first."""
    slope = np.where(data.graph.legal & ~mask, slopes(data, metric, mask), 0.0)
    order = np.argsort(slope.ravel(), kind="stable")
    return [_edge(mask, i) for i in order[: int((slope < 0).sum())].tolist()]


def _kept_edges(data: Data, metric: Metric, mask: Mask, cost: Cost) -> list[Edge]:
    """All of the circuit, those of the least cost by their slope first."""
    costs, inside = cost(slopes(data, metric, mask)).ravel(), np.flatnonzero(mask)
    order = inside[np.argsort(costs[inside], kind="stable")]
    return [_edge(mask, i) for i in order.tolist()]


def _edge(mask: Mask, index: int) -> Edge:
    writer, reader = divmod(index, mask.shape[1])
    return writer, reader


def slopes(data: Data, metric: Metric, mask: Mask) -> NDArray[np.float64]:
    """[writers, readers]: d mean error / d mask at a circuit, of all edges, kept or cut."""
    total = np.zeros(mask.shape)
    for forward in (piece for part in data for piece in part.pieces(MASKED_PART)):
        run = MaskedRun(forward, forward.model.W_E.new_tensor(mask), forward.graph.legal)
        losses = forward.bound(metric).error(run.logits)
        total += run.gradient(losses).double().cpu().numpy()
    return total / len(data)
