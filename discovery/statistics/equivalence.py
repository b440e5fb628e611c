"""Does the circuit score as the model does? Paired tests on the scores of the same prompts.

Delta = s(C) - s(M), one number a prompt. The question is about its sign, P(Delta > 0) within
1/2 -+ eps (Shi et al. 2024, arXiv 2410.13032), and about its mean, within -+ share x SD(s(M)). For
each the null is that it is *not* so (two one-sided tests), since failing to reject equality is no
evidence of it. Ties, Delta = 0, count half; a half that is left over is rounded against the claim.
Prompts are taken as independent.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from discovery.statistics.result import (
    Floats,
    TestResult,
    check_between,
    check_need,
    check_scores,
    decide,
    undefined,
)


def equivalence(
    circuit: Floats, model: Floats, eps: float = 0.1, level: float = 0.05
) -> TestResult:
    """Is P(Delta > 0) within 1/2 -+ eps? Two exact one-sided binomial tests, the larger p-value.

    Scores are [prompts] in any unit. At eps 0.1 and level 0.05 it accepts 49 to 51 positive
    differences of 100, 177 to 223 of 400, 427 to 573 of 1,000; its power for a perfect circuit is
    24 %, 98 % and 100 %, so take 400 prompts or more. InputError if no count would be accepted.
    """
    wins, ties = _signs("equivalence", circuit, model, eps, level)
    n = len(model)
    if _sign_tost(n, n, eps) > level:
        check_need("equivalence", "prompts", _first_passing(n, eps, level), n)
    p = _sign_tost(2 * wins + ties, n, eps)
    opposite = _outside(2 * wins + ties, n, eps)
    return TestResult(
        name="equivalence",
        null=f"P(circuit scores above model) is at most {0.5 - eps:g} or at least {0.5 + eps:g}",
        statistic=(wins + ties / 2) / n,
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=decide(p, opposite, level),
        extra={"wins": wins, "ties": ties, "eps": eps, "p_opposite": opposite},
    )


def non_equivalence(
    circuit: Floats, model: Floats, eps: float = 0.1, level: float = 0.05
) -> TestResult:
    """Is P(Delta > 0) outside 1/2 -+ eps? The test of Shi et al. with the fraction k / n.

    p = sum of Binomial(j; n, 1/2 + eps) over all j at least as far from n / 2 as k. At eps 0.1 and
    level 0.05 it rejects from 69 of 100, 257 of 400, 626 of 1,000, or mirrored. Not rejecting
    leaves the question open. InputError if no count would be rejected.
    """
    wins, ties = _signs("non-equivalence", circuit, model, eps, level)
    n = len(model)
    if _outside(2 * n, n, eps) > level:
        need = next(m for m in range(n, 10**6) if _outside(2 * m, m, eps) <= level)
        check_need("non-equivalence", "prompts", need, n)
    p = _outside(2 * wins + ties, n, eps)
    return TestResult(
        name="non-equivalence",
        null=f"P(circuit scores above model) lies between {0.5 - eps:g} and {0.5 + eps:g}",
        statistic=(wins + ties / 2) / n,
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=False if p <= level else None,
        extra={"wins": wins, "ties": ties, "eps": eps},
    )


def mean_equivalence(
    circuit: Floats, model: Floats, share: float = 0.2, level: float = 0.05
) -> TestResult:
    """Is the mean of Delta within -+ share x SD(s(M))? Two one-sided t tests.

    Sees the size of the differences, to which signs are blind. The SD is the sample's and is taken
    as known; `share` is a convention (0.2: Cohen's small effect). Undefined if s(M) is constant.
    """
    _check("mean equivalence", circuit, model, level)
    check_between("share", share, 0.0, math.inf)
    n, name = len(model), "mean equivalence"
    check_need(name, "prompts", 2, n)
    null = f"the mean of circuit minus model is at least {share:g} SD of the model away from 0"
    margin = share * float(np.std(model, ddof=1))
    if np.ptp(model) == 0:
        return undefined(name, null, n, level, "the model's score is the same on every prompt")
    delta = circuit - model
    mean, error = float(delta.mean()), float(np.std(delta, ddof=1)) / math.sqrt(n)
    p, beyond, far = (
        _upper_t(margin - abs(mean), error, n),
        _upper_t(abs(mean) - margin, error, n),
        _upper_t(abs(mean) + margin, error, n),
    )
    opposite = min(1.0, beyond + far)
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


def _check(test: str, circuit: Floats, model: Floats, level: float) -> None:
    check_scores(test, model.shape[:1], circuit=circuit, model=model)
    check_between("level", level, 0.0, 1.0)


def _signs(test: str, circuit: Floats, model: Floats, eps: float, level: float) -> tuple[int, int]:
    """(Delta > 0, Delta = 0) counts."""
    _check(test, circuit, model, level)
    check_between("eps", eps, 0.0, 0.5)
    return int((circuit > model).sum()), int((circuit == model).sum())


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


def _upper_t(distance: float, error: float, n: int) -> float:
    """P(t >= distance / error) with n - 1 degrees of freedom; 0 or 1 where the error is 0."""
    if error == 0:
        return float(distance <= 0)
    return float(stats.t.sf(distance / error, n - 1))
