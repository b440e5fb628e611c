"""Where the log-sum-exp of a run must lie, from a run near it that was read out; or its divergence.

With z = y W the logits of the normed input y, q = softmax(z) at the reference, dy and x = dy W the
changes from there (the mean column c of W taken off, which shifts all logits alike),

    lse(z + dz) = lse(z) + dy c + log(sum over the head q exp(x) + sum over the tail q exp(x))

The head, the tokens that are likeliest on some prompt, is summed exactly. Of the tail, with mass e
and first moment m = sum q x (one vector a prompt gives it),

    e + m  <=  sum over the tail q exp(x)  <=  e + m + phi(R) Q

since exp(x) is at least 1 + x and, as phi(R) = (exp(R) - 1 - R) / R^2 rises, at most
1 + x + phi(R) x^2 for all x <= R, which |dy| times the largest column of the tail bounds; and
Q = r dy (sum over the tail l w w') dy bounds the sum of q x^2, where l says how likely each token
is taken to be, and r how much likelier than that one of the tail is at the reference.

KL(run || p) is a + N / D - log D, where D = sum q exp(x), N = sum q exp(x) (g + x), and g = log q
- log p - a. Of the tail D is as above, and by Taylor's theorem exp(x) (g + x) is g + (g + 1) x and
x^2 ((g + 2) phi(x) + x psi(x)), psi(x) = (exp(x) (x - 2) + x + 2) / x^3: phi and psi are the
integrals of (1 - t) exp(tx) and (1 - t) t exp(tx) over t from 0 to 1. So N lies between sums of q
(g + (g + 1) x) less phi(R) Q- + R psi(R) Q and more phi(R) Q+ + R psi(R) Q, Q+ as Q with q max(0,
g + 2) for q, Q- with q max(0, -g - 2). Between such ends N / D - log D is least at an end of D, and
largest at one or at D = -N. With a = 1 + the reference's own divergence that is where D = 1: to
first order D does not matter.

To both comes rounding, see `Reference.rounding`.
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
GAP = "gap_"  # before the names of what is saved of one


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

    def moment(
        self, weights: Float[Tensor, "prompts vocab_out"]
    ) -> Float[Tensor, "prompts d_model"]:
        """Sum of weights times columns, the mean column taken off."""
        model = self.model
        return weights @ model.W_U.T - weights.sum(-1)[:, None] * model.unembedding.mean


@dataclass(frozen=True, eq=False)
class Gap:
    """What the divergence from p needs of a reference: a and g = log q - log p - a, see above."""

    shift: Float[Tensor, " prompts"]  # a
    head: Float[Tensor, "prompts head"]  # g
    tail: Float[Tensor, " prompts"]  # sum of q g
    moment: Float[Tensor, "prompts d_model"]  # sum of q (g + 1) times the columns
    above: Float[Tensor, " prompts"]  # as Reference.ratio, of q max(0, g + 2)
    below: Float[Tensor, " prompts"]  # and of q max(0, -g - 2)

    @classmethod
    def of(cls, split: Split, run: Logits, rest: Tensor, log_p: Tensor) -> Gap:
        """`rest` are the probabilities, 0 for the head."""
        g = run.z - run.total[:, None] - log_p
        shift = 1 + (run.q * g).sum(-1)
        g = g - shift[:, None]
        weights = rest * (g + 1)
        curved = rest * (g + 2) / split.likely
        ratios = curved.amax(-1).clamp_min(0), (-curved).amax(-1).clamp_min(0)
        return cls(shift, g[:, split.head], (rest * g).sum(-1), split.moment(weights), *ratios)


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
    gap: Gap | None = None  # where the divergence from p is asked for

    @classmethod
    def of(cls, split: Split, run: Logits, log_p: Tensor | None = None) -> Reference:
        """Intervals begin here; where the split has become wrong, with another.

        They are of KL(run || p) if p is given, else of the log-sum-exp.
        """
        likely = run.q.amax(0)
        if float((likely / split.likely).index_fill_(0, split.head, 0.0).max()) > STALE:
            split = Split.of(split.model, torch.maximum(split.likely, likely))
        rest = run.q.index_fill(1, split.head, 0.0)
        ratio = (rest / split.likely).amax(-1)
        gap = None if log_p is None else Gap.of(split, run, rest, log_p)
        head = run.q[:, split.head]
        moment = split.moment(rest)
        return cls(split, run.y, run.total, head, rest.sum(-1), moment, ratio, gap)

    def tensors(self) -> dict[str, Tensor]:
        """All but the model."""
        own = {n: getattr(self, n) for n in _names(Reference) if n not in ("split", "gap")}
        gap = {} if self.gap is None else {f"{GAP}{n}": getattr(self.gap, n) for n in _names(Gap)}
        return {**own, **gap, "likely": self.split.likely}

    @classmethod
    def from_tensors(cls, model: Model, likely: Tensor, **own: Tensor) -> Reference:
        """The inverse of `tensors`."""
        gap = {n.removeprefix(GAP): own.pop(n) for n in list(own) if n.startswith(GAP)}
        return cls(Split(model, likely), **own, gap=Gap(**gap) if gap else None)

    @cached_property
    def rounding(self) -> Float[Tensor, " prompts"]:
        """How far a log-sum-exp may be off by rounding alone, however it was made.

        A sum of d products rounds by less than sqrt(d) units of |y| |w| in all likelihood (Higham
        and Mary 2019), a log-sum-exp by no more than its logits. So much off in every logit, a
        divergence D from p moves by at most E|log q/p - D| <= 2 D + 2 times as much, since
        E max(0, log p/q) is at most 1.
        """
        model = self.split.model
        unit = torch.finfo(self.y.dtype).eps * math.sqrt(model.d_model)
        return unit * self.y.norm(dim=-1) * model.unembedding.longest

    def between(
        self, y: Float[Tensor, "n prompts d_model"]
    ) -> tuple[Float[Tensor, "n prompts"], Float[Tensor, "n prompts"]]:
        """Least and most of each variant's log-sum-exp, or divergence, rounding included."""
        dy, whole = y - self.y, self.split.model.unembedding
        x = dy @ self.split.columns
        mass = self.q * x.exp()
        head, form = mass.sum(-1), ((dy @ self.split.gram) * dy).sum(-1).clamp_min(0)
        low = (self.tail + (dy * self.moment).sum(-1)).clamp_min(0)
        reach = SAFE * dy.norm(dim=-1) * whole.longest
        high = low + SAFE**2 * self.ratio * _phi(reach) * form
        high = torch.maximum(torch.minimum(high, self.tail * reach.exp()), low)
        if self.gap is not None:
            middle = (mass * (self.gap.head + x)).sum(-1) + self.gap.tail
            middle = middle + (dy * self.gap.moment).sum(-1)
            phi, third = _phi(reach), self.ratio * reach * _psi(reach)
            below = middle - SAFE**2 * (self.gap.below * phi + third) * form
            above = middle + SAFE**2 * (self.gap.above * phi + third) * form
            ends = _divergence(below, above, head + low, head + high)
            least, most = (self.gap.shift + end for end in ends)
            off = self.rounding * (2 * most.clamp_min(0) + 2)
            return least.clamp_min(0) - off, most + off
        shift = self.total + dy @ whole.mean
        return (
            shift + (head + low).log() - self.rounding,
            shift + (head + high).log() + self.rounding,
        )


def _divergence(below: Tensor, above: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of N / D - log D, N from `below` to `above`, D from `least` to `most`."""

    def value(n: Tensor, d: Tensor) -> Tensor:
        return n / d - d.log()

    low = torch.minimum(value(below, least), value(below, most))
    ends = torch.maximum(value(above, least), value(above, most))
    high = torch.maximum(ends, value(above, (-above).clamp(least, most)))
    return low.nan_to_num(nan=-math.inf), high.nan_to_num(nan=math.inf)


def _names(of: type) -> list[str]:
    return [f.name for f in fields(of)]


def _phi(x: Tensor) -> Tensor:
    """(exp(x) - 1 - x) / x^2, and 1/2 + x/6 where that would be rounding alone."""
    small = x < 1e-2
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 0.5 + x / 6 + x.square(), (safe.expm1() - safe) / safe.square())


def _psi(x: Tensor) -> Tensor:
    """(exp(x) (x - 2) + x + 2) / x^3; below 1, where that would be rounding, no less than it."""
    small = x < 1
    safe = torch.where(small, torch.ones_like(x), x)
    terms = 1 / 6 + x * (1 / 12 + x * (1 / 40 + x * (1 / 180 + x * (1 / 1008 + x / 6000))))
    return torch.where(small, terms, (safe.exp() * (safe - 2) + safe + 2) / safe**3)
