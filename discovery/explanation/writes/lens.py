"""The logit lens (nostalgebraist 2020): what the stream says after each layer, read as the last is.

The stream at the answer position after each layer, through the final norm (with that stream's own
scale) and the unembedding. What it shows is where the answer can be read in this way, and no cause.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from acdc.data import Data, floats
from acdc.forward import PatchedForward, stream_of
from discovery.explanation.direct import right_less_wrong
from discovery.statistics.result import Floats


@dataclass(frozen=True)
class Lens:
    """[layers + 1, prompts]: after the embedding, then after each layer; the last is the model."""

    difference: Floats  # logits, right less wrong (or less the vocabulary's mean)
    rank: Floats  # 1 + tokens with a larger logit than the best right answer
    probability: Floats  # of all right answers together


def logit_lens(data: Data) -> Lens:
    """The lens on the model's clean run. An unembedding a layer, and no pass beyond that run."""
    parts = data.each(_lens)
    return Lens(*(data.join(p, axis=-1) for p in zip(*parts, strict=True)))


def _lens(forward: PatchedForward) -> tuple[Floats, Floats, Floats]:
    graph, prompts = forward.graph, forward.prompts
    places = [stream_of(graph, layer, "q") for layer in range(graph.n_layers)]
    found = list[tuple[Floats, Floats, Floats]]()
    right = torch.zeros_like(forward.clean.logits, dtype=torch.bool)
    for row, ids in enumerate(prompts.answers):
        right[row, list(ids)] = True
    for place in [*places, stream_of(graph, graph.n_layers, "logits")]:
        logits = forward.model.unembed(forward.clean.streams[place][:, -1])
        best = logits.masked_fill(~right, float("-inf")).amax(-1, keepdim=True)
        rank = 1 + (logits > best).sum(-1)
        probability = (logits.softmax(-1) * right).sum(-1)
        found.append((floats(right_less_wrong(prompts, logits)), floats(rank), floats(probability)))
    return tuple(np.array(values) for values in zip(*found, strict=True))  # type: ignore[return-value]
