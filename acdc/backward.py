"""Rules that stand in for the gradient: the same values, another way back.

A gradient at one point says little where norms, softmax and activations saturate. These rules
change what backward returns, never a value, and cost one backward pass as the gradient does:

    gim   the scale of every norm is a constant; attention's softmax is differentiated at
          temperature 2, without the factor 1/2; gradients at q and k count 1/4, at v and at both
          branches of a gated MLP 1/2 (Edin et al. 2025, arXiv 2505.17630, and gim-explain 0.1.4)
    relp  the scale of every norm is a constant; act(x) is x times the constant act(x)/x; the
          product in a gated MLP counts 1/2; attention is differentiated exactly (arXiv 2508.21258,
          its default rules)

LayerNorm's subtraction of the mean is differentiated in both. Every rule is a stand-in: one
expression gives the value, another, differentiated in its place, the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from acdc.model import MLP, Block, Experts, Model, Norm, Part


@dataclass(frozen=True)
class Backward:
    """What is taken for the gradient. The defaults are the gradient itself."""

    freeze_norms: bool = False  # the scale is a constant: of block norms, the last, on q and k
    temperature: float = 1.0  # p(g - <g, p>) with p = softmax(scores / temperature)
    query_key: float = 1.0  # factor of the gradients at q and at k
    value: float = 1.0  # at v
    gated: float = 1.0  # at both branches of a gated MLP
    proportional: bool = False  # act(x) is differentiated as x times the constant act(x)/x

    def of(self, model: Model) -> Model:
        """The same model with these rules; all values are equal to the bit.

        ValueError if it has rules already.
        """
        if isinstance(model, _Ruled):
            raise ValueError(f"model {model.name!r} has rules for its gradients already")
        own = {field.name: getattr(model, field.name) for field in fields(model)}
        own["blocks"] = tuple(self._block(block) for block in model.blocks)
        own["ln_final"] = self._norm(model.ln_final)
        return _Ruled(**own, rules=self)

    def _block(self, block: Block) -> Block:
        attn, norm, after = block.attn, self._norm, block.attn.norm
        if after is not None:
            after = replace(after, frozen=self.freeze_norms)
        return Block(
            ln1=norm(block.ln1),
            attn=replace(attn, q_norm=norm(attn.q_norm), k_norm=norm(attn.k_norm), norm=after),
            ln2=None if block.ln2 is None else norm(block.ln2),
            mlp=None if block.mlp is None else self._mlp(block.mlp),
            mlp_norm=norm(block.mlp_norm),
        )

    def _norm(self, norm: Norm) -> Norm:
        if not self.freeze_norms or norm.kind == "none":
            return norm
        return FrozenNorm(norm.kind, norm.weight, norm.bias, norm.eps)

    def _mlp(self, mlp: MLP | Experts) -> MLP | Experts:
        if not self.proportional:
            return mlp
        return replace(mlp, act=partial(_proportional, mlp.act, _slope_at_zero(mlp.act)))


EXACT = Backward()
BACKWARD: dict[str, Backward] = {
    "exact": EXACT,
    "gim": Backward(freeze_norms=True, temperature=2.0, query_key=1 / 4, value=1 / 2, gated=1 / 2),
    "relp": Backward(freeze_norms=True, gated=1 / 2, proportional=True),
}


class FrozenNorm(Norm):
    """A norm whose scale is a constant to gradients."""

    def __call__(self, x: Tensor) -> Tensor:
        """See Norm."""
        return _stand_in(super().__call__(x), lambda: self.share(x, x))

    def share(self, part: Tensor, whole: Tensor) -> Tensor:
        """See Norm."""
        return super().share(part, whole.detach())


@dataclass(frozen=True)
class _Ruled(Model):
    """A model under rules; those of norms and activations are in its blocks.

    Backward is linear: a factor on all ways through a part may as well stand at the part's end.
    """

    rules: Backward = EXACT

    def project(
        self, layer: int, part: Part, heads: int | list[int], x: Tensor, n_pos: int
    ) -> Tensor:
        """See Model.project."""
        y = super().project(layer, part, heads, x, n_pos)
        return _scaled(y, self.rules.value if part == "v" else self.rules.query_key)

    def attend(
        self, layer: int, heads: int | list[int], scores: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """See Model.attend."""
        value, t = super().attend(layer, heads, scores, temperature), self.rules.temperature
        if t == 1:
            return value
        softer = super().attend
        return _stand_in(value, lambda: t * softer(layer, heads, scores, t * temperature))

    def mlp_out(self, layer: int, x: Tensor) -> Tensor:
        """See Model.mlp_out."""
        out, mlp = super().mlp_out(layer, x), self.blocks[layer].mlp
        return out if mlp is None or mlp.W_gate is None else _scaled(out, self.rules.gated)

    def neurons(self, layer: int, x: Tensor) -> Tensor:
        """See Model.neurons."""
        hidden, mlp = super().neurons(layer, x), self.blocks[layer].mlp
        return hidden if mlp is None or mlp.W_gate is None else _scaled(hidden, self.rules.gated)


# ---- stand-ins -----------------------------------------------------------------------------------


class _StandIn(torch.autograd.Function):
    """The first argument, with the gradient passed on to the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def _stand_in(value: Tensor, expression: Callable[[], Tensor]) -> Tensor:
    """The value, with the gradient of an expression, which is computed if gradients are asked."""
    return _StandIn.apply(value.detach(), expression()) if torch.is_grad_enabled() else value


def _scaled(value: Tensor, factor: float) -> Tensor:
    """The value, with the gradient times a factor."""
    return value if factor == 1 else _stand_in(value, lambda: factor * value)


def _proportional(act: Callable[[Tensor], Tensor], slope: float, x: Tensor) -> Tensor:
    """act(x), with the gradient act(x)/x; `slope`, its limit, where x is 0."""
    with torch.no_grad():
        value = act(x)
        ratio = torch.where(x == 0, slope, value / x)
    return _stand_in(value, lambda: ratio * x)


def _slope_at_zero(act: Callable[[Tensor], Tensor]) -> float:
    with torch.inference_mode(False), torch.enable_grad():
        zero = torch.zeros((), requires_grad=True)
        return torch.autograd.grad(act(zero), zero)[0].item()
