"""Circuits of models with a norm after the heads, as MIB's code cuts them (Gemma 2).

There an edge carries what a head puts out before the norm, and each reader norms for itself what it
gets of a layer, kept and cut mixed:

    x_v = biases + sum over other u of in(u, v) + sum over layers of norm(sum of heads in(u, v))

where in(u, v) is u's output in this run if the edge is kept, and what a cut edge carries if not. So
heads of a layer act together even where none is kept in full. Without such a norm this is what
acdc/masked.py says.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acdc.forward import PatchedForward, raw_heads
from acdc.graph import Graph
from acdc.model import Model
from acdc.writers import Writers


@torch.no_grad()
def run(
    forward: PatchedForward, mask: Bool[np.ndarray, "writers readers"]
) -> Float[Tensor, "batch vocab"]:
    """Logits at the answer with the edges of `mask` kept. Every reader is computed.

    InputError for an ablation that is made from all prompts.
    """
    model, graph = forward.model, forward.graph
    assert graph.has_mlp and not graph.parallel  # no family with such a norm is otherwise
    run = _Run(model, graph, torch.tensor(mask, device=model.device), forward.before_norm()[1])
    run.rest.append(model.embed(forward.prompts.clean))
    sizes = [graph.n_heads, graph.n_kv_readers, graph.n_kv_readers]
    for layer in range(graph.n_layers):
        q, k, v = run.read(graph.reader(layer, "q"), sum(sizes)).split(sizes)
        run.z.append(raw_heads(model, layer, q, k, v, forward.n_pos)[0])
        (x,) = run.read(graph.reader(layer, "mlp"), 1)
        run.rest.append(model.mlp_out(layer, x))
    return model.unembed(run.read(len(graph.readers) - 1, 1)[0, :, -1])


class _Run:
    """What has been written so far, and what cut edges carry."""

    def __init__(self, model: Model, graph: Graph, mask: Tensor, ablated: Writers) -> None:
        self.model, self.graph, self.mask, self.ablated = model, graph, mask, ablated
        self.z = list[Tensor]()  # of each layer's heads, before W_O
        self.rest = list[Tensor]()  # of `input` and the MLPs

    def read(self, first: int, count: int) -> Float[Tensor, "reader batch pos d_model"]:
        """Inputs of consecutive readers."""
        kept = self.mask[:, first : first + count, None, None, None]
        total = torch.zeros_like(self.rest[0])
        for i, (now, cut) in enumerate(zip(self.rest, self.ablated.rest, strict=False)):
            writer = self.graph.mlp(i - 1) if i else 0
            total = total + torch.where(kept[writer], now, cut)
        for layer, (now, cut) in enumerate(zip(self.z, self.ablated.z, strict=False)):
            heads = kept[self.graph.head(layer, 0) : self.graph.mlp(layer)]
            z = torch.where(heads, now[:, None], cut[:, None])
            total = total + self.model.attention_out(layer, self.model.shared_out(layer, z))
        return total.expand(count, *self.rest[0].shape)
