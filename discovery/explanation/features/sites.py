"""Places in a run that can be read and changed, by SAELens' hook names, and the run from there on.

A site is the output of a node (head, MLP), of a layer's attention, or the residual stream. Reading
gives [batch, pos, width]; a change of it is a change of one of Trace.streams, from which the rest
of the model is run. Exact: nothing before the site is run again, and nothing after it is frozen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.errors import InputError
from acdc.forward import PatchedForward, bias_streams, head_values, trace
from acdc.graph import Graph
from acdc.model import Model
from acdc.writers import Writers

Score = Callable[[PatchedForward, Tensor], Tensor]  # logits [batch, vocab] -> [batch]
HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<point>[\w.]+)")
POINTS = {  # names of TransformerLens and of its bridges -> what is there
    "hook_resid_pre": "pre", "hook_in": "pre", "hook_resid_mid": "mid",
    "hook_resid_post": "post", "hook_out": "post",
    "hook_attn_out": "attention", "attn.hook_out": "attention",
    "hook_mlp_out": "mlp", "mlp.hook_out": "mlp",
    "attn.hook_result": "result", "attn.hook_z": "z",
}  # fmt: skip
NAMES = {
    "pre": "the stream before layer {}", "mid": "the stream within layer {}",
    "post": "the stream after layer {}", "attention": "the attention of layer {}",
    "z": "the heads of layer {}, before their output weights",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Site:
    """Where a sparse autoencoder looks."""

    name: str
    hook: str  # SAELens' hook_name
    head: int | None  # SAELens' hook_head_index
    node: int | None  # the writer that it is, if it is one
    stream: int  # of Trace.streams: the first that a change is seen in
    width: int
    read: Callable[[Writers], Float[Tensor, "batch pos width"]]
    out: Float[Tensor, "width d_model"] | None  # from there into the stream; None: it is the same

    def into_stream(self, change: Float[Tensor, "*n width"]) -> Float[Tensor, "*n d_model"]:
        """What a change at the site adds to the stream."""
        return change if self.out is None else change @ self.out

    def from_stream(self, gradient: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n width"]:
        """The gradient at the site from that at the stream."""
        return gradient if self.out is None else gradient @ self.out.T


def site_of_node(model: Model, graph: Graph, node: str) -> Site:
    """The site of a head `a1.h3` or an MLP `m2`; InputError if the graph has no such node."""
    writer = graph.writer_index.get(node)
    if not writer:
        raise InputError(f"node={node!r}: must be a head a0.h0 or an MLP m0 of {graph.describe()}")
    layer, part = graph.place(writer)
    if part == graph.n_heads:
        return site_at(model, graph, f"blocks.{layer}.hook_mlp_out", None)
    return _site(model, graph, f"blocks.{layer}.attn.hook_result", part, layer, "result")


def site_at(model: Model, graph: Graph, hook: str, head: int | None) -> Site:
    """The site of a hook name; InputError for one that this model does not have."""
    found = HOOK.fullmatch(hook)
    point = POINTS.get(found["point"]) if found else None
    if found is None or point is None:
        known = ", ".join(f"blocks.N.{name}" for name in POINTS)
        raise InputError(f"hook_name={hook!r}: allowed are {known}")
    layer = int(found["layer"])
    if layer >= graph.n_layers:
        raise InputError(f"hook_name={hook!r}: the model has layers 0 to {graph.n_layers - 1}")
    if head is not None and not 0 <= head < graph.n_heads:
        raise InputError(f"hook_head_index={head}: the model has heads 0 to {graph.n_heads - 1}")
    if point == "result" and head is None:
        raise InputError(f"hook_name={hook!r} needs hook_head_index: which head is it?")
    if point == "mlp" and not graph.has_mlp:
        raise InputError(f"hook_name={hook!r}: the model has no MLPs")
    if point == "mid" and (graph.parallel or not graph.has_mlp):
        raise InputError(f"hook_name={hook!r}: layers of this model have no stream within")
    if point in ("z", "result") and graph.joint:
        raise InputError(
            f"hook_name={hook!r}: a norm follows the sum of this model's heads, so a head's output"
            " before it is not what it writes; take the whole attention output"
        )
    return _site(model, graph, hook, head, layer, point)


def _site(model: Model, graph: Graph, hook: str, head: int | None, layer: int, point: str) -> Site:
    heads = range(graph.head(layer, 0), graph.head(layer, 0) + graph.n_heads)
    W_O, between = model.blocks[layer].attn.W_O, 2 * layer + 1
    if point == "mlp":
        node = graph.mlp(layer)
        return Site(graph.writers[node], hook, None, node, 2 * layer + 2, graph.d_model,
                    lambda w: w[node], None)  # fmt: skip
    if point in ("result", "z") and head is not None:
        node = heads[head]
        if point == "result":
            return Site(graph.writers[node], hook, head, node, between, graph.d_model,
                        lambda w: w[node], None)  # fmt: skip
        return Site(graph.writers[node], hook, head, node, between, W_O.shape[1],
                    lambda w: w.z[layer, head], W_O[head])  # fmt: skip
    name = NAMES[point].format(layer)
    if point == "z":
        return Site(name, hook, None, None, between, W_O.shape[0] * W_O.shape[1],
                    lambda w: w.z[layer].movedim(0, -2).flatten(-2), W_O.flatten(0, 1))  # fmt: skip
    if point == "attention":
        b_O = model.blocks[layer].attn.b_O
        return Site(name, hook, None, None, between, graph.d_model,
                    lambda w: w.total(heads) + (0 if b_O is None else b_O), None)  # fmt: skip
    stream = {"pre": 2 * layer, "mid": between, "post": 2 * layer + 2}[point]
    part = "mlp" if point == "mid" else "q"
    seen, bias = graph.writers_before(layer + (point == "post"), part), bias_streams(model)[stream]
    return Site(name, hook, None, None, stream, graph.d_model,
                lambda w: w.total(range(seen)) + bias, None)  # fmt: skip


# ---- the rest of the run -----------------------------------------------------------------------


def run_from(
    forward: PatchedForward, stream: int, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch vocab"]:
    """Logits at the answer with stream number `stream` of the clean run set to x.

    Costs as much of a plain pass as lies behind it. Gradients pass.
    """
    return _rest(forward, stream, x, lambda _, y: y)


def stream_gradients(
    forward: PatchedForward, score: Score, first: int = 0
) -> Float[Tensor, "stream batch pos d_model"]:
    """d score / d each of Trace.streams from `first` on, at the clean run: one pass and back.

    The last is 0 before the answer position.
    """
    added = torch.zeros_like(forward.clean.streams[first:])
    with torch.enable_grad():
        added.requires_grad_()
        logits = _rest(
            forward, first, forward.clean.streams[first], lambda at, y: y + added[at - first]
        )
        (gradient,) = torch.autograd.grad(score(forward, logits).sum(), added)
    return gradient


def _rest(
    forward: PatchedForward, stream: int, x: Tensor, at: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """The run from a stream on; `at(number, value)` is told each stream and gives what goes on."""
    model, n = forward.model, forward.n_pos
    x = at(stream, x)
    for layer in range(stream // 2, len(model.blocks)):
        before, within = x, 2 * layer < stream
        if not within:
            z, _ = head_values(model, layer, x[None], x[None], x[None], n)
            x = at(2 * layer + 1, x + model.attention_out(layer, z))
        if model.blocks[layer].mlp is not None:
            if model.parallel and within:  # read what came before the site
                mlp = forward.clean.writers.rest[1 + layer]
            else:
                mlp = model.mlp_out(layer, before if model.parallel else x)
            x = x + mlp
        x = at(2 * layer + 2, x)
    return model.unembed(x[:, -1])


# ---- text --------------------------------------------------------------------------------------


def sampled_text(
    model: Model, n: int, length: int, seed: int, bos: int | None = None
) -> Int[Tensor, "n length"]:
    """Text of the model's own: after a BOS, or a random token, each next token drawn as it says.

    Costs length - 1 passes of n prompts, on average of half the length.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.d_vocab, (n, 1), generator=generator)
    if bos is not None:
        tokens = torch.cat([torch.full_like(tokens, bos), tokens], 1)
    while tokens.shape[1] < length:
        logits = trace(model, tokens.to(model.device), lean=True).logits
        drawn = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, drawn], 1)
    return tokens[:, :length].to(model.device)
