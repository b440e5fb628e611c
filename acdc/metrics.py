"""What a circuit is measured by: pure functions of next-token logits at the answer position.

Every metric here is a function of three things only: one linear read-out of the logits, the
log-sum-exp over the vocabulary, and the logits of a few named tokens. That is what lets the search
skip the vocabulary where a metric does not need it; `Metric.of_logits` is the plain form.

| name       | unit        | value                                            | searched for |
|------------|-------------|--------------------------------------------------|--------------|
| kl         | nats        | KL(clean model || circuit) over the vocabulary   | low          |
| logit_diff | logits      | mean logit of the answers - mean of the wrong    | high         |
| prob_diff  | probability | sum p(answers) - sum p(wrong)                    | high         |
| nll        | nats        | -log sum p(answers)                              | low          |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.errors import InputError
from acdc.prompts import Prompts

METRICS = ("kl", "logit_diff", "prob_diff", "nll")
NEEDS = {"kl": (), "logit_diff": ("answers", "wrong"), "prob_diff": ("answers", "wrong")}
NEEDS["nll"] = ("answers",)


@dataclass(frozen=True)
class Metric:
    """One metric bound to a batch of prompts.

    value = combine(linear read-out, logsumexp, logits of `tokens`), each per prompt.
    """

    name: str
    unit: str
    lower_is_better: bool
    direction: Float[Tensor, "batch vocab"] | None  # the linear read-out of the logits
    needs_vocabulary: bool  # whether logsumexp and `tokens` are read at all
    tokens: Int[Tensor, "batch few"] | None
    combine: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def sign(self) -> int:
        """+1 if lower is better, else -1: `sign * value` is what a search minimises."""
        return 1 if self.lower_is_better else -1

    def of_logits(self, logits: Float[Tensor, "*n batch vocab"]) -> Float[Tensor, "*n batch"]:
        """Value per prompt, in `unit`."""
        zero = logits.new_zeros(logits.shape[:-1])
        linear = zero if self.direction is None else (logits * self.direction).sum(-1)
        total = logits.logsumexp(-1) if self.needs_vocabulary else zero
        return self.combine(linear, total, self.pick(logits))

    def pick(self, logits: Float[Tensor, "*n batch vocab"]) -> Float[Tensor, "*n batch few"]:
        """Logits of the named tokens."""
        if self.tokens is None:
            return logits[..., :0]
        return logits.gather(-1, self.tokens.expand(*logits.shape[:-1], -1))


def make_metric(name: str, prompts: Prompts, clean_logits: Float[Tensor, "batch vocab"]) -> Metric:
    """Bind a metric to prompts; `clean_logits` are the full model's at the answer position.

    InputError if the name is unknown or the prompts lack the answers that the metric needs.
    """
    check_metric(name, prompts)
    if name == "kl":
        return _kl(clean_logits)
    if name == "logit_diff":
        return _logit_diff(prompts, clean_logits)
    return _token_metric(name, prompts, clean_logits)


def check_metric(name: str, prompts: Prompts) -> None:
    """Raise InputError unless the metric exists and the prompts name the answers it needs."""
    if name not in METRICS:
        raise InputError(f"method.metric={name!r}: allowed are {', '.join(METRICS)}")
    have = {"answers": prompts.has_answers, "wrong": prompts.has_wrong}
    for need in NEEDS[name]:
        if not have[need]:
            raise InputError(
                f"method.metric={name} needs `{need}` on every prompt, which this task does not"
                " give; method.metric=kl needs none"
            )


def _kl(clean_logits: Tensor) -> Metric:
    log_p = clean_logits.log_softmax(-1)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(-1)

    def combine(linear: Tensor, total: Tensor, few: Tensor) -> Tensor:
        return negative_entropy - linear + total

    return Metric("kl", "nats", True, p, True, None, combine)


def _logit_diff(prompts: Prompts, logits: Tensor) -> Metric:
    direction = torch.zeros_like(logits)
    for row, (right, wrong) in enumerate(zip(prompts.answers, prompts.wrong, strict=True)):
        for token in right:
            direction[row, token] += 1 / len(right)
        for token in wrong:
            direction[row, token] -= 1 / len(wrong)
    return Metric("logit_diff", "logits", False, direction, False, None, lambda lin, tot, few: lin)


def _token_metric(name: str, prompts: Prompts, logits: Tensor) -> Metric:
    """prob_diff and nll: both need the probabilities of the named tokens."""
    signed = [
        [(t, 1.0) for t in right] + [(t, -1.0) for t in wrong if name == "prob_diff"]
        for right, wrong in zip(prompts.answers, prompts.wrong, strict=True)
    ]
    width = max(len(row) for row in signed)
    tokens = torch.zeros(len(signed), width, dtype=torch.long, device=logits.device)
    signs = torch.zeros(len(signed), width, dtype=logits.dtype, device=logits.device)
    for row, pairs in enumerate(signed):
        for col, (token, sign) in enumerate(pairs):
            tokens[row, col], signs[row, col] = token, sign
    if name == "prob_diff":
        return Metric(
            name, "probability", False, None, True, tokens,
            lambda lin, total, few: ((few - total[..., None]).exp() * signs).sum(-1),
        )  # fmt: skip
    absent = signs.log()  # 0 for an answer, -inf for padding
    return Metric(
        name, "nats", True, None, True, tokens,
        lambda lin, total, few: total - (few + absent).logsumexp(-1),
    )  # fmt: skip


def differ(a: float, b: float) -> bool:
    """Whether two values of a metric differ by more than rounding: what may be divided by."""
    return abs(a - b) > 1e-6 * max(1.0, abs(a), abs(b))


def correct(prompts: Prompts, logits: Float[Tensor, "batch vocab"]) -> list[bool]:
    """Per prompt, whether its best answer beats every rival; a tie is not right.

    Rivals are the wrong tokens or, if none is named, all tokens but the answers.
    """
    hits = []
    for row, right, wrong in zip(logits, prompts.answers, prompts.wrong, strict=True):
        others = row.clone()
        others[list(right)] = float("-inf")
        rivals = row[list(wrong)] if wrong else others
        hits.append(bool(row[list(right)].max() > rivals.max()))
    return hits


def accuracy(prompts: Prompts, logits: Float[Tensor, "batch vocab"]) -> float | None:
    """Share of prompts that are `correct`; None where a prompt names no answer."""
    if not prompts.has_answers:
        return None
    return sum(correct(prompts, logits)) / len(prompts)


def top1(prompts: Prompts, logits: Float[Tensor, "batch vocab"]) -> float | None:
    """Share of prompts whose most likely next token is an answer."""
    if not prompts.has_answers:
        return None
    best = logits.argmax(-1).tolist()
    return sum(b in right for b, right in zip(best, prompts.answers, strict=True)) / len(prompts)
