"""Where the log-sum-exp of a run must lie, from a run near it that was read out.

With z = y W the logits of the normed input y, q = softmax(z) at the reference, dy and x = dy W the
changes from there (the mean column c of W taken off, which shifts all logits alike),

    lse(z + dz) = lse(z) + dy c + log(sum over the head q exp(x) + sum over the tail q exp(x))

The head, the tokens that are likeliest on some prompt, is summed exactly. Of the tail, with mass e
and first moment m = sum q x (one vector a prompt gives it),

    e + m  <=  sum over the tail q exp(x)  <=  e + m + phi(R) Q

since exp(x) is at least 1 + x and, as phi(R) = (exp(R) - 1 - R) / R^2 rises, at most
1 + x + phi(R) x^2 for all x <= R, which |dy| times the largest column of the tail bounds; and
Q = r dy (sum over the tail l w w') dy bounds the sum of q x^2, where l says how likely each token
is taken to be, and r how much likelier than that one of the tail is at the reference. To this
comes rounding, see `Reference.rounding`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.model import Model

HEAD = 1024  # tokens of the head
LEAST = 0.1  # over the vocabulary's size: what every token's probability is taken to reach
STALE = 16.0  # times likelier than was expected that a token of the tail may be
BLOCK = 4096  # columns of the unembedding at a time
SAFE = 1.001  # a bound is made so much wider, for what its own sums round


@dataclass(frozen=True, eq=False)
class Logits:
    """One variant, read out in full."""

    y: Float[Tensor, "prompts d_model"]  # what the unembedding saw
    z: Float[Tensor, "prompts vocab_out"]
    total: Float[Tensor, " prompts"]  # log-sum-exp of z

    @cached_property
    def q(self) -> Float[Tensor, "prompts vocab_out"]:
        """Probabilities."""
        return (self.z - self.total[:, None]).exp_()


@dataclass(frozen=True, eq=False)
class Split:
    """The vocabulary in two: a head, gone through token by token, and a tail, bounded as one."""

    model: Model
    likely: Float[Tensor, " vocab_out"]  # how likely each token is taken to be on any prompt

    @classmethod
    def of(cls, model: Model, likely: Float[Tensor, " vocab_out"]) -> Split:
        """By the largest probability of each token that was seen; none is quite impossible."""
        return cls(model, likely.clamp_min(LEAST / len(likely)))

    @cached_property
    def head(self) -> Int[Tensor, " head"]:
        """Its tokens."""
        return self.likely.topk(min(HEAD, len(self.likely) - 1)).indices

    @cached_property
    def columns(self) -> Float[Tensor, "d_model head"]:
        """Of the head, the mean column taken off."""
        return self.model.W_U[:, self.head] - self.model.unembedding.mean[:, None]

    @cached_property
    def gram(self) -> Float[Tensor, "d_model d_model"]:
        """Sum over the tail of l (w - mean)(w - mean)'. Costs about a forward pass."""
        model, tail = self.model, self.likely.index_fill(0, self.head, 0.0)
        gram = model.W_U.new_zeros(model.d_model, model.d_model)
        for w, weights in zip(model.W_U.split(BLOCK, 1), tail.split(BLOCK), strict=True):
            root = (w - model.unembedding.mean[:, None]) * weights.sqrt()
            gram += root @ root.T
        return gram


@dataclass(frozen=True, eq=False)
class Reference:
    """A run that was read out, prompt by prompt, and intervals for runs near it."""

    split: Split
    y: Float[Tensor, "prompts d_model"]
    total: Float[Tensor, " prompts"]
    q: Float[Tensor, "prompts head"]
    tail: Float[Tensor, " prompts"]  # mass of all other tokens
    moment: Float[Tensor, "prompts d_model"]  # and the sum of their q times their columns
    ratio: Float[Tensor, " prompts"]  # how much likelier one of them is than the split says

    @classmethod
    def of(cls, split: Split, run: Logits) -> Reference:
        """Intervals begin here; where the split has become wrong, with another."""
        likely = run.q.amax(0)
        if float((likely / split.likely).index_fill_(0, split.head, 0.0).max()) > STALE:
            split = Split.of(split.model, torch.maximum(split.likely, likely))
        rest, model = run.q.index_fill(1, split.head, 0.0), split.model
        moment = rest @ model.W_U.T - rest.sum(-1)[:, None] * model.unembedding.mean
        ratio = (rest / split.likely).amax(-1)
        return cls(split, run.y, run.total, run.q[:, split.head], rest.sum(-1), moment, ratio)

    def tensors(self) -> dict[str, Tensor]:
        """All but the model."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "split"}
        return {**own, "likely": self.split.likely}

    @classmethod
    def from_tensors(cls, model: Model, likely: Tensor, **own: Tensor) -> Reference:
        """The inverse of `tensors`."""
        return cls(Split(model, likely), **own)

    @cached_property
    def rounding(self) -> Float[Tensor, " prompts"]:
        """How far a log-sum-exp may be off by rounding alone, however it was made.

        A sum of d products rounds by less than sqrt(d) units of |y| |w| in all likelihood (Higham
        and Mary 2019), a log-sum-exp by no more than its logits.
        """
        model = self.split.model
        unit = torch.finfo(self.y.dtype).eps * math.sqrt(model.d_model)
        return unit * self.y.norm(dim=-1) * model.unembedding.longest

    def logsumexp(
        self, y: Float[Tensor, "n prompts d_model"]
    ) -> tuple[Float[Tensor, "n prompts"], Float[Tensor, "n prompts"]]:
        """Least and most of each variant's, rounding included."""
        dy, whole = y - self.y, self.split.model.unembedding
        head = (self.q * (dy @ self.split.columns).exp_()).sum(-1)
        squares = SAFE * self.ratio * ((dy @ self.split.gram) * dy).sum(-1)
        low = (self.tail + (dy * self.moment).sum(-1)).clamp_min(0)
        reach = SAFE * dy.norm(dim=-1) * whole.longest
        high = low + SAFE * _phi(reach) * squares.clamp_min(0)
        high = torch.maximum(torch.minimum(high, self.tail * reach.exp()), low)
        shift = self.total + dy @ whole.mean
        return (
            shift + (head + low).log() - self.rounding,
            shift + (head + high).log() + self.rounding,
        )


def _phi(x: Tensor) -> Tensor:
    """(exp(x) - 1 - x) / x^2, and 1/2 + x/6 where that would be rounding alone."""
    small = x < 1e-2
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 0.5 + x / 6 + x.square(), (safe.expm1() - safe) / safe.square())
