"""One score an edge: what corrupting this edge alone does to the metric, estimated or exact.

Every method answers in the same unit and sign, that of a loss (KL as it is, logit difference
negated): positive = cutting the edge makes the loss worse, so the edge helps. EAP (Syed et al.
2023, arXiv 2310.10348) is the first-order estimate (a'_u - a_u) . dm/dx_v, where a_u is writer u's
clean output, a'_u what a cut edge carries and x_v reader v's input; EAP-IG (Hanna et al. 2024,
arXiv 2403.17806) averages the gradient over runs between clean and corrupted. `exact` cuts every
edge once. Where a norm follows the sum of a layer's heads, a_u of a head is its share of it
(acdc/model.py), or with `post_norm="ignored"` what it puts out before the norm, as EAP-IG's code
has it, the gradient being that behind it. Where data come with rules (acdc/backward.py), these
stand for the gradient in all but `exact`. Losses are summed over prompts and divided once by their
number, so a score does not depend on how prompts are batched. Gradients are taken one layer at a
time from the kept residual streams, so memory is that of one layer. Knows no circuits, tasks or
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acdc.ablation import Ablation
from acdc.backward import FrozenNorm
from acdc.data import POINT_ROWS, Data, Floats
from acdc.errors import InputError
from acdc.forward import PatchedForward, head_values, stream_of
from acdc.graph import Graph
from acdc.incremental import Cut, States
from acdc.metrics import Metric
from acdc.model import MLP, Model, Norm
from acdc.writers import Writers

Scores = NDArray[np.float64]  # [writers, readers], 0 where there is no edge
RunsOf = Literal["all_components", "own_writer"]
PostNorm = Literal["share", "ignored"]
BATCH_SHARE = 4  # single cuts take this part of what a batch of a search may


# ---- methods -------------------------------------------------------------------------------------


def eap(data: Data, metric: Metric, post_norm: PostNorm = "share") -> Scores:
    """Edge attribution patching: gradients at the clean run. [writers, readers], the loss's unit.

    One backward pass. InputError for KL and its like, whose gradient at the clean run is zero, and
    for `post_norm="ignored"` with an ablation that is made from all prompts.
    """
    check_eap(metric)
    return _mean_of_parts(
        data, metric, 1, lambda total, f: total.add([stream[None] for stream in f.clean.streams]),
        post_norm,
    )  # fmt: skip


def eap_ig(data: Data, metric: Metric, steps: int, post_norm: PostNorm = "share") -> Scores:
    """EAP with integrated gradients along the input. [writers, readers], the loss's unit.

    Gradients are averaged over runs whose `input` is a' + k/steps (a - a'), k = 0..steps-1: the
    corrupted end is included, the clean one is not. With many steps the scores of the edges out of
    `input` add up to loss(run from a') - loss(clean). InputError unless steps >= 1, under zero
    ablation (norms have no usable gradient at a zero input), and as `eap` for `post_norm`.
    """
    _check_steps(steps)
    return _along_the_input(data, metric, [k / steps for k in range(steps)], post_norm)


def clean_corrupted(data: Data, metric: Metric, post_norm: PostNorm = "share") -> Scores:
    """EAP with the mean of the gradients at both ends of `eap_ig`'s path; refuses as that does."""
    return _along_the_input(data, metric, [0.0, 1.0], post_norm)


def eap_ig_activations(
    data: Data, metric: Metric, steps: int, runs_of: RunsOf = "all_components"
) -> Scores:
    """EAP with gradients integrated along activations. [writers, readers], the loss's unit.

    Components are `input`, all heads of a layer together, and each MLP. In a run of component c its
    outputs are set to k/steps a + (1 - k/steps) a', k = 1..steps (clean end included, corrupted
    not), all else follows, and no gradient passes through c. `all_components` is the published
    code: every edge's gradient is averaged over the runs of all components, also those that its
    writer is not in. `own_writer` averages over the runs of the edge's own writer's component only,
    a path integral proper, at about two thirds of the cost. InputError unless steps >= 1 (with KL
    >= 2: one step is the clean run).
    """
    check_activations(metric, steps)
    components = _components(data.graph)
    points = [k / steps for k in range(1, steps + 1)]

    def add(total: _Total, forward: PatchedForward) -> None:
        for component in components:
            own = component.writers if runs_of == "own_writer" else None
            total.add_component(component, own, _blocks(forward, points))

    runs = steps * (len(components) if runs_of == "all_components" else 1)
    return _mean_of_parts(data, metric, runs, add)


@torch.inference_mode()
def exact(data: Data, metric: Metric, progress: Callable[[int, int], None] | None = None) -> Scores:
    """loss(without this one edge) - loss(clean), for every edge. [writers, readers].

    A fraction of a forward pass an edge, several edges in a batch. `progress(done, all)` is called
    after each batch, in edges. FloatingPointError if the metric becomes NaN or infinite.
    """
    graph, state = data.graph, States(data, metric)
    scores, done = np.zeros(graph.legal.shape), 0
    for cuts in _single_cuts(data, state):
        values = np.array(list(state.values(state.trial(cuts, single=True))))
        writers, readers = _edges_of(cuts)
        scores[writers, readers] = metric.sign * (values - state.value)
        done += len(cuts)
        if progress is not None:
            progress(done, graph.n_edges)
    return _finite(scores)


@torch.inference_mode()
def edge_changes(
    data: Data, metric: Metric, mask: NDArray[np.bool_], edges: NDArray[np.integer]
) -> Floats:
    """[edges, prompts]: what cutting one of `edges` [edges, 2] out of `mask` adds to the metric.

    0 for those that are not in the circuit, or lead nowhere in it. As Data.circuits of so many
    masks, several edges in a batch.
    """
    state, changes = States(data, metric, mask), dict[tuple[int, int], Floats]()
    before = data.join(state.each(), axis=1)
    for cuts in _single_cuts(data, state):
        after = data.join(state.each(state.trial(cuts, single=True)), axis=1)
        of_cuts = zip(cuts, after - before, strict=True)
        changes |= {(cut.writers[0], cut.reader): change for cut, change in of_cuts}
    asked, nothing = map(tuple, edges.tolist()), np.zeros(len(data))
    found = [changes.get(edge, nothing) for edge in asked]
    return np.array(found).reshape(len(edges), len(data))


def _single_cuts(data: Data, state: States) -> Iterator[list[Cut]]:
    """Cuts of every edge that the circuit of a state keeps and that leads on, a reader's together.

    The state enters all layers first, so that nothing is cut for good.
    """
    for layer in reversed(range(data.graph.n_layers)):
        if data.graph.has_mlp:
            state.enter(layer, "mlp")
        state.enter(layer, "attn")
    size = max(1, data.batch_bytes // BATCH_SHARE // state.bytes_per_variant())
    for reader in sorted(state.kept, reverse=True):
        cuts = [Cut(reader, (w,)) for w in state.kept[reader]]
        yield from (cuts[i : i + size] for i in range(0, len(cuts), size))


def _edges_of(cuts: Sequence[Cut]) -> tuple[list[int], list[int]]:
    return [cut.writers[0] for cut in cuts], [cut.reader for cut in cuts]


def batch_means(score: Callable[[Data], Scores], data: Data, size: int) -> Scores:
    """A score of prompts as EAP-IG's and MIB's code weighs them: means over batches of `size`.

    There a loss is the mean of its batch and batches add up, so a prompt of a short last one counts
    size / (prompts in it) times as much as another. In the unit of `score`: without a short one,
    and with fewer prompts than `size`, it is the same. InputError for an ablation that is made from
    all prompts, which would be made from each part's.
    """
    n, short = len(data), len(data) % size
    if not short or n < size:
        return score(data)
    if type(data.ablation).fit is not Ablation.fit:
        raise InputError(
            f"batch_means={size} with ablation={data.ablation.name}: what cut edges carry is made"
            " from all prompts; use resample, other or zero"
        )
    full, last = data.take(range(n - short)), data.take(range(n - short, n))
    return (score(full) * (n - short) + score(last) * size) / n


def random_scores(graph: Graph, seed: int) -> Scores:
    """Standard normal noise on every edge: what a method has to beat. [writers, readers]."""
    noise = np.random.default_rng(seed).standard_normal(graph.legal.shape)
    return np.where(graph.legal, noise, 0.0)


# ---- checks --------------------------------------------------------------------------------------


def check_eap(metric: Metric) -> None:
    """InputError for a metric of which `eap` has no gradient."""
    _refuse_flat(metric, "eap", "eap_ig or exact, or metric=logit_diff")


def check_activations(metric: Metric, steps: int) -> None:
    """InputError for a metric of which `eap_ig_activations` has no gradient, or without steps."""
    _check_steps(steps)
    if steps == 1:
        _refuse_flat(metric, "eap_ig_activations with 1 step", "2 or more steps")


def check_path(ablation: str) -> None:
    """InputError for an ablation from which no path along the input begins."""
    if ablation == "zero":
        raise InputError(
            "ablation=zero: the path along the input would start at a zero input, where the"
            " norms' gradient is 1/sqrt(eps) and swamps the rest; use resample or mean, or another"
            " method (eap, eap_ig_activations, exact)"
        )


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"steps={steps}: integrated gradients need at least 1 step")


def _refuse_flat(metric: Metric, method: str, instead: str) -> None:
    if metric.flat_at_clean:
        raise InputError(
            f"method={method} with metric={metric.name}: its gradient at the clean run is exactly"
            f" zero, so every score would be 0; use {instead}"
        )


def _finite(scores: Scores) -> Scores:
    if not np.isfinite(scores).all():
        raise FloatingPointError("an edge score is NaN or infinite: so is the metric or a gradient")
    return scores


# ---- runs: the residual streams of several points at once, [point, batch, pos, d_model] each -----


@dataclass(frozen=True)
class _Component:
    """Writers that `eap_ig_activations` moves together, and the first stream they change."""

    writers: range
    stream: int


def _components(graph: Graph) -> list[_Component]:
    out = [_Component(range(1), 0)]
    for layer in range(graph.n_layers):
        first, behind = graph.head(layer, 0), graph.head(layer, graph.n_heads)
        out.append(_Component(range(first, behind), 2 * layer + 1))
        if graph.has_mlp:
            out.append(_Component(range(behind, behind + 1), 2 * layer + 2))
    return out


def _blocks(forward: PatchedForward, points: Sequence[float]) -> Iterator[Tensor]:
    """Points of a path, as many at a time as fit in a pass, shaped to scale a stream."""
    column = forward.clean.streams.new_tensor(points)
    yield from column[:, None, None, None].split(max(1, POINT_ROWS // len(forward.prompts)))


def _along_the_input(
    data: Data, metric: Metric, points: Sequence[float], post_norm: PostNorm
) -> Scores:
    """EAP with the gradient's mean over runs whose input is a' + point (a - a')."""
    check_path(data.ablation.name)

    def add(total: _Total, forward: PatchedForward) -> None:
        clean, ablated = forward.clean.writers[0], forward.ablated[0]
        for block in _blocks(forward, points):
            total.add(_complete(forward, [ablated + block * (clean - ablated)]))

    return _mean_of_parts(data, metric, len(points), add, post_norm)


@torch.no_grad()
def _complete(forward: PatchedForward, streams: list[Tensor]) -> list[Tensor]:
    """All 2 layers + 1 streams (as in Trace) from the first few, by plain forward passes."""
    model, graph = forward.model, forward.graph
    streams = list(streams)
    while len(streams) <= 2 * graph.n_layers:
        layer, after_heads = divmod(len(streams) - 1, 2)
        x = streams[-1]
        if not after_heads:
            shared = x.flatten(0, 1)[None]
            z, _ = head_values(model, layer, shared, shared, shared, forward.n_pos)
            x = x + model.attention_out(layer, z).view_as(x)
        elif graph.has_mlp:
            x = x + model.mlp_out(layer, streams[stream_of(graph, layer, "mlp")])
        streams.append(x)
    return streams


# ---- gradients -----------------------------------------------------------------------------------


def _pull(function: Callable[..., Tensor], upstream: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients at the inputs of <function(*inputs), upstream>."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*leaves), leaves, upstream)


def _sweep(
    forward: PatchedForward, metric: Metric, streams: Sequence[Tensor], blocked: int
) -> Iterator[tuple[int, Tensor]]:
    """Gradients of the summed loss at every reader's input, from the logits down.

    Yields the first of consecutive readers and [reader, batch, pos, d_model], summed over points.
    Nothing passes through the component whose outputs enter stream number `blocked`, since they are
    set by hand.
    """
    graph, model = forward.graph.plain, forward.model
    last = streams[-1]
    (above,) = _pull(lambda x: _loss(forward, metric, x), last.new_ones(()), last)
    yield graph.reader(graph.n_layers, "logits"), above.sum(0, keepdim=True)
    for layer in reversed(range(graph.n_layers)):
        below = above
        if graph.has_mlp and blocked != 2 * layer + 2:
            x = streams[stream_of(graph, layer, "mlp")]
            gradient = _pull_mlp(model, layer, x, above)
            yield graph.reader(layer, "mlp"), gradient.sum(0, keepdim=True)
            below = above + gradient
            above = above if graph.parallel else below
        if blocked != 2 * layer + 1:
            gradients = _pull_heads(forward, layer, streams[2 * layer], above)
            yield graph.reader(layer, "q"), torch.cat([g.sum(1) for g in gradients])
            below = below + sum(g.sum(0) for g in gradients)
        above = below


def _pull_mlp(model: Model, layer: int, x: Tensor, upstream: Tensor) -> Tensor:
    """Gradient at the MLP reader's input; the last product, being linear, is not run forward."""
    mlp = model.mlp(layer)
    if isinstance(mlp, MLP) and model.blocks[layer].mlp_norm.kind == "none":
        return _pull(partial(model.neurons, layer), upstream @ mlp.W_out.T, x)[0]
    return _pull(partial(model.mlp_out, layer), upstream, x)[0]


def _pull_heads(
    forward: PatchedForward, layer: int, x: Tensor, upstream: Tensor
) -> tuple[Tensor, ...]:
    """Gradients at the inputs of all q, k and v readers: 3 x [reader, point, batch, pos, d_model].

    The norm is left to `_through_norm`: autograd would run it once a reader.
    """
    graph, model, norm = forward.graph.plain, forward.model, forward.model.blocks[layer].ln1
    block, blocks = model.blocks[layer], list(model.blocks)
    blocks[layer] = replace(block, ln1=Norm("none"))
    bare = replace(model, blocks=tuple(blocks))

    def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return head_values(bare, layer, q, k, v, forward.n_pos)[0]

    y = norm(x).flatten(0, 1)
    copies = [y.expand(n, *y.shape) for n in (graph.n_heads, *2 * [graph.n_kv_readers])]
    by_head = (upstream.flatten(0, 2) @ block.attn.W_O.mT).unflatten(1, y.shape[:2])
    gradients = _pull(heads, by_head, *copies)
    return tuple(_through_norm(norm, x, g.unflatten(1, x.shape[:2])) for g in gradients)


def _through_norm(norm: Norm, x: Tensor, gradient: Tensor) -> Tensor:
    """Gradients at x [*n, d_model] from those at norm(x), [reader, *n, d_model]; reuses these."""
    if norm.kind == "none":
        return gradient
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    scale = (x.pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
    gradient *= scale if norm.weight is None else scale * norm.weight
    if norm.kind == "layer":
        gradient -= gradient.mean(-1, keepdim=True)
    if isinstance(norm, FrozenNorm):
        return gradient
    unit = x * scale
    along = torch.stack([torch.linalg.vecdot(one, unit) for one in gradient]) / x.shape[-1]
    return gradient.addcmul_(along[..., None], unit, value=-1)


def _loss(forward: PatchedForward, metric: Metric, x: Tensor) -> Tensor:
    """Sum over points and prompts of the loss, from the last stream."""
    logits = forward.model.unembed(x[..., -1, :])
    return metric.sign * forward.bound(metric).of_logits(logits).sum()


class _Total:
    """(a'_u - a_u) . dm/dx_v summed over one part's prompts and the runs added so far."""

    def __init__(self, forward: PatchedForward, metric: Metric, post_norm: PostNorm) -> None:
        self.forward, self.metric = forward, metric
        with torch.no_grad():
            # [writer, tokens span by span, d_model]
            self.delta = forward.layout.sort(_change(forward, post_norm).dense())
        self.sums = np.zeros(forward.graph.legal.shape)

    def add(
        self, streams: Sequence[Tensor], writers: range | None = None, blocked: int = -1
    ) -> None:
        """Add the gradients of runs given by their streams, to some writers' edges (None: all)."""
        graph, layout = self.forward.graph, self.forward.layout
        first, behind = (writers.start, writers.stop) if writers else (0, len(graph.writers))
        for reader, gradient in _sweep(self.forward, self.metric, streams, blocked):
            last = min(behind, int(graph.plain.senders[reader]))
            if last <= first:
                return  # nothing from here on reads these writers
            gradient = layout.sort(gradient)
            for at, columns in zip(layout.slices, graph.columns, strict=True):
                delta = self.delta[first:last, at].flatten(1)
                product = gradient[:, at].flatten(1) @ delta.T
                own = columns[reader : reader + len(gradient)]
                self.sums[first:last, own] += product.T.double().cpu().numpy()

    def add_component(
        self, component: _Component, writers: range | None, blocks: Iterator[Tensor]
    ) -> None:
        """Add the gradients of the component's runs, between clean (1) and corrupted."""
        forward, below = self.forward, self.forward.clean.streams
        change = self.delta[component.writers.start : component.writers.stop].sum(0)
        change = forward.layout.unsort(change)
        for points in blocks:
            here = below[component.stream] + (1 - points) * change
            kept = [x.expand_as(here) for x in below[: component.stream]]
            self.add(_complete(forward, [*kept, here]), writers, component.stream)


def _change(forward: PatchedForward, post_norm: PostNorm) -> Writers:
    """What every writer puts out, corrupted minus clean."""
    if post_norm == "share" or not forward.graph.joint:
        return forward.ablated.with_(forward.clean.writers, torch.sub)
    clean, ablated = forward.before_norm()
    return ablated.with_(clean, torch.sub)


def _mean_of_parts(
    data: Data, metric: Metric, runs: int, add: Callable[[_Total, PatchedForward], None],
    post_norm: PostNorm = "share",
) -> Scores:  # fmt: skip
    """Scores summed by `add` over the parts, as the mean over `runs` and over all prompts."""
    sums = np.zeros(data.graph.legal.shape)
    for forward in data:
        total = _Total(forward, metric, post_norm)
        add(total, forward)
        sums += total.sums
    return _finite(sums / (runs * len(data)))
