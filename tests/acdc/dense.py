"""The dense patched forward: every reader of every layer, through a mask of any numbers.

The plain form of acdc/live.py's run and its slow twin; a mask between 0 and 1 mixes, so a small mix
gives the derivative that edge attribution patching estimates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from acdc.forward import PatchedForward, head_outputs


def dense_run(
    forward: PatchedForward, mask: Tensor | np.ndarray, patterns: list[Tensor] | None = None
) -> Tensor:
    """Logits [batch, vocab] at the answer position with edges kept (1), cut (0) or mixed.

    Each layer's attention [head, batch, pos, pos] is appended to `patterns`, if given.
    """
    graph, model = forward.graph, forward.model
    weights = torch.as_tensor(mask.copy() if isinstance(mask, np.ndarray) else mask)
    run = _Run(forward, weights.to(device=model.device, dtype=model.dtype))
    run.write(model.embed(forward.prompts.clean)[None])
    sizes = [graph.n_heads, graph.n_kv_readers, graph.n_kv_readers]
    for layer, block in enumerate(model.blocks):
        mlp = graph.reader(layer, "mlp") if block.mlp else 0
        early = run.read(mlp, 1) if block.mlp and model.parallel else None
        q, k, v = run.read(graph.reader(layer, "q"), sum(sizes)).split(sizes)
        heads, pattern = head_outputs(model, layer, q, k, v, forward.n_pos)
        if patterns is not None:
            patterns.append(pattern)
        run.write(heads, block.attn.b_O)
        if block.mlp is not None:
            run.write(model.mlp_out(layer, run.read(mlp, 1) if early is None else early))
    return model.unembed(run.read(len(graph.readers) - 1, 1)[0, :, -1])


class _Run:
    """The writers so far of one patched run, read through the mask."""

    def __init__(self, forward: PatchedForward, mask: Tensor) -> None:
        self.forward, self.mask = forward, mask
        self.cut = torch.zeros_like(forward.ablated[0])  # what a reader gets with no edge kept
        self.change = self.cut.new_empty(0, self.cut.numel())  # cur - abl, a row a writer

    def write(self, outputs: Tensor, bias: Tensor | None = None) -> None:
        """Add writers [n, batch, pos, d_model], in index order, and a bias of nobody's."""
        start = len(self.change)
        ablated = self.forward.ablated[start : start + len(outputs)]
        self.change = torch.cat([self.change, (outputs - ablated).flatten(1)])
        self.cut = self.cut + ablated.sum(0)
        if bias is not None:
            self.cut = self.cut + bias

    def read(self, first: int, count: int) -> Tensor:
        """Inputs of consecutive readers from the writers so far: [reader, batch, pos, d_model]."""
        columns = self.mask[: len(self.change), first : first + count]
        return self.cut + (columns.T @ self.change).view(count, *self.cut.shape)
