"""Routes: from a state or a logit down to the embeddings, along shares above a threshold.

The paper's mechanism (arXiv 2403.00824, section 2) drops every share <= threshold and divides the
survivors of a step by their sum; without `renormalise` they stay as they are, and what was dropped
is lost. The edges kept are the same. Flow starts as 1 at the top and is split by the kept shares;
an MLP hands its flow to the state it reads. So flow into embeddings, constants and dead ends sums
to 1. The authors' tool differs: it sums heads before the threshold when it does not renormalise,
merges a token's attention to itself with the residual edge, and weighs no path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from acdc.errors import InputError
from discovery.flow.shares import FlowGraph, LogitStep, checked_position, or_one

THRESHOLD = 0.04  # the paper's: shares above it stay


class Kind(IntEnum):
    """What an edge is; the value in the column `kind` of Route.edges."""

    HEAD = 0  # from the state before attention of the source token
    RESIDUAL = 1  # around attention
    MLP = 2  # through the MLP of one token
    SKIP = 3  # around the MLP, where it has a step of its own
    CONSTANT = 4  # b_O; into the logit also the final norm's bias and b_U: nobody's
    INPUT = 5  # the embedding, straight into the logit


EDGE = np.dtype(
    [
        ("kind", "i1"), ("direct", "?"), ("layer", "i2"), ("head", "i2"),
        ("source", "i4"), ("target", "i4"), ("share", "f8"), ("flow", "f8"),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LayerFlow:
    """Flow through the kept edges of one layer, for a batch of prompts.

    Edges into the logit are apart, in `logit`; `below` and `middle` include what they bring.
    """

    layer: int
    heads: Float64[Tensor, "batch query pos head"]
    resid: Float64[Tensor, "batch pos"]
    constant: Float64[Tensor, "batch pos"]
    mlp: Float64[Tensor, "batch pos"]
    skip: Float64[Tensor, "batch pos"]
    above: Float64[Tensor, "batch pos"]  # through the states after this layer
    middle: Float64[Tensor, "batch pos"]  # through those after attention (parallel: `above`)
    below: Float64[Tensor, "batch pos"]  # through those before this layer
    logit: LogitStep | None  # the kept shares of the top step; one object for all layers

    def head_total(self) -> Float64[Tensor, "batch head"]:
        """Flow through each head, its edges into the logit included."""
        total = self.heads.sum((1, 2))
        return total if self.logit is None else total + self.logit.heads[self.layer].sum(1)

    def mlp_total(self) -> Float64[Tensor, " batch"]:
        """Flow through the MLP, its edge into the logit included."""
        total = self.mlp.sum(1)
        return total if self.logit is None else total + self.logit.mlp[self.layer]


@dataclass(frozen=True, eq=False)
class Route:
    """What one prompt's state or logit is made of, down to the embeddings; on the CPU."""

    tokens: tuple[int, ...]
    position: int  # where it starts
    from_logit: bool  # at the logit, not at the final state
    threshold: float
    renormalised: bool
    edges: Shaped[
        np.ndarray, " edge"
    ]  # dtype EDGE, a row a kept edge, from the top down; head -1: none
    states: Float64[Tensor, "level pos"]  # flow; level 2l: before layer l, 2l+1: after attention
    input: Float64[Tensor, " pos"]  # flow that reaches the embedding of each token
    constant: float  # flow that ends in constants
    dead_ends: int  # states reached whose every share is <= threshold
    undefined: int  # states reached that are shared by size (see FlowGraph)

    @property
    def lost(self) -> float:
        """Flow that was dropped: 1 - input - constant."""
        return 1 - float(self.input.sum()) - self.constant


def descend(
    graph: FlowGraph,
    *,
    position: int | None = None,
    threshold: float = 0.0,
    renormalise: bool = True,
    prompts: slice = slice(None),
) -> Iterator[LayerFlow]:
    """Flow through each layer, the top one first, for some prompts of the graph.

    Starts at the final state of `position`; if None, at the graph's logit, or at the last state if
    it has none. InputError for a position or a threshold (0 <= threshold < 1) out of range.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"flow: threshold={threshold} must be at least 0 and below 1")
    step = graph.logit if position is None else None
    at = checked_position(-1 if position is None else position, graph.n_pos)
    flow = torch.zeros_like(graph.resid[0, prompts], dtype=torch.float64)
    logit = None
    if step is None:
        flow[:, at] = 1
    else:
        every = step.shares()
        kept = _surviving([every.flat()], threshold, renormalise)[0]
        logit = _some(every.filled(kept), prompts)
    for layer in reversed(range(len(graph.resid))):
        result = _descend_layer(graph, layer, flow, logit, threshold, renormalise, prompts)
        yield result
        flow = result.below


def _some(step: LogitStep, prompts: slice) -> LogitStep:
    return LogitStep(
        step.position, step.value[prompts], step.input[prompts], step.heads[:, prompts],
        step.mlp[:, prompts], step.constant[prompts],
    )  # fmt: skip


def _surviving(parts: list[Tensor], threshold: float, renormalise: bool) -> list[Tensor]:
    """Shares > threshold of one step (its parts [*state, ...]), in float64; 0 for the others."""
    kept = [part.double() * (part > threshold) for part in parts]
    if not renormalise:
        return kept
    if len(kept) == 1:
        return [kept[0] / or_one(kept[0].sum(-1, keepdim=True))]
    totals = [k.flatten(2).sum(-1) if k.ndim > 2 else k for k in kept]
    total = or_one(torch.stack(totals).sum(0))
    return [k / (total[..., None, None] if k.ndim > 2 else total) for k in kept]


def _descend_layer(
    graph: FlowGraph,
    layer: int,
    above: Tensor,
    logit: LogitStep | None,
    threshold: float,
    renormalise: bool,
    prompts: slice,
) -> LayerFlow:
    names = ("heads", "resid", "constant", "mlp", "skip")
    shares = [getattr(graph, name)[layer, prompts] for name in names]
    if graph.parallel:
        heads, resid, constant, mlp = _surviving(shares[:4], threshold, renormalise)
        skip = torch.ones_like(resid)
    else:
        heads, resid, constant = _surviving(shares[:3], threshold, renormalise)
        mlp, skip = _surviving(shares[3:], threshold, renormalise)
    through, around = above * mlp, above * skip
    to_mlp = through.clone()
    if logit is not None:
        to_mlp[:, logit.position] += logit.mlp[layer]
    middle = around if graph.parallel else around + to_mlp
    heads = heads * middle[..., None, None]
    below = middle * resid + heads.sum((1, 3))
    if graph.parallel:
        below = below + to_mlp
    if logit is not None:
        below = below + logit.heads[layer].sum(-1)
        if layer == 0:
            below[:, logit.position] += logit.input
    return LayerFlow(
        layer, heads, middle * resid, middle * constant, through, around, above, middle, below,
        logit,
    )  # fmt: skip


# ---- one prompt's route ------------------------------------------------------------------------


def find_route(
    graph: FlowGraph,
    prompt: int = 0,
    *,
    position: int | None = None,
    threshold: float = THRESHOLD,
    renormalise: bool = True,
) -> Route:
    """The route of one prompt; where it starts and what is refused: see `descend`.

    InputError also for a prompt that the graph does not have.
    """
    if not 0 <= prompt < len(graph.tokens):
        raise InputError(f"flow: prompt {prompt} is outside 0..{len(graph.tokens) - 1}")
    walk = descend(
        graph, position=position, threshold=threshold, renormalise=renormalise,
        prompts=slice(prompt, prompt + 1),
    )  # fmt: skip
    edges, states, odd = _Rows(), [], 0
    for layer in walk:
        if not states:
            edges.add_logit(layer)
            states.append(layer.above[0])
        edges.add_layer(layer, graph)
        states += [layer.middle[0], layer.below[0]]
        odd += _undefined(graph, layer, prompt)
    table, flow = np.concatenate(edges.rows), torch.stack(states[::-1]).cpu()
    start = -1 if position is None else position
    at = edges.logit.position if edges.logit else checked_position(start, graph.n_pos)
    return Route(
        tuple(graph.tokens[prompt].tolist()), at, edges.logit is not None, threshold, renormalise,
        table, flow, flow[0],
        float(table["flow"][table["kind"] == Kind.CONSTANT].sum()), edges.dead_ends, odd,
    )  # fmt: skip


def _undefined(graph: FlowGraph, layer: LayerFlow, prompt: int) -> int:
    """Reached states of a layer that are shared by size."""
    attention, mlp = graph.undefined[:, layer.layer, prompt]
    reached = int((attention & (layer.middle[0] > 0)).sum())
    return reached + int((mlp & (layer.above[0] > 0)).sum())


class _Rows:
    """Collects the edges of one prompt's route."""

    def __init__(self) -> None:
        self.rows: list[NDArray[np.void]] = [np.zeros(0, EDGE)]
        self.dead_ends = 0
        self.logit: LogitStep | None = None

    def add_logit(self, top: LayerFlow) -> None:
        """Edges into the logit, the highest layer first; share and flow are the same there."""
        self.logit = step = top.logit
        if step is None:
            return
        self.dead_ends += int(step.flat().sum() == 0)
        at, n = step.position, step.heads.shape[0]
        self._add(Kind.CONSTANT, n, step.constant, None, target=at, source=at, direct=True)
        for layer in reversed(range(n)):
            self._add(Kind.MLP, layer, step.mlp[layer], None, target=at, source=at, direct=True)
            self._add(Kind.HEAD, layer, step.heads[layer, 0], None, target=at, direct=True)
        self._add(Kind.INPUT, 0, step.input, None, target=at, source=at, direct=True)

    def add_layer(self, flow: LayerFlow, graph: FlowGraph) -> None:
        """Edges of one layer, the MLP's step before that of attention."""
        layer, above, middle = flow.layer, flow.above[0], flow.middle[0]
        split = graph.has_mlp and not graph.parallel  # the MLP has a step of its own
        self._add(Kind.MLP, layer, flow.mlp[0], above)
        if split:
            self._add(Kind.SKIP, layer, flow.skip[0], above)
            self._count_dead(above, flow.mlp[0] + flow.skip[0])
        self._add(Kind.HEAD, layer, flow.heads[0], middle)
        self._add(Kind.RESIDUAL, layer, flow.resid[0], middle)
        self._add(Kind.CONSTANT, layer, flow.constant[0], middle)
        kept = flow.heads[0].sum((1, 2)) + flow.resid[0] + flow.constant[0]
        self._count_dead(middle, kept if split else kept + flow.mlp[0])

    def _count_dead(self, reached: Tensor, kept: Tensor) -> None:
        self.dead_ends += int(((reached > 0) & (kept == 0)).sum())

    def _add(
        self,
        kind: Kind,
        layer: int,
        flow: Tensor,
        state: Tensor | None,
        target: int = -1,
        source: int = -1,
        direct: bool = False,
    ) -> None:
        """Rows for the positive entries of flow: [target], [target, source, head], or direct."""
        where = flow.nonzero().T.cpu().numpy()
        rows = np.zeros(where.shape[1], EDGE)
        rows["kind"], rows["layer"], rows["head"], rows["direct"] = kind, layer, -1, direct
        rows["flow"] = rows["share"] = flow[flow != 0].cpu().numpy()
        if direct:
            rows["target"], rows["source"] = target, source
        else:
            rows["target"] = rows["source"] = where[0]
        if kind is Kind.HEAD:
            rows["source"], rows["head"] = where[-2], where[-1]
        if state is not None:
            rows["share"] /= state.cpu().numpy()[rows["target"]]
        self.rows.append(rows)
