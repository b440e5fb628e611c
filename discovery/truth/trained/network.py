"""The models that are trained: their weights, and their run with edges swapped, row by row.

The run is the patched forward of acdc/masked.py under `resample`, with three differences: every
row has a mask of its own, it stands for models of this one kind only, and gradients reach the
weights. Swapping a node is cutting all edges out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import gelu

from acdc.graph import Graph
from acdc.model import MLP, NO_NORM, Attention, Block, Model, Norm

EPS = 1e-5


def config_of(n_pos: int, n_tokens: int) -> dict[str, Any]:
    """Two layers as GPT-2 has them, small; what acdc/native.py takes."""
    return {
        "n_layers": 2, "n_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 64,
        "n_ctx": n_pos, "d_vocab": n_tokens, "act_fn": "gelu_new", "normalization_type": "LN",
        "positional_embedding_type": "standard", "eps": EPS,
    }  # fmt: skip


def model_of(name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Model:
    """A view of native weights, through which gradients pass."""
    heads = config["n_heads"]

    def norm(stem: str) -> Norm:
        return Norm("layer", weights[f"{stem}.weight"], weights[f"{stem}.bias"], EPS)

    def reads(stem: str) -> tuple[Tensor, Tensor]:
        weight, bias = weights[f"{stem}.weight"], weights[f"{stem}.bias"]
        return weight.unflatten(0, (heads, -1)).transpose(1, 2), bias.unflatten(0, (heads, -1))

    def block(stem: str) -> Block:
        (W_Q, b_Q), (W_K, b_K), (W_V, b_V) = (reads(f"{stem}.attn.{part}") for part in "qkv")
        W_O = weights[f"{stem}.attn.o.weight"].T.unflatten(0, (heads, -1))
        attn = Attention(
            W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, weights[f"{stem}.attn.o.bias"], NO_NORM, NO_NORM,
            config["d_head"] ** -0.5,
        )  # fmt: skip
        fc_in, fc_out = f"{stem}.mlp.fc_in", f"{stem}.mlp.fc_out"
        mlp = MLP(
            weights[f"{fc_in}.weight"].T, weights[f"{fc_in}.bias"], None, None,
            weights[f"{fc_out}.weight"].T, weights[f"{fc_out}.bias"], _gelu,
        )  # fmt: skip
        return Block(norm(f"{stem}.ln1"), attn, norm(f"{stem}.ln2"), mlp)

    return Model(
        name, heads, heads, False, config["n_ctx"], 1.0, weights["embed.weight"],
        weights["pos_embed.weight"],
        tuple(block(f"blocks.{layer}") for layer in range(config["n_layers"])),
        norm("ln_final"), weights["unembed.weight"].T, None,
    )  # fmt: skip


def _gelu(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")


def plain_logits(model: Model, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
    """Logits at the last place, nothing swapped."""
    return _run(model, model.graph(), tokens)[1]


def swapped_logits(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    cut: Bool[Tensor, "batch writers readers"],
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last place; a cut edge carries what it carries in a run on `source`."""
    graph = model.graph()
    theirs = _run(model, graph, source)[0]
    return _run(model, graph, tokens, theirs, cut.to(model.dtype).transpose(1, 2))[1]


def _run(
    model: Model, graph: Graph, tokens: Tensor, theirs: Tensor | None = None,
    cut: Tensor | None = None,
) -> tuple[Float[Tensor, "batch writers pos d"], Float[Tensor, "batch vocab"]]:  # fmt: skip
    """What every writer puts out, and the logits; `cut` is [batch, readers, writers]."""
    ours = model.embed(tokens)[:, None]
    stream = ours[:, 0]

    def read(first: int, count: int) -> Tensor:
        if theirs is None or cut is None:
            return stream[:, None].expand(-1, count, -1, -1)
        n = ours.shape[1]
        change = (theirs[:, :n] - ours).flatten(2)
        return stream[:, None] + (cut[:, first : first + count, :n] @ change).unflatten(
            2, stream.shape[1:]
        )

    for layer, block in enumerate(model.blocks):
        if block.mlp is None or block.ln2 is None:
            raise ValueError(f"layer {layer} has no MLP")
        heads = _heads(block, read(graph.reader(layer, "q"), 3 * graph.n_heads))
        ours, stream = torch.cat([ours, heads], dim=1), stream + heads.sum(1)
        if block.attn.b_O is not None:
            stream = stream + block.attn.b_O
        out = block.mlp(block.ln2(read(graph.reader(layer, "mlp"), 1)[:, 0]))  # type: ignore[operator]
        ours, stream = torch.cat([ours, out[:, None]], dim=1), stream + out
    return ours, model.unembed(read(len(graph.readers) - 1, 1)[:, 0, -1])


def _heads(
    block: Block, x: Float[Tensor, "batch reader pos d"]
) -> Float[Tensor, "batch head pos d"]:
    """What each head writes, from the inputs of all q, all k and all v."""
    attn, n = block.attn, x.shape[2]
    q, k, v = (
        torch.einsum("bhpd,hde->bhpe", y, getattr(attn, f"W_{part}"))
        + getattr(attn, f"b_{part}")[:, None]
        for y, part in zip(block.ln1(x).chunk(3, dim=1), "QKV", strict=True)
    )
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) * attn.scale).masked_fill(later, float("-inf"))
    return torch.einsum("bhpe,hed->bhpd", scores.softmax(-1) @ v, attn.W_O)
