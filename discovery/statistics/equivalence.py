"""Does the circuit score as the model does? Paired tests on the scores of the same prompts.

Delta = s(C) - s(M), one number a prompt. The effect is s(M) - s(empty circuit), and a share of it
is the margin below which a difference is none. The questions are whether Delta is as often above
the margin as below (Shi et al. 2024, arXiv 2410.13032, with ties), and whether its mean is within
it. For each the null is that it is *not* so (two one-sided tests, Schuirmann 1987), since failing
to reject equality is no evidence of it. Prompts are taken as independent.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from discovery.statistics.result import (
    Floats,
    TestResult,
    check_between,
    check_margin,
    check_need,
    check_scores,
    decide,
    undefined,
)

ROUNDING = 1e-12


def effect_margin(model: Floats, empty: Floats, share: float = 0.1) -> float:
    """`share` of the effect, |mean of s(M) - s(empty)|, in the scores' unit.

    0 where model and empty circuit do not surely differ (two standard errors): then no difference
    is small.
    """
    _check("margin", empty, model)
    check_between("share", share, 0.0, 1.0)
    effect = model - empty
    error = float(np.std(effect, ddof=1)) / math.sqrt(len(effect)) if len(effect) > 1 else 0.0
    size = abs(float(effect.mean()))
    return share * size if size > 2 * error else 0.0


def equivalence(
    circuit: Floats, model: Floats, margin: float, eps: float = 0.1, level: float = 0.05
) -> TestResult:
    """Is the circuit as often better than the model as worse? Two binomial tests, the larger p.

    A win is Delta > margin, a loss Delta < -margin, all else a tie, which counts half: is
    P(win) + P(tie) / 2 within 1/2 -+ eps, that is, |P(win) - P(loss)| < 2 eps? A tie stands for a
    fair coin with less variance, so the binomial, exact without ties, is conservative with them
    (sign test with ties: Putter 1955; for equivalence Wellek 2010, chapter 5). A half that is left
    over is rounded against the claim. At eps 0.1 and level 0.05 it accepts 49 to 51 wins of 100
    without ties, 92 to 108 of 200, 177 to 223 of 400; with ties alone it holds from 76 prompts on.
    `extra` has the p-value of the opposite, Shi et al.'s test of non-equivalence. Scores are
    [prompts], the margin is in their unit. InputError if no count would be accepted.
    """
    _check("equivalence", circuit, model)
    check_between("level", level, 0.0, 1.0)
    check_between("eps", eps, 0.0, 0.5)
    check_margin("equivalence", margin)
    delta, n = circuit - model, len(model)
    wins, losses = int((delta > margin).sum()), int((delta < -margin).sum())
    if _sign_tost(n, n, eps) > level:
        check_need("equivalence", "prompts", _first_passing(n, eps, level), n)
    twice = n + wins - losses
    p, opposite = _sign_tost(twice, n, eps), _outside(twice, n, eps)
    return TestResult(
        name="equivalence",
        null=f"wins less losses against the model are at least {2 * eps:g} of prompts either way",
        statistic=twice / (2 * n),
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=decide(p, opposite, level),
        extra={
            "wins": wins, "ties": n - wins - losses, "losses": losses, "margin": margin,
            "eps": eps, "p_opposite": opposite,
        },
    )  # fmt: skip


def mean_equivalence(
    circuit: Floats, model: Floats, empty: Floats, share: float = 0.1, level: float = 0.05
) -> TestResult:
    """Is the mean of Delta within -+ share of the mean effect? Two one-sided t tests.

    Of Delta + share x effect and share x effect - Delta, prompt by prompt, so that the effect's own
    uncertainty counts (Sasabuchi's test of a ratio of means; Hauschke et al. 1999). Scores are
    [prompts] in any unit. Undefined where model and empty circuit do not surely differ.
    """
    name = "mean equivalence"
    _check(name, circuit, model)
    check_between("level", level, 0.0, 1.0)
    n = len(model)
    check_need(name, "prompts", 2, n)
    null = f"the mean of circuit less model is at least {share:g} of the effect away from 0"
    margin = effect_margin(model, empty, share)
    if not margin:
        return undefined(name, null, n, level, "model and empty circuit do not surely differ")
    delta, effect = circuit - model, share * (model - empty)
    effect = effect if effect.mean() > 0 else -effect
    mean = float(delta.mean())
    toward = delta if mean > 0 else -delta
    p = max(_upper_t(effect - toward), _upper_t(effect + toward))
    opposite = min(1.0, _upper_t(toward - effect) + _upper_t(toward + effect))
    return TestResult(
        name=name,
        null=null,
        statistic=mean,
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=decide(p, opposite, level),
        extra={"margin": margin, "share": share, "p_opposite": opposite},
    )


def _check(test: str, scores: Floats, model: Floats) -> None:
    check_scores(test, model.shape[:1], scores=scores, model=model)


def _sign_tost(twice_k: int, n: int, eps: float) -> float:
    """p-value of P(Delta > 0) outside the band; `twice_k` because a tie is half a count."""
    above = stats.binom.sf(twice_k // 2 - 1, n, 0.5 - eps)
    below = stats.binom.cdf((twice_k + 1) // 2, n, 0.5 + eps)
    return float(max(above, below))


def _outside(twice_k: int, n: int, eps: float) -> float:
    """p-value of P(Delta > 0) inside the band."""
    j = np.arange(n + 1)
    far = np.abs(2 * j - n) >= abs(twice_k - n)
    return min(1.0, float(stats.binom.pmf(j[far], n, 0.5 + eps).sum()))


def _first_passing(n: int, eps: float, level: float) -> int:
    """The smallest number of prompts from n on at which an even split is accepted."""
    return next(m for m in range(n, 10**6) if _sign_tost(m, m, eps) <= level)


def _upper_t(values: Floats) -> float:
    """One-sided p-value of a mean above 0; 0 or 1 where the values are all the same."""
    mean, error = float(values.mean()), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if error <= ROUNDING * float(np.abs(values).max()):
        return float(mean <= 0)
    return float(stats.t.sf(mean / error, len(values) - 1))
