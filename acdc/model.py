"""A frozen view of a transformer: weights, and the few functions that a patched forward needs.

Everything that differs between families is data here: the norm's kind and place, biases or none,
learned positions, a rotary table a layer or ALiBi, windows, caps, sinks, grouped keys and values,
norms on q and k, a gated MLP or experts, parallel blocks. Decoders only: every head and MLP adds
its output to the residual stream, a head its share where a norm follows the sum of them. All
arithmetic is in the weights' own dtype (Hugging Face's RMSNorm is not), so a float64 view is
float64 throughout. Knows neither TransformerLens nor files; see acdc/bridge.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from acdc.graph import KV, Graph

Part = Literal["q", "k", "v"]
T = TypeVar("T")
COLUMNS = 4096  # columns of the unembedding at a time
HOST = torch.device("cpu")


@dataclass(frozen=True)
class Norm:
    """LayerNorm, RMSNorm or nothing, over the last axis."""

    kind: Literal["layer", "rms", "none"]
    weight: Float[Tensor, "*head d"] | None = None  # on q and k it may be each head's own
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
        self, part: Float[Tensor, "*n d"], whole: Float[Tensor, "*m whole"]
    ) -> Float[Tensor, "*n d"]:
        """What a summand of `whole` adds to the norm of it, the scale taken from `whole`.

        Shares of all summands and the bias add up to self(whole). Under RMS a part may also be some
        coordinates of the whole.
        """
        if self.kind == "none":
            return part
        if self.kind == "layer":
            part, whole = (x - x.mean(-1, keepdim=True) for x in (part, whole))
        share = part * (whole.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        return share if self.weight is None else share * self.weight


NO_NORM = Norm("none")


@dataclass(frozen=True)
class HeadsNorm:
    """The RMS norm that follows the sum of a layer's heads (Gemma 2 and 3, OLMo 2 and 3).

    A head adds its share to the stream: z W_O times the scale of the run that z is of. The norm's
    weight is in Attention.W_O already; here is what the scale is made of.
    """

    W_O: Float[Tensor, "head d_head d_model"]  # without the norm's weight
    eps: float
    frozen: bool = False  # the scale is a constant to gradients

    def scale(self, z: Float[Tensor, "head *n d_head"]) -> Float[Tensor, "*n 1"]:
        """1 / RMS of the sum of all heads; z is before W_O."""
        whole = z.movedim(0, -2).flatten(-2) @ self.W_O.flatten(0, 1)
        scale = (whole.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        return scale.detach() if self.frozen else scale


@dataclass(frozen=True)
class Rotary:
    """Positions turned into q and k; the first `rotary` of d_head turn."""

    cos: Float[Tensor, "ctx rotary"]
    sin: Float[Tensor, "ctx rotary"]
    interleaved: bool = False  # pairs are (0, 1), (2, 3) ... (GPT-J), not (i, i + rotary / 2)

    def __call__(
        self, y: Float[Tensor, "*n pos d_head"], where: slice | Int[Tensor, "*m pos"]
    ) -> Float[Tensor, "*n pos d_head"]:
        """q or k turned by its positions: linear in y."""
        size = self.cos.shape[1]
        turn, rest = y[..., :size], y[..., size:]
        if self.interleaved:
            half = torch.stack([-turn[..., 1::2], turn[..., ::2]], dim=-1).flatten(-2)
        else:
            half = torch.cat([-turn[..., size // 2 :], turn[..., : size // 2]], dim=-1)
        turned = (turn * self.cos[where] + half * self.sin[where]).to(y.dtype)  # OLMo's are float32
        return turned if size == y.shape[-1] else torch.cat([turned, rest], dim=-1)


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
    qk_whole: bool = False  # q_norm and k_norm: RMS over all heads together (OLMo 2)
    rotary: Rotary | None = None
    window: int | None = None  # a token sees itself and so many less one before it
    cap: float | None = None  # scores s become cap tanh(s / cap)
    key_bias: Float[Tensor, "head ctx"] | None = None  # added to scores, by the key's place: ALiBi
    sinks: Float[Tensor, " head"] | None = (
        None  # a score of no token: takes attention, adds nothing
    )
    norm: HeadsNorm | None = None  # after the sum of heads; its weight is in W_O


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

    @property
    def d_mlp(self) -> int:
        """Neurons."""
        return self.W_out.shape[0]


@dataclass(frozen=True)
class Experts:
    """A mixture of gated MLPs: each token goes through the `top_k` that its router weighs most.

    Weights are the softmax of the router over all experts, of the chosen ones alone if
    `renormalise` is set. With a `limit` (gpt-oss) gates are cut off above it, the other branch at
    both ends, and 1 is added to that.
    """

    W_router: Float[Tensor, "d_model expert"]
    b_router: Float[Tensor, " expert"] | None
    top_k: int
    renormalise: bool  # the weights of the chosen sum to one
    W_in: Float[Tensor, "expert d_model d_mlp"]
    b_in: Float[Tensor, "expert d_mlp"] | None
    W_gate: Float[Tensor, "expert d_model d_mlp"]
    b_gate: Float[Tensor, "expert d_mlp"] | None
    W_out: Float[Tensor, "expert d_mlp d_model"]
    b_out: Float[Tensor, "expert d_model"] | None
    act: Callable[[Tensor], Tensor]
    limit: float | None = None

    def __call__(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Output for the normalised input; an expert sees the tokens that chose it."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.route(flat)
        out = torch.zeros_like(flat)
        for expert in range(len(self.W_out)):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            if len(token):
                own = self.expert(expert, flat[token]) * weights[token, place][:, None]
                out = out.index_add(0, token, own)
        return out.view_as(x)

    def route(
        self, x: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token k"], Int[Tensor, "token k"]]:
        """Weights of each token's experts, and which they are."""
        logits = _linear(x, self.W_router, self.b_router)
        best, chosen = logits.topk(self.top_k)  # probabilities would tie where logits do not
        return best.softmax(-1) if self.renormalise else logits.softmax(-1).gather(
            -1, chosen
        ), chosen

    def expert(
        self, expert: int, x: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """What one expert makes of some tokens, unweighted."""
        b_in, b_gate, b_out = (
            None if b is None else b[expert] for b in (self.b_in, self.b_gate, self.b_out)
        )
        up, gate = _linear(x, self.W_in[expert], b_in), _linear(x, self.W_gate[expert], b_gate)
        if self.limit is not None:
            up, gate = up.clamp(-self.limit, self.limit) + 1, gate.clamp(max=self.limit)
        return _linear(self.act(gate) * up, self.W_out[expert], b_out)

    @property
    def d_mlp(self) -> int:
        """Neurons that a token meets."""
        return self.top_k * self.W_out.shape[1]


@dataclass(frozen=True)
class Block:
    """One layer. `ln2` and `mlp` are None in attention-only models."""

    ln1: Norm
    attn: Attention
    ln2: Norm | None
    mlp: MLP | Experts | None
    mlp_norm: Norm = NO_NORM  # after the MLP


@dataclass(frozen=True)
class Unembedding:
    """What the columns w of W_U have in common, and how far they go."""

    mean: Float[Tensor, " d_model"]
    longest: Float[Tensor, ""]  # |w| or |w - mean|, whichever is more, of all of them


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
    blocks: tuple[Block, ...]
    ln_final: Norm
    W_U: Float[Tensor, "d_model vocab_out"]
    b_U: Float[Tensor, " vocab_out"] | None
    logit_cap: float | None = None  # logits l become cap tanh(l / cap)
    ln_embed: Norm = NO_NORM  # of the embedding (BLOOM)
    padding: Int[Tensor, " batch"] | None = None  # columns before each prompt; see `padded`

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_E.shape[1]

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return self.W_E.shape[0]

    @cached_property
    def unembedding(self) -> Unembedding:
        """Made once."""
        mean, longest = self.W_U.mean(1), self.W_U.norm(dim=0).max()
        for block in self.W_U.split(COLUMNS, dim=1):
            longest = torch.maximum(longest, (block - mean[:, None]).norm(dim=0).max())
        return Unembedding(mean, longest)

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
            joint=any(b.attn.norm is not None for b in self.blocks),
        )

    def to(self, dtype: torch.dtype | None = None, device: Any = None) -> Model:
        """The same model with its floating-point tensors cast and moved."""
        done = dict[int, Tensor]()  # what layers share, they share afterwards

        def cast(tensor: Tensor) -> Tensor:
            return done.setdefault(id(tensor), tensor.to(device=device, dtype=dtype))

        return _map(self, cast)

    def offloaded(self, device: torch.device | str) -> Model:
        """On a device that is too small for it: MLPs' weights stay where they are.

        They are most of a large model, and each is wanted once in a pass: `mlp` brings it.
        """
        blocks = tuple(replace(b, mlp=None) for b in self.blocks)
        near = replace(self, blocks=blocks).to(device=device)
        pairs = zip(near.blocks, self.blocks, strict=True)
        return replace(near, blocks=tuple(replace(new, mlp=old.mlp) for new, old in pairs))

    def spread(self, devices: Sequence[torch.device]) -> Model:
        """Over several devices: MLPs' weights so that each has its part, all else on the first.

        The first has MLPs while its part lasts. Activations go to the weights (see `mlp_out`).
        """
        sizes = [_nbytes(block.mlp) for block in self.blocks]
        part = _nbytes(self) / len(devices)
        filled = _nbytes(self) - sum(sizes)  # what is no MLP
        blocks = list[Block]()
        for size, block in zip(sizes, self.offloaded(devices[0]).blocks, strict=True):
            there = devices[min(int(filled / part), len(devices) - 1)]
            blocks.append(replace(block, mlp=_map(block.mlp, lambda t, d=there: t.to(d))))
            filled += size
        return replace(self.offloaded(devices[0]), blocks=tuple(blocks))

    def mlp(self, layer: int) -> MLP | Experts:
        """A layer's MLP on the model's device; ValueError if it has none."""
        mlp = self.blocks[layer].mlp
        if mlp is None:
            raise ValueError(f"layer {layer} has no MLP")
        if mlp.W_out.device == self.device:
            return mlp
        return _map(mlp, lambda t: t.to(self.device))

    def padded(self, padding: Int[Tensor, " batch"] | None) -> Model:
        """The same model for a batch of prompts before which so many columns are none of theirs.

        No token looks there, and each prompt's positions are its own. What stands there is finite,
        and of no account. ALiBi knows distances only, so its places may be the columns.
        """
        if padding is self.padding:
            return self
        other = copy(self)  # what was made once stays
        object.__setattr__(other, "padding", padding)
        return other

    # ---- the pieces of a forward pass ------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Output of the writer `input`: token embedding plus learned positions, if any."""
        x = self.W_E[tokens if self.padding is None else tokens.clamp(min=0)] * self.embed_scale
        if self.W_pos is None:
            return self.ln_embed(x)
        return self.ln_embed(x + self.W_pos[self._where(x, tokens.shape[1])])

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
        A norm over all heads has the scale that it would have if all of them read this input.
        """
        block = self.blocks[layer]
        attn, name = block.attn, part.upper()
        weight, bias = getattr(attn, f"W_{name}")[heads], getattr(attn, f"b_{name}")
        normed = block.ln1(x)
        if isinstance(heads, int):
            y = _linear(normed, weight, None if bias is None else bias[heads])
        else:
            y = normed.flatten(1, -2) @ weight
            y = y if bias is None else y + bias[heads][:, None]
            y = y.unflatten(1, x.shape[1:-1])
        if part == "v":
            return y
        y = self.head_share(layer, part, heads, y, y, normed)
        return y if attn.rotary is None else self.rotate(layer, y, self._where(y, n_pos))

    def head_share(
        self,
        layer: int,
        part: Part,
        heads: int | list[int],
        y: Float[Tensor, "*n d_head"],
        own: Float[Tensor, "*m d_head"],
        normed: Float[Tensor, "*k d_model"],
    ) -> Float[Tensor, "*n d_head"]:
        """What a summand y of q or k adds to its norm: the scale is of the whole, `own`.

        `normed` is what `own` was projected from: a norm over all heads takes its scale from there.
        """
        attn, name = self.blocks[layer].attn, part.upper()
        norm = attn.q_norm if part == "q" else attn.k_norm
        if norm.weight is None or norm.weight.ndim == 1:
            return norm(y) if y is own else norm.share(y, own)
        whole = own
        if attn.qk_whole:
            weight, bias = getattr(attn, f"W_{name}"), getattr(attn, f"b_{name}")
            bias = None if bias is None else bias.flatten()
            whole = _linear(normed, weight.movedim(0, 1).flatten(1), bias)
        share = replace(norm, weight=None).share(y, whole)
        return share * _by_head(norm.weight, heads, share.ndim)

    def rotate(
        self, layer: int, y: Float[Tensor, "*n pos d_head"], where: slice | Int[Tensor, "*m pos"]
    ) -> Float[Tensor, "*n pos d_head"]:
        """q or k with positions turned in, if the layer has rotary ones: linear in y."""
        rotary = self.blocks[layer].attn.rotary
        return y if rotary is None else rotary(y, where)

    def scores(
        self,
        layer: int,
        heads: int | list[int],
        q: Float[Tensor, "*n query d_head"],
        k: Float[Tensor, "*m pos d_head"],
    ) -> Float[Tensor, "*k query pos"]:
        """Scores of the last `query` positions on all, -inf where they may not look.

        `heads` is one head, or a list that runs along the first axis.
        """
        attn, n_query, n_pos = self.blocks[layer].attn, q.shape[-2], k.shape[-2]
        scores = (q @ k.transpose(-1, -2)) * attn.scale
        if attn.cap is not None:
            scores = attn.cap * (scores / attn.cap).tanh()
        if attn.key_bias is not None:
            scores = scores + _by_head(attn.key_bias[:, :n_pos], heads, scores.ndim)
        far = attn.window is not None and attn.window < n_pos
        if n_query > 1 or far:
            back = torch.arange(n_pos - n_query, n_pos, device=q.device)[:, None]
            back = back - torch.arange(n_pos, device=q.device)  # how far the key lies behind
            hidden = (back < 0) | (back >= attn.window) if attn.window else back < 0
            scores = scores.masked_fill(hidden, float("-inf"))
        if self.padding is not None:
            scores = scores.masked_fill(self._before(scores), float("-inf"))
        return scores

    def _before(
        self, scores: Float[Tensor, "*k batch query pos"]
    ) -> Bool[Tensor, "batch query pos"]:
        """Where keys stand before a prompt. Padding sees itself alone."""
        n_query, n_pos = scores.shape[-2:]
        key = torch.arange(n_pos, device=scores.device)
        return (key < self._paddings(scores)[..., None]) & (key != key[n_pos - n_query :, None])

    def _where(self, y: Float[Tensor, "*n pos d"], n_pos: int) -> slice | Int[Tensor, "batch pos"]:
        """Positions of the last tokens of `n_pos`: of each prompt its own; 0 before it."""
        if self.padding is None:
            return slice(n_pos - y.shape[-2], n_pos)
        at = torch.arange(n_pos - y.shape[-2], n_pos, device=y.device)
        return (at - self._paddings(y)).clamp(min=0)

    def _paddings(self, y: Float[Tensor, "*n batch pos d"]) -> Int[Tensor, "batch 1"]:
        """A batch may come several times over, one after the other."""
        assert self.padding is not None
        times = y.shape[-3] // len(self.padding)
        return (self.padding if times == 1 else self.padding.repeat(times))[:, None]

    def attend(
        self,
        layer: int,
        heads: int | list[int],
        scores: Float[Tensor, "*k query pos"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*k query pos"]:
        """Attention from scores; rows sum to one, or to less where there are sinks."""
        sinks = self.blocks[layer].attn.sinks
        if sinks is None:
            return (scores / temperature if temperature != 1 else scores).softmax(-1)
        sink = _by_head(sinks[:, None], heads, scores.ndim).expand(*scores.shape[:-1], 1)
        return (torch.cat([scores, sink], -1) / temperature).softmax(-1)[..., :-1]

    def pattern(
        self,
        layer: int,
        heads: int | list[int],
        q: Float[Tensor, "*n query d_head"],
        k: Float[Tensor, "*m pos d_head"],
    ) -> Float[Tensor, "*k query pos"]:
        """Causal attention of the last `query` positions on all of them; see `scores`, `attend`."""
        return self.attend(layer, heads, self.scores(layer, heads, q, k))

    def shared_out(
        self, layer: int, z: Float[Tensor, "head *n d_head"]
    ) -> Float[Tensor, "head *n d_head"]:
        """z of all heads of a layer as they add to the stream: their shares in the norm of the sum.

        The same z where no norm follows. What is written is this, times W_O.
        """
        norm = self.blocks[layer].attn.norm
        return z if norm is None else z * norm.scale(z)

    def attention_out(
        self, layer: int, z: Float[Tensor, "head *n d_head"]
    ) -> Float[Tensor, "*n d_model"]:
        """What all heads of a layer and their bias add to the stream; z as `shared_out` has it."""
        attn = self.blocks[layer].attn
        out = z.movedim(0, -2).flatten(-2) @ attn.W_O.flatten(0, 1)
        return out if attn.b_O is None else out + attn.b_O

    def mlp_out(self, layer: int, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Output of the writer m{layer} for its reader's input (before the norm).

        Weights in the host's memory come to a card; to another card the activations go.
        """
        block, own = self.blocks[layer], self.blocks[layer].mlp
        if block.ln2 is None:
            raise ValueError(f"layer {layer} has no MLP")
        y = block.ln2(x)
        if own is None or own.W_out.device in (self.device, HOST):
            return block.mlp_norm(self.mlp(layer)(y))
        return block.mlp_norm(own(y.to(own.W_out.device)).to(self.device))

    def neurons(self, layer: int, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_mlp"]:
        """What W_out's rows are of, for its reader's input; ValueError for experts."""
        block, mlp = self.blocks[layer], self.mlp(layer)
        if block.ln2 is None or isinstance(mlp, Experts):
            raise ValueError(f"layer {layer} has no neurons that all tokens meet")
        return mlp.hidden(block.ln2(x))

    def unembed(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocab_out"]:
        """Logits from the input of the final norm."""
        return self.capped(self.logits(self.ln_final(x)))

    def logits(self, y: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocab_out"]:
        """Logits before a cap, from what the unembedding sees.

        Columns of W_U lie together in memory (they are rows of the head's weights), so for the few
        rows that are asked for the product is quicker from their side.
        """
        z = (self.W_U.T @ y.flatten(0, -2).T).T.contiguous().unflatten(0, y.shape[:-1])
        return z if self.b_U is None else z + self.b_U

    def capped(self, logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Logits as the model gives them, from those before its cap, if it has one."""
        cap = self.logit_cap
        return logits if cap is None else cap * (logits / cap).tanh()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias


def _by_head(
    table: Float[Tensor, "head last"], heads: int | list[int], ndim: int
) -> Float[Tensor, "*n last"]:
    """Rows of some heads, shaped to go with tensors of `ndim` axes, the first of them the heads."""
    rows = table[heads]
    return rows if isinstance(heads, int) else rows.view(len(heads), *[1] * (ndim - 2), -1)


def _nbytes(node: object) -> int:
    """Of all tensors in nested dataclasses and tuples."""
    sizes = list[int]()

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    _map(node, count)
    return sum(sizes)


def _map(node: T, cast: Callable[[Tensor], Tensor]) -> T:
    """A copy of nested dataclasses and tuples with every tensor cast."""
    if isinstance(node, Tensor):
        return cast(node)  # type: ignore[return-value]
    if isinstance(node, tuple):
        return tuple(_map(item, cast) for item in node)  # type: ignore[return-value]
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{f.name: _map(getattr(node, f.name), cast) for f in fields(node)})
    return node
