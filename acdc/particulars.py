"""What families differ in, read off a Hugging Face module and its configuration.

Positions (rotary tables a layer, ALiBi), windows, sinks, multipliers, norms on q and k, experts.
acdc/bridge.py puts them into a Model and checks the whole against the module's own numbers; a
family whose particulars are unknown here fails there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.activations import ACT2FN

from acdc.model import Experts, Norm, Rotary

MOST_POSITIONS = 4096  # of which tables are made
# families whose rotary pairs are neighbours
INTERLEAVED = ("codegen", "cohere", "cohere2", "ernie4_5", "glm", "glm4", "gptj", "helium")
ACTIVATIONS = ("act_fn", "activation_fn", "act", "activation", "gelu_impl")  # what modules call it


def inner(module: Any) -> Any:
    """A module as it was before TransformerLens wrapped it."""
    return getattr(module, "original_component", module)


# ---- positions -----------------------------------------------------------------------------------


class Positions:
    """Rotary tables and ALiBi of a model, layer by layer; equal ones are one tensor."""

    def __init__(self, module: Any, config: Any, n_ctx: int, like: Tensor) -> None:
        self.module, self.config, self.like = module, config, like
        self.n = min(n_ctx, MOST_POSITIONS)
        self.tables = dict[str | None, Rotary]()
        self.bias = list[Tensor]()  # made once

    def rotary(self, layer: int, attn: Any) -> Rotary | None:
        """A layer's rotary table; None where it has no positions (SmolLM3).

        AttributeError if the model has no module that makes one.
        """
        if not getattr(inner(attn), "use_rope", True):
            return None
        kind = _kind(self.config, layer)
        if kind not in self.tables:
            own = getattr(inner(attn), "embed_positions", None)
            cos, sin = self._own(own) if own is not None else self._made(kind)
            self.tables[kind] = self._paired(cos[: self.n], sin[: self.n])
        return self.tables[kind]

    def _own(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """GPT-J keeps sines, then cosines, of each pair."""
        sin, cos = (t.to(self.like.device) for t in table.chunk(2, dim=-1))
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)

    def _made(self, kind: str | None) -> tuple[Tensor, Tensor]:
        """cos and sin as the model itself computes them, whatever its scaling."""
        found = [m for name, m in self.module.named_modules() if name.endswith("rotary_emb")]
        if not found:
            raise AttributeError("no rotary_emb module found")
        make, places = inner(found[0]), torch.arange(self.n, device=self.like.device)[None]
        kinds = "layer_type" in inspect.signature(make.forward).parameters
        cos, sin = make(self.like.new_zeros(1), places, *([kind] if kinds else []))
        return cos[0], sin[0]

    def _paired(self, cos: Tensor, sin: Tensor) -> Rotary:
        """A table of halves; of neighbours where the family turns these."""
        if self.config.model_type == "gpt_oss":  # gives one half
            cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        neighbours, half = self.config.model_type in INTERLEAVED, cos.shape[-1] // 2
        if neighbours and torch.equal(cos[:, :half], cos[:, half:]):
            cos, sin = (t[:, :half].repeat_interleave(2, -1) for t in (cos, sin))
        return Rotary(cos, sin, neighbours)

    def alibi(self, n_heads: int) -> Float[Tensor, "head ctx"]:
        """What ALiBi adds to a head's scores by the key's place, as the model computes it."""
        if not self.bias:
            own = sys.modules[type(self.module).__module__]
            if hasattr(own, "build_mpt_alibi_tensor"):
                made = own.build_mpt_alibi_tensor(n_heads, self.n)
            else:
                every = torch.ones(1, self.n, dtype=torch.long)
                made = own.build_alibi_tensor(every, n_heads, torch.float32)
            made = made.view(n_heads, self.n).to(self.like)
            self.bias.append(made - made[:, :1])  # attention does not see a shift
        return self.bias[0]


def _kind(config: Any, layer: int) -> str | None:
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    return kinds[layer] if kinds else None


def window(config: Any, layer: int, n_ctx: int) -> int | None:
    """How many tokens a layer's heads see, themselves included; None: all of the context.

    TypeError for a kind of attention that is neither full nor a sliding window.
    """
    kind = _kind(config, layer)
    if kind not in (None, "full_attention", "sliding_attention", "global", "local"):
        raise TypeError(f"attention of kind {kind!r} in layer {layer}")
    size = getattr(config, "window_size" if kind == "local" else "sliding_window", None)
    used = getattr(config, "use_sliding_window", True) is not False
    if kind in ("full_attention", "global") or not used or not size or size >= n_ctx:
        return None
    return int(size)


# ---- multipliers ---------------------------------------------------------------------------------


def embed_scale(embedding: Any, config: Any) -> float:
    """What token embeddings are multiplied by: Gemma's root of the width, Granite's multiplier."""
    own = getattr(inner(embedding), "scalar_embed_scale", 1.0)
    return float(own) * float(getattr(config, "embedding_multiplier", None) or 1.0)


def residual_scale(config: Any) -> float:
    """What heads and MLPs are multiplied by before they are added (Granite)."""
    return float(getattr(config, "residual_multiplier", None) or 1.0)


def logit_scale(config: Any) -> float:
    """What logits are multiplied by (Granite, Cohere)."""
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)
    return float(getattr(config, "logit_scale", None) or 1.0) / scaling


# ---- norms of q and k ----------------------------------------------------------------------------


def by_head(norm: Norm, heads: int, d_head: int) -> tuple[Norm, bool]:
    """A norm on q or k with a row of weights a head, and whether its scale is of all heads at once.

    One whose weight is shared by all heads stays as it is. TypeError for one that cannot be read.
    """
    weight = norm.weight
    if weight is None or weight.shape == (d_head,):
        return norm, False
    if weight.shape == (heads * d_head,) and norm.bias is None and norm.kind == "rms":
        return Norm(norm.kind, weight.view(heads, -1), None, norm.eps), True
    if weight.shape == (heads, d_head) and norm.bias is None:
        return norm, False
    raise TypeError("a norm on q and k of unknown form")


# ---- MLPs ----------------------------------------------------------------------------------------


def activation(mlp: Any, name: str) -> Callable[[Tensor], Tensor]:
    """The MLP's own non-linearity, else that of its configured name; AttributeError if unknown."""
    for attribute in ACTIVATIONS:
        own: Any = getattr(inner(mlp), attribute, None)
        if callable(own):
            return own  # type: ignore[return-value]
    if name not in ACT2FN:
        raise AttributeError(f"activation {name!r} is unknown")
    return ACT2FN[name]


def experts(mlp: Any, config: Any, scale: float) -> Experts:
    """A mixture of experts (Mixtral, Qwen3-MoE, OLMoE, gpt-oss).

    AttributeError or TypeError for another one; the check at load says whether it was read right.
    """
    block = inner(mlp)
    for name in ("shared_expert", "shared_experts", "shared_mlp"):
        if hasattr(block, name):
            raise TypeError("experts beside one that all tokens share")
    router = inner(block.router if hasattr(block, "router") else block.gate)
    own = inner(block.experts)
    up, down = own.gate_up_proj.detach(), own.down_proj.detach()
    down = down if scale == 1 else down * scale
    if config.model_type == "gpt_oss":  # gates and the other branch alternate
        b_up, b_out = own.gate_up_proj_bias.detach(), own.down_proj_bias.detach() * scale
        return Experts(
            router.weight.detach().T, router.bias.detach(), router.top_k, True,
            W_in=up[..., 1::2], b_in=b_up[..., 1::2], W_gate=up[..., ::2], b_gate=b_up[..., ::2],
            W_out=down, b_out=b_out, act=_Swish(float(own.alpha)), limit=float(own.limit),
        )  # fmt: skip
    gate, other = up.transpose(1, 2).chunk(2, dim=-1)
    return Experts(
        router.weight.detach().T, None, router.top_k, getattr(config, "norm_topk_prob", True),
        W_in=other, b_in=None, W_gate=gate, b_gate=None, W_out=down.transpose(1, 2),
        b_out=None, act=own.act_fn,
    )  # fmt: skip


class _Swish:
    """x times the sigmoid of alpha x."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.alpha * x)
