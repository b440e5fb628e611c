"""The patched forward pass: a function of prompts, mask and ablation. No hooks, no state.

A circuit's value (Conmy et al. 2023, section 3; the same in EAP-IG and TransformerLens): run the
clean prompts, and let every reader v receive

    x_v = biases + sum over kept u->v of cur(u) + sum over cut u->v of abl(u)

where cur(u) is what writer u puts out in this very run (patches propagate), and abl(u) its value
in the corrupted run (`resample`), its mean over the corrupted prompts at each position (`mean`),
or 0 (`zero`). All edges kept is the model; none kept under `resample` is the corrupted run.
acdc/live.py runs one circuit, acdc/incremental.py the many variants of a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from acdc.errors import InputError
from acdc.graph import Graph
from acdc.live import run_live
from acdc.model import Model
from acdc.prompts import Prompts

Ablation = Literal["resample", "zero", "mean"]
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


@dataclass(frozen=True)
class Layer:
    """One layer of a plain run: the stream before, between and after, and what was added."""

    before: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "head batch pos d_model"]  # outputs without b_O
    pattern: Float[Tensor, "batch head pos pos"]
    between: Float[Tensor, "batch pos d_model"]  # with all heads and b_O
    mlp: Float[Tensor, "batch pos d_model"] | None
    after: Float[Tensor, "batch pos d_model"]


def layers(model: Model, tokens: Int[Tensor, "batch pos"]) -> Iterator[Layer]:
    """Run the model layer by layer; nothing is kept of those behind."""
    x = model.embed(tokens)
    for layer, block in enumerate(model.blocks):
        heads, pattern = head_outputs(model, layer, x[None], x[None], x[None], tokens.shape[1])
        mid = x + heads.sum(0)
        if block.attn.b_O is not None:
            mid = mid + block.attn.b_O
        mlp = None if block.mlp is None else model.mlp_out(layer, x if model.parallel else mid)
        after = mid if mlp is None else mid + mlp
        yield Layer(x, heads, pattern.transpose(0, 1), mid, mlp, after)
        x = after


def trace(model: Model, tokens: Int[Tensor, "batch pos"]) -> Trace:
    """Run the model and keep every writer's output and every reader's input."""
    x = model.embed(tokens)
    writers, streams, patterns = [x], [], []
    for layer in layers(model, tokens):
        writers += [*layer.heads, *([] if layer.mlp is None else [layer.mlp])]
        streams += [layer.before, layer.between]
        patterns.append(layer.pattern)
        x = layer.after
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
        self.model, self.graph = model, graph
        self.ablation: Ablation = ablation
        self.prompts = prompts.to(model.device)
        self.n_pos = prompts.clean.shape[1]
        self.clean = trace(model, self.prompts.clean)
        self.corrupt = trace(model, self.prompts.corrupt)
        self.ablated = ablated_writers(self.corrupt.writers, ablation)

    def under(self, ablation: Ablation) -> PatchedForward:
        """The same two runs with other values on cut edges."""
        return self._like(ablation, self.prompts, self.clean, self.corrupt)

    def swapped(self) -> PatchedForward:
        """The corrupted prompts' run, into which cut edges carry clean outputs (denoising)."""
        prompts = replace(self.prompts, clean=self.prompts.corrupt, corrupt=self.prompts.clean)
        return self._like(self.ablation, prompts, self.corrupt, self.clean)

    def _like(
        self, ablation: Ablation, prompts: Prompts, clean: Trace, corrupt: Trace
    ) -> PatchedForward:
        other = copy(self)
        other.__dict__.pop("cuts", None)
        other.ablation, other.prompts, other.clean, other.corrupt = (
            ablation, prompts, clean, corrupt,
        )  # fmt: skip
        other.ablated = ablated_writers(corrupt.writers, ablation)
        return other

    @cached_property
    def cuts(self) -> PairedCuts:
        """What edges outside a circuit carry."""
        return PairedCuts(self.model, self.graph, self.ablated)

    def run(
        self, mask: NDArray[np.bool_], at: Literal["all", "answer"] = "all"
    ) -> Float[Tensor, "batch vocab"]:
        """Logits at the answer position with the edges of `mask` kept and all others cut.

        `at="answer"` cuts them at the answer position only; the others are as in the clean run.
        """
        streams = self.clean.streams if at == "answer" else None
        return run_live(self.model, self.graph, self.prompts.clean, mask, self.cuts, streams)


class PairedCuts:
    """Cut edges carry each prompt's own ablated value (see acdc/live.py, Cuts)."""

    def __init__(self, model: Model, graph: Graph, ablated: Tensor) -> None:
        self.graph, self.ablated = graph, ablated
        total, seen, sums = torch.zeros_like(ablated[0]), 0, list[Tensor]()
        for place in _places(graph):
            n = graph.writers_before(*place)
            total, seen = total + ablated[seen:n].sum(0), n
            sums.append(total)
        self.streams = torch.stack(sums) + bias_streams(model)[:, None, None]

    def key(self, reader: int) -> None:
        """All readers of one place receive the same."""

    def offset(self, writer: int) -> Tensor:
        """The one value that all cut edges of this writer carry."""
        return self.ablated[writer]

    def base(self, reader: int, kept: Sequence[int], span: int) -> Tensor:
        """The whole ablated stream: kept edges add the difference."""
        info = self.graph.readers[reader]
        return self.streams[stream_of(self.graph, info.layer, info.part)][:, -span:]


def _places(graph: Graph) -> list[tuple[int, str]]:
    """(layer, part) of the readers that see each of Trace.streams."""
    places = [(layer, part) for layer in range(graph.n_layers) for part in ("q", "mlp")]
    return [*places, (graph.n_layers, "logits")]


def bias_streams(model: Model) -> Float[Tensor, "stream d_model"]:
    """What belongs to no writer in each of Trace.streams: the attention output biases so far."""
    total, out = model.W_E.new_zeros(model.d_model), []
    for block in model.blocks:
        out.append(total)
        if block.attn.b_O is not None:
            total = total + block.attn.b_O
        out.append(total)
    return torch.stack([*out, total])


def ablated_writers(
    corrupt: Float[Tensor, "writer batch pos d_model"], ablation: Ablation
) -> Float[Tensor, "writer batch pos d_model"]:
    """What a cut edge carries: corrupted outputs, their mean over the batch, or zeros."""
    if ablation == "resample":
        return corrupt
    if ablation == "zero":
        return torch.zeros_like(corrupt)
    return corrupt.mean(dim=1, keepdim=True).expand_as(corrupt).contiguous()
