"""A patched run through a mask, and the gradient of a loss with respect to every edge.

    x_v = all cut + sum over u of  mask[u, v] (cur(u) - abl(u))
    d loss / d mask[u, v] = (cur(u) - abl(u)) . d loss / d x_v

The same function as acdc/masked.py, of which autograd is the slow twin in tests/. Here one buffer
holds what every writer changes and one what the loss says of it; autograd sees a piece of the model
at a time: a layer's heads, an MLP, the end. Edges off `within` are cut for good and cost nothing,
and a writer that no path within joins to the logits is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import Data
from acdc.forward import PatchedForward, stream_of
from acdc.live import plan
from acdc.metrics import KL, Bound, Metric, differ

MASKED_PART = 8  # prompts of a masked run that is differentiated, at most
SCALE_PROMPTS = 64  # that say how far the empty circuit is from the model
ROUND = 0.02  # of that scale: within it an error counts by its square, so its slope has no jump

# (runs of some prompts, logits [batch, vocab]) -> what is to be low, one number a prompt
Loss = Callable[[PatchedForward, Tensor], Tensor]


def lost_share(data: Data, metric: Metric) -> Loss:
    """What the circuit loses of the model, two-sided: 0 = the model, 1 = as far as the empty one.

    The mean of KL's and of the metric's error, each as a share of the empty circuit's; see
    acdc/share.py. Metrics that do not tell the empty circuit from the model are left out.
    """
    few, nothing = data.at_least(SCALE_PROMPTS), np.zeros_like(data.graph.legal)
    both = {m: float(few.errors(m, [nothing]).mean()) for m in dict.fromkeys((metric, KL))}
    scales = {m: scale for m, scale in both.items() if differ(scale, 0.0)}

    def loss(forward: PatchedForward, logits: Tensor) -> Tensor:
        parts = [_rounded(forward.bound(m), logits, s) / s for m, s in scales.items()]
        return torch.stack([*parts, 0.0 * logits[:, 0]]).sum(0) / max(1, len(scales))

    return loss


def _rounded(bound: Bound, logits: Tensor, scale: float) -> Tensor:
    """The error, with a round bottom where it would be a kink: not that of a divergence."""
    error, width = bound.error(logits), ROUND * scale
    return error if bound.metric.flat_at_clean else (error**2 + width**2).sqrt() - width


def signed(data: Data, metric: Metric) -> Loss:
    """The metric itself, its sign such that low is good."""
    return lambda forward, logits: metric.sign * forward.bound(metric).of_logits(logits)


LOSSES: dict[str, Callable[[Data, Metric], Loss]] = {"share": lost_share, "metric": signed}


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the model between some readers and some writers."""

    readers: list[int]  # of the plain graph, which see the same writers
    writers: list[int]
    stream: int  # of Trace.streams: where the readers are
    # [reader, batch, pos, d_model] -> current less ablated outputs [writer, batch, pos, d_model]
    run: Callable[[Tensor], Tensor]


class MaskedRun:
    """One run, and what its gradients need. `input` may be moved towards what it is ablated to."""

    def __init__(
        self, forward: PatchedForward, mask: Float[Tensor, "writers readers"],
        within: NDArray[np.bool_], point: float = 1.0,
    ) -> None:  # fmt: skip
        """Entries of the mask off `within` count as 0; `input` is a' + point (a - a')."""
        model, graph = forward.model, forward.graph
        self.forward, self.legal = forward, within & graph.legal
        self.within = graph.by_span(self.legal)  # [span, writers, readers of the plain graph]
        self.columns = torch.tensor(graph.columns, device=model.device)
        edges = torch.as_tensor(self.legal, device=model.device)
        self.mask = mask.detach().to(model.W_E) * edges
        self.by_span = self.mask[:, self.columns].movedim(1, 0)
        start = point * (model.embed(forward.prompts.clean) - forward.ablated.rest[0])
        # a row a writer, tokens span by span
        self.change = start.new_zeros(len(graph.writers), start[..., 0].numel(), start.shape[-1])
        self.change[0] = forward.layout.sort(start)
        self.done = list[tuple[Piece, Tensor, Tensor]]()  # pieces, inputs and outputs
        for piece in _pieces(forward, self.legal):
            x = self._read(piece)
            with torch.enable_grad():
                out = piece.run(x.requires_grad_())
            self.done.append((piece, x, out))
            if piece.writers:
                self.change[piece.writers] = forward.layout.sort(out.detach())

    @property
    def logits(self) -> Float[Tensor, "batch vocab"]:
        """At the answer position; gradients pass as far as the last reader."""
        return self.done[-1][2]

    def gradient(
        self, losses: Float[Tensor, " batch"], change: Tensor | None = None
    ) -> Float[Tensor, "writers readers"]:
        """d sum(losses) / d mask, 0 off `within`; `losses` are made of `logits`. Once for a run.

        `change`, shaped as this run's own, stands for it in the products alone: another point's, as
        integrated gradients want it.
        """
        moved, layout = self.change if change is None else change, self.forward.layout
        above, out = torch.zeros_like(self.change), torch.zeros_like(self.mask)
        # d sum(losses) / d x_v, over all positions at which a reader reads
        self.slopes = out.new_zeros(out.shape[1], self.forward.model.d_model)
        for piece, x, made in reversed(self.done):
            if piece.writers:
                upstream = layout.unsort(above[piece.writers])
                (slope,) = torch.autograd.grad(made, x, upstream)
            else:
                (slope,) = torch.autograd.grad(losses.sum(), x)
            slope, rows = layout.sort(slope), self._seen(piece)
            for s, at in enumerate(layout.slices):
                own, columns = slope[:, at].flatten(1), self.columns[s, piece.readers]
                self.slopes[columns] += slope[:, at].sum(1)
                found = torch.zeros_like(out[:, columns])
                found[rows] = (own @ moved[rows][:, at].flatten(1).T).T
                out[:, columns] += found
                weights = self.by_span[s][rows][:, piece.readers]
                if isinstance(rows, slice):  # in place: so large a product is slow to make room for
                    above[rows, at].view(len(weights), own.shape[1]).addmm_(weights, own)
                else:
                    above[rows, at] += (weights @ own).unflatten(1, (-1, slope.shape[-1]))
        return out * torch.as_tensor(self.legal, device=out.device)

    def cut_gradient(self) -> Float[Tensor, "writers d_model"]:
        """d sum(losses) / d what the cut edges of a writer carry, one value everywhere.

        Of the losses that `gradient` was last asked for.
        """
        legal = self.mask.new_tensor(self.forward.graph.legal)
        return (legal - self.mask) @ self.slopes

    def _read(self, piece: Piece) -> Tensor:
        rows, cut = self._seen(piece), self.forward.cuts.streams[piece.stream]
        weights, layout = self.by_span[:, rows][:, :, piece.readers], self.forward.layout
        return layout.unsort(layout.mixed(weights, self.change[rows])) + cut

    def _seen(self, piece: Piece) -> list[int] | slice:
        """Writers that any of the piece's readers reads; up to the last one, where most are read.

        What is read with weight 0 adds 0.
        """
        seen = np.flatnonzero(self.within[:, :, piece.readers].any((0, 2)))
        behind = int(seen.max(initial=-1)) + 1
        return slice(behind) if 2 * len(seen) >= behind else seen.tolist()


def _pieces(forward: PatchedForward, within: NDArray[np.bool_]) -> Iterator[Piece]:
    """The parts of the model that have a say, in the order of its layers; the logits last."""
    model, graph, ablated = forward.model, forward.graph.plain, forward.ablated
    live = plan(forward.graph, within, forward.n_pos).writers > 0
    for layer in range(graph.n_layers):
        heads = [h for h in range(graph.n_heads) if live[graph.head(layer, h)]]
        if heads:
            yield _heads(forward, layer, heads)
        if graph.has_mlp and live[graph.mlp(layer)]:
            yield Piece(
                [graph.reader(layer, "mlp")], [graph.mlp(layer)], stream_of(graph, layer, "mlp"),
                lambda x, layer=layer: model.mlp_out(layer, x) - ablated.rest[1 + layer],
            )  # fmt: skip
    end = graph.reader(graph.n_layers, "logits")
    yield Piece([end], [], 2 * graph.n_layers, lambda x: model.unembed(x[0, :, -1]))


def _heads(forward: PatchedForward, layer: int, heads: list[int]) -> Piece:
    """Some heads of a layer; those of a group may share a key or value reader."""
    model, graph, n_pos = forward.model, forward.graph.plain, forward.n_pos
    q, k, v = zip(*(graph.head_readers(layer, h) for h in heads), strict=True)
    k_groups, v_groups = (dict(zip(r, map(model.kv_head, heads), strict=True)) for r in (k, v))
    slots = [list(k_groups).index(reader) for reader in k]
    weight, ablated = model.blocks[layer].attn.W_O[heads], forward.ablated.z[layer, heads]

    def run(x: Tensor) -> Tensor:
        at_q, at_k, at_v = x.split([len(q), len(k_groups), len(v_groups)])
        queries = model.project(layer, "q", heads, at_q, n_pos)
        keys = model.project(layer, "k", list(k_groups.values()), at_k, n_pos)[slots]
        values = model.project(layer, "v", list(v_groups.values()), at_v, n_pos)[slots]
        z = model.pattern(layer, heads, queries, keys) @ values
        z = model.shared_out(layer, z) - ablated
        return (z.flatten(1, 2) @ weight).unflatten(1, z.shape[1:3])

    readers = [*q, *k_groups, *v_groups]
    return Piece(readers, [graph.head(layer, h) for h in heads], 2 * layer, run)
