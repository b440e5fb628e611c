"""What a circuit is measured by: functions of next-token logits at the answer position.

| name       | unit        | value                                            | searched for |
|------------|-------------|--------------------------------------------------|--------------|
| kl         | nats        | KL(clean model || circuit) over the vocabulary   | low          |
| kl_reverse | nats        | KL(circuit || clean model) over the vocabulary   | low          |
| js         | nats        | Jensen-Shannon divergence, at most ln 2          | low          |
| logit_diff | logits      | mean logit of the answers - mean of the wrong    | high         |
| prob_diff  | probability | sum p(answers) - sum p(wrong)                    | high         |
| nll        | nats        | -log sum p(answers)                              | low          |

A metric is any function of logits and prompts, one number a prompt; the search needs no more. Many
are functions of three things only: one linear read-out of the logits, the log-sum-exp over the
vocabulary, and the logits of a few named tokens. Those may say so (`Readouts`), and the search then
pays for the vocabulary only where it must. In the place of the log-sum-exp may stand KL(circuit ||
model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.errors import InputError
from acdc.prompts import Prompts

Need = Literal["answers", "wrong"]
Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
# (linear read-out, least and most of the vocabulary's, logits) -> least and most of the value
Between = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Readouts:
    """value = combine(linear read-out, logsumexp, logits of `tokens`), each per prompt."""

    direction: Float[Tensor, "batch vocab"] | None  # the linear read-out of the logits
    needs_vocabulary: bool  # whether logsumexp and `tokens` are read at all
    tokens: Int[Tensor, "batch few"] | None
    combine: Combine
    between: Between | None = None  # without it every value has to be read out
    # log-probabilities p: what is read of the vocabulary is KL(run || p) instead of the logsumexp
    log_p: Float[Tensor, "batch vocab"] | None = None

    def of_logits(self, logits: Float[Tensor, "*n batch vocab"]) -> Float[Tensor, "*n batch"]:
        """The plain form."""
        zero = logits.new_zeros(logits.shape[:-1])
        linear = zero if self.direction is None else (logits * self.direction).sum(-1)
        total = of_vocabulary(logits, self.log_p) if self.needs_vocabulary else zero
        few = logits[..., :0]
        if self.tokens is not None:
            few = logits.gather(-1, self.tokens.expand(*logits.shape[:-1], -1))
        return self.combine(linear, total, few)


def of_vocabulary(
    logits: Float[Tensor, "*n batch vocab"], log_p: Float[Tensor, "batch vocab"] | None
) -> Float[Tensor, "*n batch"]:
    """The log-sum-exp, or KL(run || p) where log-probabilities p are given; nats."""
    return logits.logsumexp(-1) if log_p is None else _divergence(logits.log_softmax(-1), log_p)


@dataclass(frozen=True)
class Metric:
    """A measure, not yet bound to prompts.

    Give `value`, or `readouts` instead where the metric has that form.
    """

    name: str
    unit: str
    lower_is_better: bool
    # (logits [*n, batch, vocab], prompts, clean model's logits [batch, vocab]) -> [*n, batch]
    value: Callable[[Tensor, Prompts, Tensor], Tensor] | None = None
    readouts: Callable[[Prompts, Tensor], Readouts] | None = None
    needs: tuple[Need, ...] = ()  # what every prompt must name
    flat_at_clean: bool = False  # zero, with zero gradient, at the clean run: no use to EAP

    def __post_init__(self) -> None:
        if (self.value is None) == (self.readouts is None):
            raise InputError(f"metric {self.name!r}: give exactly one of value and readouts")

    @property
    def sign(self) -> int:
        """+1 if lower is better, else -1: `sign * value` is what a search minimises."""
        return 1 if self.lower_is_better else -1

    def check(self, prompts: Prompts) -> None:
        """Raise InputError unless the prompts name the answers that it needs."""
        have = {"answers": prompts.has_answers, "wrong": prompts.has_wrong}
        for need in self.needs:
            if not have[need]:
                raise InputError(
                    f"metric={self.name} needs `{need}` on every prompt, which this task does not"
                    " give; metric=kl needs none"
                )

    def bind(self, prompts: Prompts, clean_logits: Float[Tensor, "batch vocab"]) -> Bound:
        """The metric of these prompts; `clean_logits` are the model's. InputError as `check`."""
        self.check(prompts)
        return Bound(self, prompts, clean_logits)


@dataclass(frozen=True, eq=False)
class Bound:
    """A metric of one batch of prompts."""

    metric: Metric
    prompts: Prompts
    clean_logits: Float[Tensor, "batch vocab"]

    @cached_property
    def readouts(self) -> Readouts | None:
        """The fast form, if there is one."""
        make = self.metric.readouts
        with torch.inference_mode(False), torch.no_grad():  # gradients may have to pass them later
            return None if make is None else make(self.prompts, self.clean_logits)

    @property
    def sign(self) -> int:
        """As Metric.sign."""
        return self.metric.sign

    def of_logits(self, logits: Float[Tensor, "*n batch vocab"]) -> Float[Tensor, "*n batch"]:
        """Value per prompt, in the metric's unit."""
        if self.readouts is not None:
            return self.readouts.of_logits(logits)
        assert self.metric.value is not None  # a metric has one of the two
        values = self.metric.value(logits, self.prompts, self.clean_logits)
        if values.shape != logits.shape[:-1]:
            raise InputError(
                f"metric={self.metric.name}: its value has shape {tuple(values.shape)} for logits"
                f" {tuple(logits.shape)}; wanted is one number a prompt,"
                f" {tuple(logits.shape[:-1])}"
            )
        return values

    @cached_property
    def clean_values(self) -> Float[Tensor, " batch"]:
        """The model's own, per prompt."""
        with torch.inference_mode(False), torch.no_grad():
            return self.of_logits(self.clean_logits)

    def error(self, logits: Float[Tensor, "*n batch vocab"]) -> Float[Tensor, "*n batch"]:
        """How far from the model, per prompt: two-sided, in the metric's unit, 0 at the model.

        A divergence is its own error; of any other metric it is |value - the model's|.
        """
        values = self.of_logits(logits)
        return values if self.metric.flat_at_clean else (values - self.clean_values).abs()


@cache
def two_sided(metric: Metric) -> Metric:
    """The metric's error (Bound.error) as a metric: lower is better, 0 at the model.

    A divergence is itself. A search by it keeps what overshoots as little as what falls short.
    """
    if metric.flat_at_clean:
        return metric
    name, plain = f"{metric.name}_error", metric.value

    def readouts(prompts: Prompts, clean_logits: Tensor) -> Readouts:
        assert metric.readouts is not None  # used only then
        own = metric.readouts(prompts, clean_logits)
        clean = own.of_logits(clean_logits)

        def between(*parts: Tensor) -> tuple[Tensor, Tensor]:
            assert own.between is not None  # used only then
            low, high = own.between(*parts)
            below, above = low - clean, high - clean
            return torch.maximum(below, -above).clamp_min(0), torch.maximum(-below, above)

        return replace(
            own, combine=lambda *parts: (own.combine(*parts) - clean).abs(),
            between=None if own.between is None else between,
        )  # fmt: skip

    def value(logits: Tensor, prompts: Prompts, clean_logits: Tensor) -> Tensor:
        assert plain is not None  # used only then
        clean = plain(clean_logits, prompts, clean_logits)
        return (plain(logits, prompts, clean_logits) - clean).abs()

    fast = metric.readouts is not None
    return Metric(
        name, metric.unit, True, None if fast else value, readouts if fast else None, metric.needs,
        flat_at_clean=True,
    )  # fmt: skip


# ---- divergences from the clean model ------------------------------------------------------------


def _kl(prompts: Prompts, clean_logits: Tensor) -> Readouts:
    log_p = clean_logits.log_softmax(-1)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(-1)

    def combine(linear: Tensor, total: Tensor, few: Tensor) -> Tensor:
        return negative_entropy - linear + total

    return Readouts(p, True, None, combine, _rising(combine))


def _rising(combine: Combine) -> Between:
    """Least and most of what rises with what is read of the vocabulary."""
    return lambda linear, low, high, few: (combine(linear, low, few), combine(linear, high, few))


def _kl_reverse(prompts: Prompts, clean_logits: Tensor) -> Readouts:
    def combine(linear: Tensor, total: Tensor, few: Tensor) -> Tensor:
        return total

    return Readouts(None, True, None, combine, _rising(combine), clean_logits.log_softmax(-1))


def _js(logits: Tensor, prompts: Prompts, clean_logits: Tensor) -> Tensor:
    log_p, log_q = clean_logits.log_softmax(-1).expand_as(logits), logits.log_softmax(-1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_divergence(log_p, log_mean) + _divergence(log_q, log_mean)) / 2


def _divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) over the last axis, nats."""
    return (log_a.exp() * (log_a - log_b)).sum(-1)


# ---- named tokens --------------------------------------------------------------------------------


def _logit_diff(prompts: Prompts, logits: Tensor) -> Readouts:
    direction = torch.zeros_like(logits)
    for row, (right, wrong) in enumerate(zip(prompts.answers, prompts.wrong, strict=True)):
        for token in right:
            direction[row, token] += 1 / len(right)
        for token in wrong:
            direction[row, token] -= 1 / len(wrong)
    return Readouts(direction, False, None, lambda linear, total, few: linear)


def _prob_diff(prompts: Prompts, logits: Tensor) -> Readouts:
    tokens, signs = _signed(prompts.answers, prompts.wrong, logits)
    right, wrong = signs.clamp_min(0), (-signs).clamp_min(0)

    def share(few: Tensor, total: Tensor, of: Tensor) -> Tensor:
        return ((few - total[..., None]).exp() * of).sum(-1)

    def between(linear: Tensor, low: Tensor, high: Tensor, few: Tensor) -> tuple[Tensor, Tensor]:
        least = share(few, high, right) - share(few, low, wrong)
        return least, share(few, low, right) - share(few, high, wrong)

    return Readouts(
        None, True, tokens, lambda linear, total, few: share(few, total, signs), between
    )


def _nll(prompts: Prompts, logits: Tensor) -> Readouts:
    tokens, signs = _signed(prompts.answers, [()] * len(prompts), logits)
    absent = signs.log()  # 0 for an answer, -inf for padding

    def combine(linear: Tensor, total: Tensor, few: Tensor) -> Tensor:
        return total - (few + absent).logsumexp(-1)

    return Readouts(None, True, tokens, combine, _rising(combine))


def _signed(
    right: Sequence[Sequence[int]], wrong: Sequence[Sequence[int]], logits: Tensor
) -> tuple[Int[Tensor, "batch few"], Float[Tensor, "batch few"]]:
    """Right and wrong tokens side by side and their signs; padding has sign 0."""
    rows = [[*r, *w] for r, w in zip(right, wrong, strict=True)]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=logits.device)
    signs = torch.zeros(tokens.shape, dtype=logits.dtype, device=logits.device)
    for row, (named, own) in enumerate(zip(rows, right, strict=True)):
        tokens[row, : len(named)] = torch.tensor(named, device=logits.device)
        signs[row, : len(named)] = -1.0
        signs[row, : len(own)] = 1.0
    return tokens, signs


KL = Metric("kl", "nats", True, readouts=_kl, flat_at_clean=True)
KL_REVERSE = Metric("kl_reverse", "nats", True, readouts=_kl_reverse, flat_at_clean=True)
JS = Metric("js", "nats", True, _js, flat_at_clean=True)
BOTH: tuple[Need, ...] = ("answers", "wrong")
LOGIT_DIFF = Metric("logit_diff", "logits", False, readouts=_logit_diff, needs=BOTH)
PROB_DIFF = Metric("prob_diff", "probability", False, readouts=_prob_diff, needs=BOTH)
NLL = Metric("nll", "nats", True, readouts=_nll, needs=("answers",))
METRICS = {m.name: m for m in (KL, KL_REVERSE, JS, LOGIT_DIFF, PROB_DIFF, NLL)}


# ---- scores of a task ----------------------------------------------------------------------------


def differ(a: float, b: float) -> bool:
    """Whether two values of a metric differ by more than rounding: what may be divided by."""
    return abs(a - b) > 1e-6 * max(1.0, abs(a), abs(b))


def correct(prompts: Prompts, logits: Float[Tensor, "batch vocab"]) -> list[bool]:
    """Of each prompt, whether its best answer beats every rival; a tie does not.

    Rivals are the wrong tokens, or all other tokens where none is named.
    """
    hits = []
    for row, right, wrong in zip(logits, prompts.answers, prompts.wrong, strict=True):
        rivals = row[list(wrong)] if wrong else row.index_fill(0, _ids(right, row), float("-inf"))
        hits.append(bool(row[list(right)].max() > rivals.max()))
    return hits


def _ids(tokens: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long, device=like.device)


def top1(prompts: Prompts, logits: Float[Tensor, "batch vocab"]) -> list[bool]:
    """Of each prompt, whether the most likely next token is an answer."""
    best = logits.argmax(-1).tolist()
    return [b in right for b, right in zip(best, prompts.answers, strict=True)]
