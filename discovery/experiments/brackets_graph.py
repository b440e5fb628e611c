"""The bracket classifier as graphs to scrub, all equal to the network on every string.

The output `z` is the logit difference. It reads the terms of the last residual stream at position
0, each looked up: embed, 0.0, 0.1, m0, ... `early_heads` and `late_head` open up those terms that
hypotheses go into. What a padded position holds is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from discovery.experiments.bracket_network import PAD, BracketNetwork
from discovery.experiments.brackets_features import (
    adjusted_shares,
    open_direction,
    shares,
    string_features,
)
from discovery.scrubbing.computation import Computation, Lookup, Node

Split = Literal["whole", "direction", "estimate"]


@dataclass(frozen=True)
class BracketData:
    """Strings, their features, and what the network does on them."""

    network: BracketNetwork
    tokens: Int[Tensor, "datum pos"]
    features: Mapping[str, np.ndarray]
    share: Float[np.ndarray, "datum pos"]
    adjusted: Float[np.ndarray, "datum pos"]
    labels: Int[np.ndarray, " datum"]  # 1: balanced
    z: Float[np.ndarray, " datum"]  # logit difference of the network
    string: Int[Tensor, " datum"]  # which of the different strings
    terms: Float[Tensor, "string term d_model"]
    last: Float[Tensor, "string pos d_model"]  # stream into the last layer; 0 where padded

    @property
    def size(self) -> int:
        """Number of data."""
        return len(self.labels)


def prepare(
    network: BracketNetwork, tokens: Int[np.ndarray, "datum pos"], batch: int = 1024
) -> BracketData:
    """Run the network once on every different string."""
    different, string = np.unique(tokens, axis=0, return_inverse=True)
    ids = torch.from_numpy(different)
    count, positions = different.shape
    size, dtype = network.W_E.shape[1], network.W_E.dtype
    z = torch.zeros(count, dtype=dtype)
    terms = torch.zeros(count, len(network.terms), size, dtype=dtype)
    last = torch.zeros(count, positions, size, dtype=dtype)
    length = (ids != PAD).sum(1)
    for rows in length.argsort(stable=True).split(batch):
        kept = ids[rows, : int(length[rows].max())]
        run = network.run(kept)
        z[rows], terms[rows] = run.z, run.terms
        last[rows, : kept.shape[1]] = run.streams[-1] * (kept != PAD)[..., None]
    features = string_features(tokens)
    string = string.reshape(-1)
    return BracketData(
        network=network,
        tokens=torch.from_numpy(tokens),
        features=features,
        share=shares(tokens),
        adjusted=adjusted_shares(network, tokens),
        labels=features["balanced"].astype(np.int64),
        z=z.double().numpy()[string],
        string=torch.from_numpy(string),
        terms=terms,
        last=last,
    )


def direct_terms(data: BracketData, together: tuple[str, ...] = ()) -> dict[str, Node]:
    """`z` above one node a term; the terms in `together` are one node, their names with "+"."""
    names = data.network.terms
    nodes = {name: _lookup(data, data.terms[:, index]) for index, name in enumerate(names)}
    reads = tuple(name for name in names if name not in together)
    if together:
        nodes["+".join(together)] = Node(together, lambda *parts: sum(parts))
        reads = (*reads, "+".join(together))
    bias = torch.stack([layer.b_O for layer in data.network.layers]).sum(0)

    def z(*parts: Tensor) -> Tensor:
        return data.network.logit_difference(torch.stack(parts).sum(0) + bias)

    return {**nodes, "z": Node(reads, z)}


def computation(data: BracketData, *opened: Mapping[str, Node], **options: Any) -> Computation:
    """The graph with some of its terms opened up."""
    nodes = direct_terms(data, **options)
    for more in opened:
        nodes.update(more)
    stored = {"stream2": _rows(data, data.last)} if "stream2" in nodes else {}
    return Computation(nodes, "z", data.size, stored=stored)


def early_heads(data: BracketData, split: Split = "whole") -> dict[str, Node]:
    """Heads 1.0 and 2.0 as functions of their layer's stream at position 1 and elsewhere.

    The stream is opened down to head 0.0 at position 1, which is one node ("whole"), its part along
    the open direction plus the part across, or an estimate from the share of ( plus the residue.
    """
    layers = data.network.layers

    def stream1(embedding: Tensor, padded: Tensor, at_1: Tensor, elsewhere: Tensor) -> Tensor:
        heads = layers[0].head(1, embedding, padded) + _joined(at_1, elsewhere)
        middle = embedding + heads + layers[0].b_O
        return middle + layers[0].mlp(middle)

    def stream2(stream: Tensor, padded: Tensor) -> Tensor:
        heads = layers[1].head(0, stream, padded) + layers[1].head(1, stream, padded)
        middle = stream + heads + layers[1].b_O
        return middle + layers[1].mlp(middle)

    def head(layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def at_0(at_1: Tensor, elsewhere: Tensor, padded: Tensor) -> Tensor:
            return layers[layer].head(0, _joined(at_1, elsewhere), padded, slice(1))[:, 0]

        return at_0

    nodes = {
        "padded": _padded(data),
        "embedding": _from_input(lambda rows: data.network.embed(data.tokens[rows])),
        **_head_0_0(data, split),
        "stream1": Node(("embedding", "padded", "0.0 at 1", "0.0 elsewhere"), stream1),
        "stream2": Node(("stream1", "padded"), stream2),
    }
    for layer in (1, 2):
        stream = f"stream{layer}"
        nodes[f"{stream} at 1"] = Node((stream,), lambda x: x[:, 1])
        nodes[f"{stream} elsewhere"] = Node((stream,), _without_1)
        reads = (f"{stream} at 1", f"{stream} elsewhere", "padded")
        nodes[f"{layer}.0"] = Node(reads, head(layer))
    return nodes


def _head_0_0(data: BracketData, split: Split) -> dict[str, Node]:
    """Head 0.0 at position 1, split, and at the other positions."""
    layer, direction = data.network.layers[0], open_direction(data.network)

    def at_1(embedding: Tensor, padded: Tensor) -> Tensor:
        return layer.head(0, embedding, padded, slice(1, 2))[:, 0]

    def along(embedding: Tensor, padded: Tensor) -> Tensor:
        unit = direction / direction.norm()
        return (at_1(embedding, padded) @ unit)[:, None] * unit

    def across(embedding: Tensor, padded: Tensor) -> Tensor:
        return at_1(embedding, padded) - along(embedding, padded)

    def residue(embedding: Tensor, padded: Tensor, estimate: Tensor) -> Tensor:
        return at_1(embedding, padded) - estimate

    def elsewhere(embedding: Tensor, padded: Tensor) -> Tensor:
        return _without_1(layer.head(0, embedding, padded))

    share = torch.from_numpy(data.share[:, 0]).to(direction.dtype)
    reads = ("embedding", "padded")
    parts = {
        "whole": {"0.0 at 1": Node(reads, at_1)},
        "direction": {
            "0.0 along": Node(reads, along),
            "0.0 across": Node(reads, across),
            "0.0 at 1": Node(("0.0 along", "0.0 across"), torch.add),
        },
        "estimate": {
            "0.0 estimate": _from_input(lambda rows: (2 * share[rows] - 1)[:, None] * direction),
            "0.0 residue": Node((*reads, "0.0 estimate"), residue),
            "0.0 at 1": Node(("0.0 estimate", "0.0 residue"), torch.add),
        },
    }[split]
    return {**parts, "0.0 elsewhere": Node(reads, elsewhere)}


def late_head(data: BracketData) -> dict[str, Node]:
    """Head 2.1 as a function of its layer's stream at each position, and of its own mask."""
    layer = data.network.layers[2]
    positions = data.last.shape[1]
    nodes = {position(i): _lookup(data, data.last[:, i]) for i in range(positions)}

    def head(*values: Tensor) -> Tensor:
        return layer.head(1, torch.stack(values[:-1], 1), values[-1], slice(1))[:, 0]

    return {**nodes, "2.1 padded": _padded(data), "2.1": Node((*nodes, "2.1 padded"), head)}


def position(index: int) -> str:
    """Name of the node that head 2.1 reads at a position."""
    return f"2.1 at {index}"


def _from_input(function: Callable[[Tensor], Tensor]) -> Node:
    return Node(("input",), lambda rows: function(torch.from_numpy(rows)))


def _rows(data: BracketData, table: Float[Tensor, "string ..."]) -> Lookup:
    return lambda rows: table[data.string[torch.from_numpy(rows)]]


def _lookup(data: BracketData, table: Float[Tensor, "string d_model"]) -> Node:
    return Node(("input",), _rows(data, table))


def _padded(data: BracketData) -> Node:
    return _from_input(lambda rows: data.tokens[rows] == PAD)


def _without_1(stream: Tensor) -> Tensor:
    out = stream.clone()
    out[:, 1] = 0
    return out


def _joined(at_1: Tensor, elsewhere: Tensor) -> Tensor:
    out = elsewhere.clone()
    out[:, 1] = at_1
    return out
