"""From routes to components and to the writer -> reader edges that ACDC prunes.

A head's or an MLP's importance on one prompt is the flow through it (see discovery/flow/routes.py).
An edge u -> v gets the share of writer u in the stream that v reads, by the L1 proximity of
discovery/flow/shares.py at one position, averaged over positions with the flow of the reader as
weight, which tells the readers of one stream apart as far as flow can: see `edge_flow`. MIB and
EAP-IG weigh all positions alike: discovery/flow/uniform.py. Knows no intervention: a prior for a
search, not its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from acdc.errors import InputError
from acdc.forward import Trace, stream_of, trace
from acdc.graph import Graph, Reader
from acdc.model import Model
from acdc.spans import Layout
from discovery.flow.routes import LayerFlow, descend
from discovery.flow.shares import BLOCK, FlowGraph, Tokens, flow_graph, proximity


@dataclass(frozen=True, eq=False)
class ComponentFlow:
    """Flow through `input`, every head and every MLP on each prompt of a data set."""

    writers: tuple[str, ...]  # names, in the order of Graph.writers
    flow: Float64[np.ndarray, "prompt writer"]  # 0..1; nothing dropped
    on_route: Bool[np.ndarray, "prompt writer"]  # whether a kept edge of the route goes through it
    constant: Float64[np.ndarray, " prompt"]  # flow that ends in constants: nobody's
    threshold: float  # that of the routes

    @property
    def mean(self) -> NDArray[np.float64]:
        """[writer]: mean flow over prompts."""
        return self.flow.mean(0)

    @property
    def spread(self) -> NDArray[np.float64]:
        """[writer]: standard deviation over prompts (n - 1); 0 for one prompt."""
        return self.flow.std(0, ddof=1) if len(self.flow) > 1 else np.zeros(len(self.writers))

    @property
    def frequency(self) -> NDArray[np.float64]:
        """[writer]: share of prompts whose route goes through it."""
        return self.on_route.mean(0)

    def minus(self, other: ComponentFlow) -> ComponentDifference:
        """How the data sets differ: this one less the other. InputError for unlike models."""
        if self.writers != other.writers or self.threshold != other.threshold:
            raise InputError("flow: two data sets must share the model and the threshold")
        square = self.spread**2 / len(self.flow) + other.spread**2 / len(other.flow)
        return ComponentDifference(
            self.writers, self.mean - other.mean, np.sqrt(square), self.frequency - other.frequency
        )


@dataclass(frozen=True, eq=False)
class ComponentDifference:
    """First data set less the second, [writer] each."""

    writers: tuple[str, ...]
    flow: NDArray[np.float64]  # difference of the means
    error: NDArray[np.float64]  # its standard error (Welch)
    frequency: NDArray[np.float64]  # difference of the shares of prompts


@dataclass(frozen=True, eq=False)
class EdgeFlow:
    """One number >= 0 an edge, on a graph's legal edges; 0 elsewhere."""

    scores: Float64[np.ndarray, "writer reader"]  # mean over prompts
    constant: Float64[np.ndarray, " reader"]  # what goes to biases instead: nobody's
    undefined: int  # (stream, prompt, position)s where every proximity was 0; they count as 0


# ---- components ----------------------------------------------------------------------------------


def component_flow(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    *,
    right: Tokens | None = None,
    wrong: Tokens | None = None,
    position: int = -1,
    threshold: float = 0.04,
    batch_size: int = 8,
) -> ComponentFlow:
    """Head and MLP importances over a data set of prompts of one length.

    Routes start at the logit of `right` (against `wrong`), or at the final state of `position`
    without them. `flow` counts every edge; `on_route` those left by `threshold`, renormalised.
    InputError as in flow_graph and descend, and for batch_size < 1.
    """
    names = model.graph().writers
    flows, kept, constant = [], [], []
    for graph, at in _batches(model, tokens, right, wrong, position, batch_size):
        flow, lost = _through(graph, at, 0.0)
        flows.append(flow)
        constant.append(lost)
        kept.append(_through(graph, at, threshold)[0] > 0)
    return ComponentFlow(
        names, np.concatenate(flows), np.concatenate(kept), np.concatenate(constant), threshold
    )


def _batches(
    model: Model,
    tokens: Tensor,
    right: Tokens | None,
    wrong: Tokens | None,
    position: int,
    batch_size: int,
) -> Iterator[tuple[FlowGraph, int | None]]:
    """Flow graphs of a few prompts each, and where a walk has to start."""
    if batch_size < 1:
        raise InputError(f"flow: batch_size={batch_size} must be at least 1")
    for name, lists in (("right", right), ("wrong", wrong)):
        if lists is not None and len(lists) != len(tokens):
            raise InputError(f"flow: `{name}` holds {len(lists)} rows for {len(tokens)} prompts")
    for start in range(0, max(1, len(tokens)), batch_size):
        part = slice(start, start + batch_size)
        graph = flow_graph(
            model, tokens[part], right=None if right is None else right[part],
            wrong=None if wrong is None else wrong[part], position=position,
        )  # fmt: skip
        yield graph, position if right is None else None


def _through(
    graph: FlowGraph, position: int | None, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[prompt, writer] and what ends in constants, [prompt]."""
    columns: list[Tensor] = []
    constant = torch.zeros(len(graph.tokens), dtype=torch.float64, device=graph.tokens.device)
    below = constant
    for layer in descend(graph, position=position, threshold=threshold):
        block = [layer.head_total()]
        if graph.has_mlp:
            block.append(layer.mlp_total()[:, None])
        columns = block + columns
        constant = constant + layer.constant.sum(1)
        below = layer.below.sum(1)
        if layer.layer == 0 and layer.logit is not None:
            constant = constant + layer.logit.constant
    flow = torch.cat([below[:, None], *columns], dim=1)
    return flow.cpu().numpy(), constant.cpu().numpy()


# ---- edges ---------------------------------------------------------------------------------------


def edge_flow(
    model: Model,
    graph: Graph,
    tokens: Int[Tensor, "batch pos"],
    *,
    right: Tokens | None = None,
    wrong: Tokens | None = None,
    position: int = -1,
    batch_size: int = 8,
    layout: Layout | None = None,
) -> EdgeFlow:
    """Writer -> reader scores on the edges of `graph` (either kind of key/value readers).

    A score is the sum over positions of weight x share of the writer in the reader's input (the
    constants take part and get `constant`), mean over prompts. Weights, by reader:

    - v of a head: flow through the head's edges that leave this source token;
    - k: the same. Patterns are given here, so k is NOT told apart from v;
    - q: flow through the head's edges that arrive at this token; only that tells it from k and v;
    - MLP: flow through it at this token;
    - logits: with `right` the step to the logit itself, else the state at `position`;
    - a reader of a key/value group: the sum over its heads.

    Of a graph with spans a reader's sum is over the positions of its span, as `layout` has them.
    InputError as in component_flow.
    """
    scores, constant, undefined = np.zeros(graph.legal.shape), np.zeros(len(graph.readers)), 0
    plain, done = graph.plain, 0
    of = torch.zeros_like(tokens) if layout is None else layout.of
    for flow, at in _batches(model, tokens, right, wrong, position, batch_size):
        run = trace(model, flow.tokens)
        weight, own = _by_flow(plain, flow, at), of[done : done + len(flow.tokens)]
        done += len(flow.tokens)
        for readers in readers_by_stream(plain):
            shares, nobody, odd = _composition(model, plain, run, readers[0])
            where = [plain.reader(r.layer, r.part, r.group) for r in readers]
            for s, columns in enumerate(graph.columns):
                here = weight[where] * (own == s)
                column = torch.einsum("wbt,rbt->wr", shares, here) / len(tokens)
                scores[: len(column), columns[where]] += column.cpu().numpy()
                rest = torch.einsum("bt,rbt->r", nobody, here) / len(tokens)
                constant[columns[where]] += rest.cpu().numpy()
            undefined += odd
        if flow.logit is not None:
            _put_logit(graph, flow, scores, constant, len(tokens))
    return EdgeFlow(scores, constant, undefined)


def readers_by_stream(graph: Graph) -> list[list[Reader]]:
    """Readers grouped by what they see; the rows of one group read the same tensor."""
    groups: dict[int, list[Reader]] = {}
    for reader in graph.readers:
        groups.setdefault(stream_of(graph, reader.layer, reader.part), []).append(reader)
    return list(groups.values())


def _composition(
    model: Model, graph: Graph, run: Trace, reader: Reader
) -> tuple[Float64[Tensor, "writer batch pos"], Float64[Tensor, "batch pos"], int]:
    """Shares of the writers in a reader's input, that of the constants, and how many by size."""
    whole = run.streams[stream_of(graph, reader.layer, reader.part)]
    wide = torch.promote_types(whole.dtype, torch.float32)
    whole = whole.to(wide)
    writers = run.writers.take(range(graph.writers_before(reader.layer, reader.part)))
    bias = torch.zeros_like(whole[0, 0])
    for layer, block in enumerate(model.blocks):
        own = layer == reader.layer and reader.part == "mlp" and not graph.parallel
        if block.attn.b_O is not None and (layer < reader.layer or own):
            bias = bias + block.attn.b_O
    rows = max(1, BLOCK // whole.numel())
    near = [_near(part.to(wide), whole) for part in writers.split(rows)]
    near = torch.cat([*near, proximity(bias.expand_as(whole), whole)[None]]).double()
    undefined = near.sum(0) == 0
    if undefined.any():
        size = torch.cat([writers.abs().sum(-1), bias.abs().sum().expand_as(near[:1])]).double()
        size[0][size.sum(0) == 0] = 1  # a zero stream of zero writers is the input's
        near = torch.where(undefined, size, near)
    shares = near / near.sum(0)
    return shares[:-1], shares[-1], int(undefined.sum())


def _near(
    parts: Float[Tensor, "writer batch pos d_model"], whole: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "writer batch pos"]:
    """Proximity, with the fast sums of flow.py."""
    ones = whole.new_ones(whole.shape[-1])
    return (whole.abs() @ ones - (whole - parts).abs_() @ ones).clamp_(min=0)


def _by_flow(
    graph: Graph, flow: FlowGraph, position: int | None
) -> Float64[Tensor, "reader batch pos"]:
    """Flow through each reader's node, by the position at which it reads."""
    size = (len(graph.readers), *flow.tokens.shape)
    weight = flow.resid.new_zeros(size, dtype=torch.float64)
    for layer in descend(flow, position=position):
        arrive, leave, mlp = _reads(layer)
        for head in range(graph.n_heads):
            q, k, v = graph.head_readers(layer.layer, head)
            weight[q] += arrive[..., head]
            weight[k] += leave[..., head]
            weight[v] += leave[..., head]
        if graph.has_mlp:
            weight[graph.reader(layer.layer, "mlp")] += mlp
    if position is not None:
        weight[-1, :, position] = 1
    return weight


def _reads(layer: LayerFlow) -> tuple[Tensor, Tensor, Tensor]:
    """Flow through heads by query, by source [batch, pos, head], and through the MLP."""
    arrive, leave, mlp = layer.heads.sum(2), layer.heads.sum(1), layer.mlp.clone()
    if layer.logit is not None:
        at, direct = layer.logit.position, layer.logit.heads[layer.layer]
        arrive[:, at] += direct.sum(1)
        leave = leave + direct
        mlp[:, at] += layer.logit.mlp[layer.layer]
    return arrive, leave, mlp


def _put_logit(
    graph: Graph, flow: FlowGraph, scores: np.ndarray, constant: np.ndarray, n: int
) -> None:
    """Add these prompts' step to the logit to the column of the reader `logits`."""
    assert flow.logit is not None
    step = flow.logit.shares()
    heads = step.heads.sum((1, 2)).cpu().numpy() / n  # [layer, head]
    scores[0, -1] += float(step.input.sum()) / n
    constant[-1] += float(step.constant.sum()) / n
    for layer, row in enumerate(heads):
        first = graph.head(layer, 0)
        scores[first : first + graph.n_heads, -1] += row
        if graph.has_mlp:
            scores[graph.mlp(layer), -1] += float(step.mlp[layer].sum()) / n
