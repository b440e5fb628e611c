"""Transformers written down by hand: a stream of named parts, and what heads and MLPs do with them.

What is not said is idle: heads and MLPs with random weights, which read all of the stream and write
into a part `idle` that nothing else reads. All else writes there too. At the end the stream is
turned by a random rotation, so that no coordinate means anything. No norms; float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.model import MLP, NO_NORM, Attention, Block, Model

F64 = torch.float64
IDLE = 8  # size of the part that only idle heads and MLPs read
LOUD = 0.5  # of what idle heads and MLPs read and all write there, beside what is written down

Wire = tuple[str, int, Tensor]  # a part of the stream, the first coordinate within, the weights


@dataclass(frozen=True)
class Head:
    """A head: what q, k and v read, [part, some], and what it writes, [some, part]."""

    q: tuple[Wire, ...] = ()
    k: tuple[Wire, ...] = ()
    v: tuple[Wire, ...] = ()
    o: tuple[Wire, ...] = ()
    b_q: Mapping[int, float] = field(default_factory=dict)  # coordinate within -> bias


@dataclass(frozen=True)
class Neurons:
    """An MLP of relus."""

    reads: tuple[Wire, ...]
    bias: Float[Tensor, " neuron"]
    writes: tuple[Wire, ...]


@dataclass(frozen=True)
class Plan:
    """All of a model that is not idle."""

    name: str
    n_layers: int
    n_heads: int
    parts: Mapping[str, int]  # of the stream: name -> size
    tokens: Mapping[str, Tensor]  # part -> [vocab, size]: what tokens are embedded as
    places: Mapping[str, Tensor]  # part -> [ctx, size]: what positions are
    heads: Mapping[tuple[int, int], Head]  # by layer and place within
    mlps: Mapping[int, Neurons]
    logits: tuple[Wire, ...]  # what the unembedding reads, [part, some]


@dataclass(frozen=True)
class _Stream:
    """Where each part lies."""

    parts: Mapping[str, int]

    @property
    def size(self) -> int:
        return sum(self.parts.values())

    def at(self, part: str) -> slice:
        names = list(self.parts)
        start = sum(self.parts[name] for name in names[: names.index(part)])
        return slice(start, start + self.parts[part])

    def reads(self, wires: tuple[Wire, ...], width: int) -> Tensor:
        """[stream, width]."""
        out = torch.zeros(self.size, width, dtype=F64)
        for part, first, weights in wires:
            out[self.at(part), first : first + weights.shape[1]] += weights
        return out

    def writes(self, wires: tuple[Wire, ...], width: int) -> Tensor:
        """[width, stream]."""
        turned = tuple((part, first, weights.T) for part, first, weights in wires)
        return self.reads(turned, width).T

    def table(self, rows: Mapping[str, Tensor]) -> Tensor:
        """[entries, stream]: what each entry puts into the parts."""
        wires = tuple((part, 0, values) for part, values in rows.items())
        return self.writes(wires, len(next(iter(rows.values()))))


def _widths(plan: Plan) -> tuple[int, int]:
    """Of a head and of an MLP: as wide as the widest asks for."""
    wires = [w for h in plan.heads.values() for w in (*h.q, *h.k, *h.v)]
    d_head = max([4, *(first + weights.shape[1] for _, first, weights in wires)])
    return d_head, max([8, *(len(m.bias) for m in plan.mlps.values())])


def build(plan: Plan, rng: np.random.Generator) -> Model:
    """The model; idle weights and the rotation are drawn from `rng`."""
    stream = _Stream({**plan.parts, "idle": IDLE})
    d, idle = stream.size, stream.at("idle")
    d_head, d_mlp = _widths(plan)

    def noise(*shape: int) -> Tensor:
        return torch.as_tensor(rng.normal(size=shape)) * LOUD

    def whispering(writes: Tensor) -> Tensor:
        """The same, and something into the part that is idle."""
        out = writes.clone()
        out[:, idle] += noise(out.shape[0], IDLE)
        return out

    def head(layer: int, place: int) -> dict[str, Tensor]:
        own = plan.heads.get((layer, place))
        if own is None:
            q, k, v = (noise(d, d_head) for _ in range(3))
            return {"Q": q, "K": k, "V": v, "O": whispering(stream.writes((), d_head)),
                    "b": noise(d_head)}  # fmt: skip
        bias = torch.zeros(d_head, dtype=F64)
        for at, value in own.b_q.items():
            bias[at] = value
        return {
            "Q": stream.reads(own.q, d_head), "K": stream.reads(own.k, d_head),
            "V": stream.reads(own.v, d_head), "O": whispering(stream.writes(own.o, d_head)),
            "b": bias,
        }  # fmt: skip

    turn = torch.as_tensor(np.linalg.qr(rng.normal(size=(d, d)))[0])  # rows: the new coordinates

    def mlp(layer: int) -> MLP:
        own = plan.mlps.get(layer)
        if own is None:
            W_in, b_in, W_out = noise(d, d_mlp), noise(d_mlp), stream.writes((), d_mlp)
        else:
            W_in, W_out = stream.reads(own.reads, d_mlp), stream.writes(own.writes, d_mlp)
            b_in = torch.cat([own.bias, torch.zeros(d_mlp - len(own.bias), dtype=F64)])
        return MLP(turn.T @ W_in, b_in, None, None, whispering(W_out) @ turn, None, torch.relu)

    def block(layer: int) -> Block:
        heads = [head(layer, place) for place in range(plan.n_heads)]
        W = {name: torch.stack([h[name] for h in heads]) for name in ("Q", "K", "V", "O", "b")}
        attention = Attention(
            W_Q=turn.T @ W["Q"], W_K=turn.T @ W["K"], W_V=turn.T @ W["V"], W_O=W["O"] @ turn,
            b_Q=W["b"], b_K=None, b_V=None, b_O=None, q_norm=NO_NORM, k_norm=NO_NORM, scale=1.0,
        )  # fmt: skip
        return Block(NO_NORM, attention, NO_NORM, mlp(layer))

    W_pos, width = stream.table(plan.places), max(first + w.shape[1] for _, first, w in plan.logits)
    return Model(
        name=plan.name, n_heads=plan.n_heads, n_kv_heads=plan.n_heads, parallel=False,
        n_ctx=len(W_pos), embed_scale=1.0, W_E=whispering(stream.table(plan.tokens)) @ turn,
        W_pos=whispering(W_pos) @ turn, blocks=tuple(map(block, range(plan.n_layers))),
        ln_final=NO_NORM, W_U=turn.T @ stream.reads(plan.logits, width), b_U=None,
    )  # fmt: skip
