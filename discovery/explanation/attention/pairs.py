"""Attention scores split over pairs: writer on the query's side times writer on the key's side.

A score (before the softmax) is bilinear in the query's and the key's normed input, so once the
norms' scales are taken from this very run it is a sum over pairs of writers (Elhage et al. 2021,
"virtual weights"; Kamath et al. 2025, QK attributions):

    score = sum over u, w of  q_u . k_w        q_u: what writer u adds to the query, k_w to the key

through the norm of the stream, the projection, the norm of q and k, and the rotation. The last
source is `constant`: biases, which no writer brings. A contrast of keys, weights over positions
that sum to 0, takes out what all keys have in common; the softmax does not see that either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.forward import PatchedForward, bias_streams
from acdc.graph import Graph
from acdc.model import Model, Norm, Part

CONSTANT = "constant"


@dataclass(frozen=True, eq=False)
class Look:
    """From one position of each prompt to a weighted sum of others."""

    query: Int[Tensor, " batch"]
    weights: Float[Tensor, "batch pos"]  # of the keys; after the query they must be 0


def sources(model: Model, graph: Graph, layer: int) -> list[str]:
    """Names along both axes of `pair_scores`: the writers that a layer's heads read, `constant`.

    Where positions are learned and added, `input` is two: `token` and `position`.
    """
    first = ["input"] if model.W_pos is None else ["token", "position"]
    return [*first, *graph.writers[1 : graph.writers_before(layer)], CONSTANT]


def pair_scores(
    forward: PatchedForward, layer: int, looks: Sequence[tuple[int, Look]]
) -> Iterator[Float[Tensor, "batch source source"]]:
    """Of each (head, look): the weighted score, split over pairs (query's side, key's side).

    In logits of attention, before a cap on them and without what ALiBi adds. Sums over both axes
    give sum_j weights[j] * score[query, j] of the clean run, exactly. What all looks of a layer
    share is made once.
    """
    read = _normed(forward, layer)
    model, rows = forward.model, torch.arange(len(forward.prompts), device=read.device)
    every = torch.arange(forward.n_pos, device=read.device)
    keys = dict[int, Tensor]()
    for head, look in looks:
        group = model.kv_head(head)
        if group not in keys:
            keys[group] = _projected(model, layer, "k", group, read, every)
        at = look.query[:, None]
        q = _projected(model, layer, "q", head, read[:, rows[:, None], at], at)[:, :, 0]
        k = torch.einsum("wbph,bp->wbh", keys[group], look.weights)
        yield torch.einsum("ubh,wbh->buw", q, k) * model.blocks[layer].attn.scale


def _normed(forward: PatchedForward, layer: int) -> Float[Tensor, "source batch pos d_model"]:
    """What each source adds to the normed stream that a layer's heads read."""
    graph, model = forward.graph, forward.model
    whole, norm = forward.clean.streams[2 * layer], model.blocks[layer].ln1
    parts = [forward.clean.writers.take(range(graph.writers_before(layer)))]
    if model.W_pos is not None:
        position = model.W_pos[: forward.n_pos].expand_as(whole)
        parts = [torch.stack([parts[0][0] - position, position]), parts[0][1:]]
    biases = bias_streams(model)[2 * layer].expand(1, *whole.shape)
    return _shares(norm, torch.cat([*parts, biases]), whole)


def _projected(
    model: Model, layer: int, part: Part, index: int, read: Tensor, positions: Tensor
) -> Float[Tensor, "source batch pos d_head"]:
    """What each source adds to a head's q or a group's k, positions turned in."""
    attn, name = model.blocks[layer].attn, part.upper()
    weight, bias = getattr(attn, f"W_{name}")[index], getattr(attn, f"b_{name}")
    y = read @ weight
    if bias is not None:
        y[-1] += bias[index]
    norm = attn.q_norm if part == "q" else attn.k_norm
    shares = model.head_share(layer, part, index, y, y.sum(0), read.sum(0))
    if norm.bias is not None:
        shares = torch.cat([shares[:-1], shares[-1:] + norm.bias])
    return model.rotate(layer, shares, positions)


def _shares(norm: Norm, parts: Tensor, whole: Tensor) -> Tensor:
    """Shares of all parts in the norm of the whole, its bias with the last one's."""
    shares = norm.share(parts, whole)
    if norm.bias is not None:
        shares = torch.cat([shares[:-1], shares[-1:] + norm.bias])
    return shares
