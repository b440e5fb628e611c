"""Edge scores of information flow routes as MIB's and EAP-IG's code has them.

The score of u -> v is the share of writer u in the stream that v reads,

    p(u, v) = max(0, |x_v|_1 - |x_v - a_u|_1)        share = p(u, v) / sum of p over all writers

averaged over positions and prompts alike, so readers of one stream cannot be told apart. Outputs
are those of the processed model (discovery/flow/processed.py): of a model with LayerNorm also
centred, of a head under a norm before it; biases and learned positions take no part.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from acdc.forward import before_norm, stream_of, trace
from acdc.graph import Graph
from acdc.model import Model
from acdc.spans import Layout
from discovery.flow.processed import left_behind
from discovery.flow.scores import readers_by_stream
from discovery.flow.shares import proximity


def uniform_shares(
    model: Model,
    graph: Graph,
    tokens: Int[Tensor, "batch pos"],
    batch_size: int = 8,
    layout: Layout | None = None,
) -> Float64[np.ndarray, "writer reader"]:
    """Mean share, 0 to 1, of each writer in what each reader sees; 0 where there is no edge.

    Of a graph with spans a reader has its tokens' part of the mean, as `layout` has them.
    Where no writer is near the whole, nobody has a share (in their code NaN). InputError as
    left_behind.
    """
    scores, plain = np.zeros(graph.legal.shape), graph.plain
    of = torch.zeros_like(tokens) if layout is None else layout.of
    for some, spans in zip(tokens.split(batch_size), of.split(batch_size), strict=True):
        outputs, streams = _processed(model, some)
        for readers in readers_by_stream(plain):
            own = outputs[: plain.writers_before(readers[0].layer, readers[0].part)]
            whole = streams[stream_of(plain, readers[0].layer, readers[0].part)]
            near = torch.stack([proximity(part, whole) for part in own]).double()
            shares = (near / near.sum(0)).nan_to_num(0) / tokens.numel()
            where = [plain.reader(r.layer, r.part, r.group) for r in readers]
            for s, columns in enumerate(graph.columns):
                part = (shares * (spans == s)).sum((-2, -1))
                scores[: len(own), columns[where]] += part.cpu().numpy()[:, None]
    return scores


def _processed(
    model: Model, tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "writer batch pos d_model"], Float[Tensor, "stream batch pos d_model"]]:
    """What writers put out, and the streams that they are in."""
    outputs = before_norm(model, tokens)
    outputs = outputs.with_(left_behind(model).writers(outputs), torch.sub).dense()
    streams = trace(model, tokens).streams
    if model.ln_final.kind == "layer":
        outputs, streams = (x - x.mean(-1, keepdim=True) for x in (outputs, streams))
    return outputs, streams
