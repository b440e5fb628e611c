"""The patched forward pass: a function of prompts, mask and ablation. No hooks, no state.

A circuit's value (Conmy et al. 2023, section 3; the same in EAP-IG and TransformerLens): run the
clean prompts, and let every reader v receive

    x_v = biases + sum over kept u->v of cur(u) + sum over cut u->v of abl(u)

where cur(u) is what writer u puts out in this very run (patches propagate), and abl(u) its value
in the corrupted run (`resample`), its mean over the corrupted prompts at each position (`mean`),
or 0 (`zero`). All edges kept is the model; none kept under `resample` is the corrupted run. A mask
between 0 and 1 mixes, so the gradient on the mask is an edge's attribution. This is the plain
form; acdc/incremental.py is the fast one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from acdc.errors import InputError
from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts

Ablation = Literal["resample", "zero", "mean"]
Mask = Shaped[Tensor, "writer reader"] | Shaped[np.ndarray, "writer reader"]
ABLATIONS = ("resample", "zero", "mean")


@dataclass(frozen=True)
class Trace:
    """A plain run: what every writer put out and what every reader saw."""

    writers: Float[Tensor, "writer batch pos d_model"]
    streams: Float[Tensor, "stream batch pos d_model"]  # see `stream_of`
    logits: Float[Tensor, "batch vocab"]  # at the last position
    patterns: tuple[Float[Tensor, "batch head pos pos"], ...]  # attention, one a layer


def stream_of(graph: Graph, layer: int, part: str) -> int:
    """Index into Trace.streams of what a reader of this layer and part sees."""
    if part == "logits":
        return 2 * graph.n_layers
    return 2 * layer + (part == "mlp" and not graph.parallel)


def trace(model: Model, tokens: Int[Tensor, "batch pos"]) -> Trace:
    """Run the model and keep every writer's output (heads without b_O) and every reader's input."""
    n = tokens.shape[1]
    x = model.embed(tokens)
    writers, streams, patterns = [x], [], []
    for layer, block in enumerate(model.blocks):
        streams.append(x)
        heads, pattern = head_outputs(model, layer, x[None], x[None], x[None], n)
        patterns.append(pattern.transpose(0, 1))
        writers += list(heads)
        mid = x + heads.sum(0)
        if block.attn.b_O is not None:
            mid = mid + block.attn.b_O
        streams.append(mid)
        if block.mlp is not None:
            writers.append(model.mlp_out(layer, x if model.parallel else mid))
            mid = mid + writers[-1]
        x = mid
    streams.append(x)
    return Trace(
        torch.stack(writers), torch.stack(streams), model.unembed(x[:, -1]), tuple(patterns)
    )


def head_outputs(
    model: Model, layer: int, x_q: Tensor, x_k: Tensor, x_v: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """Outputs [head, batch, pos, d_model] and patterns from inputs [reader, batch, pos, d_model].

    x_k and x_v have one slot a query head, or one a key/value group; x[None] is one input for all.
    """
    every = list(range(model.n_heads))
    slots = [model.kv_head(h) for h in every] if len(x_k) == model.n_heads else None
    kv = slots or list(range(model.n_kv_heads))
    q = model.project(layer, "q", every, x_q, n)
    k = model.project(layer, "k", kv, x_k, n)
    v = model.project(layer, "v", kv, x_v, n)
    if slots is None:
        share = torch.tensor([model.kv_head(h) for h in every], device=k.device)
        k, v = k.index_select(0, share), v.index_select(0, share)
    pattern = model.pattern(layer, q, k)
    z = pattern @ v
    out = z.flatten(1, 2) @ model.blocks[layer].attn.W_O
    return out.unflatten(1, z.shape[1:3]), pattern


class PatchedForward:
    """Clean and corrupted runs of one batch of prompts, and circuits evaluated between them."""

    def __init__(
        self, model: Model, graph: Graph, prompts: Prompts, ablation: Ablation = "resample"
    ) -> None:
        """Runs the model twice. InputError for an unknown ablation or tokens it cannot take."""
        if ablation not in ABLATIONS:
            raise InputError(f"method.ablation={ablation!r}: allowed are {', '.join(ABLATIONS)}")
        prompts.check_vocabulary(model.d_vocab)
        if prompts.clean.shape[1] > model.n_ctx:
            raise InputError(
                f"prompts have {prompts.clean.shape[1]} tokens; the model takes {model.n_ctx}"
            )
        self.model, self.graph, self.ablation = model, graph, ablation
        self.prompts = prompts.to(model.device)
        self.n_pos = prompts.clean.shape[1]
        self.clean = trace(model, self.prompts.clean)
        self.corrupt = trace(model, self.prompts.corrupt)
        self.ablated = ablated_writers(self.corrupt.writers, ablation)

    def run(self, mask: Mask) -> Float[Tensor, "batch vocab"]:
        """Logits at the answer position with the edges of `mask` kept (1), cut (0) or mixed."""
        mask = torch.as_tensor(mask.copy() if isinstance(mask, np.ndarray) else mask)
        mask = mask.to(device=self.model.device, dtype=self.model.dtype)
        run = _Run(self, mask)
        run.write(self.model.embed(self.prompts.clean)[None])
        for layer, block in enumerate(self.model.blocks):
            mlp = self.graph.reader(layer, "mlp") if block.mlp else 0
            early = run.read(mlp, 1) if block.mlp and self.model.parallel else None
            q, k, v = self._attention_inputs(run, layer)
            heads, _ = head_outputs(self.model, layer, q, k, v, self.n_pos)
            run.write(heads, block.attn.b_O)
            if block.mlp is not None:
                run.write(self.model.mlp_out(layer, run.read(mlp, 1) if early is None else early))
        return self.model.unembed(run.read(len(self.graph.readers) - 1, 1)[0, :, -1])

    def _attention_inputs(self, run: _Run, layer: int) -> tuple[Tensor, ...]:
        """Inputs of a layer's q, k and v readers, each [reader, batch, pos, d_model]."""
        sizes = [self.graph.n_heads, self.graph.n_kv_readers, self.graph.n_kv_readers]
        return run.read(self.graph.reader(layer, "q"), sum(sizes)).split(sizes)


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


def ablated_writers(
    corrupt: Float[Tensor, "writer batch pos d_model"], ablation: Ablation
) -> Float[Tensor, "writer batch pos d_model"]:
    """What a cut edge carries: corrupted outputs, their mean over the batch, or zeros."""
    if ablation == "resample":
        return corrupt
    if ablation == "zero":
        return torch.zeros_like(corrupt)
    return corrupt.mean(dim=1, keepdim=True).expand_as(corrupt).contiguous()
