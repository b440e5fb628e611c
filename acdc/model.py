"""A frozen view of a transformer: weights, and the few functions that a patched forward needs.

Everything that differs between families is data here: the norm's kind, biases or none, learned
positions or a rotary table on part of the head, grouped keys and values, norms on q and k, a gated
MLP, parallel blocks. Pre-norm decoders only: every head and MLP adds its output to the residual
stream unchanged. All arithmetic is in the weights' own dtype (Hugging Face's RMSNorm is not), so a
float64 view is float64 throughout. Knows neither TransformerLens nor files; see acdc/bridge.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.graph import KV, Graph

Part = Literal["q", "k", "v"]
T = TypeVar("T")


@dataclass(frozen=True)
class Norm:
    """LayerNorm, RMSNorm or nothing, over the last axis."""

    kind: Literal["layer", "rms", "none"]
    weight: Float[Tensor, " d"] | None = None
    bias: Float[Tensor, " d"] | None = None
    eps: float = 0.0

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        if self.kind == "none":
            return x
        if self.kind == "layer":
            return torch.nn.functional.layer_norm(
                x, (x.shape[-1],), self.weight, self.bias, self.eps
            )
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def share(
        self, part: Float[Tensor, "*n d"], whole: Float[Tensor, "*m d"]
    ) -> Float[Tensor, "*n d"]:
        """What a summand of `whole` adds to the norm of it, the scale taken from `whole`.

        Shares of all summands and the bias add up to self(whole).
        """
        if self.kind == "none":
            return part
        if self.kind == "layer":
            part, whole = (x - x.mean(-1, keepdim=True) for x in (part, whole))
        share = part * (whole.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        return share if self.weight is None else share * self.weight


@dataclass(frozen=True)
class Attention:
    """Heads of one layer; keys and values have one slot a group (`kv` of them)."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv d_model d_head"]
    W_V: Float[Tensor, "kv d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv d_head"] | None
    b_V: Float[Tensor, "kv d_head"] | None
    b_O: Float[Tensor, " d_model"] | None
    q_norm: Norm
    k_norm: Norm
    scale: float  # scores are multiplied by it


@dataclass(frozen=True)
class MLP:
    """act(x W_in + b_in) W_out + b_out, or act(x W_gate) * (x W_in) before W_out if gated."""

    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    b_gate: Float[Tensor, " d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None
    act: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Output of the MLP for its normalised input."""
        return _linear(self.hidden(x), self.W_out, self.b_out)

    def hidden(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_mlp"]:
        """Activations of the neurons, for the MLP's normalised input: what W_out's rows are of."""
        gates = self.gates(x)
        return gates if self.W_gate is None else gates * _linear(x, self.W_in, self.b_in)

    def gates(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_mlp"]:
        """What the non-linearity gives: of the gate if there is one, else the activations."""
        if self.W_gate is None:
            return self.act(_linear(x, self.W_in, self.b_in))
        return self.act(_linear(x, self.W_gate, self.b_gate))


@dataclass(frozen=True)
class Block:
    """One layer. `ln2` and `mlp` are None in attention-only models."""

    ln1: Norm
    attn: Attention
    ln2: Norm | None
    mlp: MLP | None


@dataclass(frozen=True)
class Model:
    """Sizes and weights of one transformer."""

    name: str
    n_heads: int
    n_kv_heads: int
    parallel: bool
    n_ctx: int  # longest prompt
    embed_scale: float
    W_E: Float[Tensor, "vocab d_model"]
    W_pos: Float[Tensor, "ctx d_model"] | None
    cos: Float[Tensor, "ctx rotary"] | None  # rotary tables; the first `rotary` of d_head turn
    sin: Float[Tensor, "ctx rotary"] | None
    blocks: tuple[Block, ...]
    ln_final: Norm
    W_U: Float[Tensor, "d_model vocab_out"]
    b_U: Float[Tensor, " vocab_out"] | None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_E.shape[1]

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return self.W_E.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        return self.W_E.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_E.device

    def graph(self, kv: KV = "per_query_head") -> Graph:
        """The computational graph of this architecture."""
        return Graph(
            n_layers=len(self.blocks),
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_model=self.d_model,
            has_mlp=any(b.mlp is not None for b in self.blocks),
            parallel=self.parallel,
            kv=kv,
        )

    def to(self, dtype: torch.dtype | None = None, device: Any = None) -> Model:
        """The same model with its floating-point tensors cast and moved."""
        return _map(self, lambda t: t.to(device=device, dtype=dtype))

    def offloaded(self, device: torch.device | str) -> Model:
        """On a device that is too small for it: MLPs' weights stay where they are.

        They are most of a large model, and each is wanted once in a pass: `mlp` brings it.
        """
        blocks = tuple(replace(b, mlp=None) for b in self.blocks)
        near = replace(self, blocks=blocks).to(device=device)
        pairs = zip(near.blocks, self.blocks, strict=True)
        return replace(near, blocks=tuple(replace(new, mlp=old.mlp) for new, old in pairs))

    def mlp(self, layer: int) -> MLP:
        """A layer's MLP on the model's device; ValueError if it has none."""
        mlp = self.blocks[layer].mlp
        if mlp is None:
            raise ValueError(f"layer {layer} has no MLP")
        if mlp.W_out.device == self.device:
            return mlp
        return _map(mlp, lambda t: t.to(self.device))

    # ---- the pieces of a forward pass ------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Output of the writer `input`: token embedding plus learned positions, if any."""
        x = self.W_E[tokens] * self.embed_scale
        return x if self.W_pos is None else x + self.W_pos[: tokens.shape[1]]

    def kv_head(self, head: int) -> int:
        """The key/value group that a query head reads."""
        return head * self.n_kv_heads // self.n_heads

    def project(
        self,
        layer: int,
        part: Part,
        heads: int | list[int],
        x: Float[Tensor, "*n pos d_model"],
        n_pos: int,
    ) -> Float[Tensor, "*m pos d_head"]:
        """q, k or v from a reader's input (before the norm), positions turned in.

        `heads` is one head (for k and v: one group), or a list that runs along the first axis of x
        (of size 1: all of them read the same). x holds the last x.shape[-2] of `n_pos` positions.
        """
        block = self.blocks[layer]
        attn, name = block.attn, part.upper()
        weight, bias = getattr(attn, f"W_{name}")[heads], getattr(attn, f"b_{name}")
        y = block.ln1(x)
        if isinstance(heads, int):
            y = _linear(y, weight, None if bias is None else bias[heads])
        else:
            y = y.flatten(1, -2) @ weight
            y = y if bias is None else y + bias[heads][:, None]
            y = y.unflatten(1, x.shape[1:-1])
        if part == "v":
            return y
        y = attn.q_norm(y) if part == "q" else attn.k_norm(y)
        return self.rotate(y, slice(n_pos - y.shape[-2], n_pos))

    def rotate(
        self, y: Float[Tensor, "*n pos d_head"], where: slice | Int[Tensor, "*m pos"]
    ) -> Float[Tensor, "*n pos d_head"]:
        """q or k with positions turned in, if the model has rotary ones: linear in y."""
        if self.cos is None or self.sin is None:
            return y
        size = self.cos.shape[1]
        turn, rest = y[..., :size], y[..., size:]
        half = torch.cat([-turn[..., size // 2 :], turn[..., : size // 2]], dim=-1)
        turned = turn * self.cos[where] + half * self.sin[where]
        return turned if size == y.shape[-1] else torch.cat([turned, rest], dim=-1)

    def pattern(
        self, layer: int, q: Float[Tensor, "*n query d_head"], k: Float[Tensor, "*m pos d_head"]
    ) -> Float[Tensor, "*k query pos"]:
        """Causal attention of the last `query` positions on all of them; rows sum to one."""
        n_query, n_pos = q.shape[-2], k.shape[-2]
        scores = (q @ k.transpose(-1, -2)) * self.blocks[layer].attn.scale
        if n_query > 1:
            later = torch.ones(n_query, n_pos, dtype=torch.bool, device=q.device)
            scores = scores.masked_fill(later.triu(n_pos - n_query + 1), float("-inf"))
        return scores.softmax(-1)

    def attention_out(
        self, layer: int, z: Float[Tensor, "head *n d_head"]
    ) -> Float[Tensor, "*n d_model"]:
        """What all heads of a layer and their bias add to the stream; z is before W_O."""
        attn = self.blocks[layer].attn
        out = z.movedim(0, -2).flatten(-2) @ attn.W_O.flatten(0, 1)
        return out if attn.b_O is None else out + attn.b_O

    def mlp_out(self, layer: int, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Output of the writer m{layer} for its reader's input (before the norm)."""
        mlp, norm = self.mlp(layer), self.blocks[layer].ln2
        if norm is None:
            raise ValueError(f"layer {layer} has no norm before its MLP")
        return mlp(norm(x))

    def unembed(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocab_out"]:
        """Logits from the input of the final norm."""
        return _linear(self.ln_final(x), self.W_U, self.b_U)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias


def _map(node: T, cast: Callable[[Tensor], Tensor]) -> T:
    """A copy of nested dataclasses and tuples with every tensor cast."""
    if isinstance(node, Tensor):
        return cast(node)  # type: ignore[return-value]
    if isinstance(node, tuple):
        return tuple(_map(item, cast) for item in node)  # type: ignore[return-value]
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{f.name: _map(getattr(node, f.name), cast) for f in fields(node)})
    return node
