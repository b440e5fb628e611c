"""The definition: the patched forward through a mask of any real numbers, differentiable.

    x_v = biases + sum over u of  mask[u, v] cur(u) + (1 - mask[u, v]) abl(u)

1 keeps an edge, 0 cuts it, numbers between mix, and everything propagates. Where a graph has spans
each token's mask is that of its span. Gradients flow to the
mask; at the mask of all ones they are what edge attribution patching estimates (Syed et al. 2023).
Every reader of every layer is computed: the slow, plain form of which acdc/live.py (one circuit)
and acdc/incremental.py (many cuts) are the accelerations. Part by part: prompts of any number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import Data
from acdc.forward import PatchedForward, head_values
from acdc.metrics import Metric

Mask = Float[Tensor, "writers readers"] | NDArray


def masked_values(data: Data, metric: Metric, mask: Mask) -> Iterator[Float[Tensor, " batch"]]:
    """The metric of each part's prompts in turn, in its own unit and sign; see `masked_run`."""
    for forward in data:
        yield forward.bound(metric).of_logits(masked_run(forward, mask))


@dataclass
class Record:
    """What a masked run passes on its way, for whoever asks."""

    wanted: frozenset[int] = frozenset()  # readers of the plain graph whose inputs are kept
    inputs: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    patterns: list[Float[Tensor, "head batch pos pos"]] = field(default_factory=list)
    z: list[Float[Tensor, "head batch pos d_head"]] = field(default_factory=list)
    rest: list[Float[Tensor, "batch pos d_model"]] = field(default_factory=list)  # input, MLPs


def masked_run(
    forward: PatchedForward, mask: Mask, record: Record | None = None
) -> Float[Tensor, "batch vocab"]:
    """Logits at the answer position with edges kept (1), cut (0) or mixed.

    Entries where there is no edge are not read. What happens on the way goes into `record`.
    """
    graph, model = forward.graph.plain, forward.model
    weights = model.W_E.new_tensor(mask) if isinstance(mask, np.ndarray) else mask
    record = record or Record()
    run = _Run(forward, weights.to(device=model.device, dtype=model.dtype), record)
    embedded = model.embed(forward.prompts.clean)
    record.rest.append(embedded)
    run.write(embedded[None])
    sizes = [graph.n_heads, graph.n_kv_readers, graph.n_kv_readers]
    for layer, block in enumerate(model.blocks):
        mlp = graph.reader(layer, "mlp") if block.mlp else 0
        early = run.read(mlp, 1) if block.mlp and model.parallel else None
        q, k, v = run.read(graph.reader(layer, "q"), sum(sizes)).split(sizes)
        z, pattern = head_values(model, layer, q, k, v, forward.n_pos)
        record.patterns.append(pattern)
        record.z.append(z)
        heads = (z.flatten(1, 2) @ block.attn.W_O).unflatten(1, z.shape[1:3])
        run.write(heads, block.attn.b_O)
        if block.mlp is not None:
            out = model.mlp_out(layer, run.read(mlp, 1) if early is None else early)
            record.rest.append(out[0])
            run.write(out)
    return model.unembed(run.read(len(graph.readers) - 1, 1)[0, :, -1])


class _Run:
    """The writers so far of one patched run, read through the mask."""

    def __init__(self, forward: PatchedForward, mask: Tensor, record: Record) -> None:
        self.forward, self.record, self.layout = forward, record, forward.layout
        columns = torch.tensor(forward.graph.columns, device=mask.device)
        self.mask = mask[:, columns].movedim(1, 0)  # [span, writers, readers of the plain graph]
        self.cut = forward.ablated.total([])  # what a reader gets with no edge kept: 0 so far
        # cur - abl, a row a writer, tokens span by span
        self.change = self.cut.new_empty(0, self.cut[..., 0].numel(), self.cut.shape[-1])

    def write(self, outputs: Tensor, bias: Tensor | None = None) -> None:
        """Add writers [n, batch, pos, d_model], in index order, and a bias of nobody's."""
        start = len(self.change)
        ablated = self.forward.ablated.take(range(start, start + len(outputs)))
        self.change = torch.cat([self.change, self.layout.sort(outputs - ablated)])
        self.cut = self.cut + ablated.sum(0)
        if bias is not None:
            self.cut = self.cut + bias

    def read(self, first: int, count: int) -> Tensor:
        """Inputs of consecutive readers from the writers so far: [reader, batch, pos, d_model]."""
        columns = self.mask[:, : len(self.change), first : first + count]
        x = self.cut + self.layout.unsort(self.layout.mixed(columns, self.change))
        wanted = (r for r in range(first, first + count) if r in self.record.wanted)
        self.record.inputs |= {r: x[r - first].clone() for r in wanted}
        return x
