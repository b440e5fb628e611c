"""Does what the circuit leaves out carry anything of the model's behaviour? A test of dependence.

The Hilbert-Schmidt independence criterion (Gretton et al. 2007; for circuits Shi et al. 2024) of
the complement's and the model's scores, tr(K H L H) / (n - 1)^2, with Gaussian kernels, and its
p-value under permutations. It sees any dependence, not only a linear one. Not rejecting is no
evidence of independence: look at the effect size and at the power for n prompts.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import pdist

from acdc.errors import InputError
from discovery.statistics.result import (
    Floats,
    TestResult,
    check_between,
    check_need,
    check_scores,
    undefined,
)

TOLERANCE = 1e-12  # of a kernel's diagonal, which is 1


def independence(
    complement: Floats,
    model: Floats,
    rng: np.random.Generator,
    permutations: int = 1000,
    level: float = 0.05,
) -> TestResult:
    """Is the complement's score [prompts] independent of the model's score [prompts]?

    p = (1 + permutations with at least the observed HSIC) / (1 + permutations). Undefined if either
    score is constant. `extra` holds the normalised HSIC (0 to 1; 1 for equal scores).
    """
    name, null = "independence", "the complement's score is independent of the model's score"
    check_scores(name, model.shape[:1], complement=complement, model=model)
    check_between("level", level, 0.0, 1.0)
    n = len(model)
    check_need(name, "prompts", _fewest(level), n)
    if 1 / (1 + permutations) > level:
        raise InputError(
            f"permutations={permutations}: must be at least {math.ceil(1 / level) - 1} at"
            f" level={level}"
        )
    for label, scores in (("complement", complement), ("model", model)):
        if np.ptp(scores) <= 1e-12 * np.abs(scores).max():
            return undefined(name, null, n, level, f"the {label}'s score is constant")
    x, y = _features(complement), _features(model)
    observed = _product(x, y)
    # Equal values differ by rounding only; they count as at least as large.
    bar = observed * (1 - 1e-9)
    larger = sum(_product(x, y[rng.permutation(n)]) >= bar for _ in range(permutations))
    p = (1 + larger) / (1 + permutations)
    return TestResult(
        name=name,
        null=null,
        statistic=observed / (n - 1) ** 2,
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=False if p <= level else None,
        extra={
            "permutations": permutations,
            "normalised": observed / math.sqrt(_product(x, x) * _product(y, y)),
        },
    )


def _fewest(level: float) -> int:
    """The smallest n whose n! orders can give a p-value of `level`."""
    return next(n for n in range(2, 100) if 1 / math.factorial(n) <= level)


def _features(scores: Floats) -> Floats:
    """[n, rank] with features @ features.T = H K H.

    Pivoted Cholesky: a Gaussian kernel on a line has few dimensions above rounding, so that a
    permutation costs n x rank^2 instead of n^2, with the same result.
    """
    distance = pdist(scores[:, None])
    width = np.median(distance[distance > 0])
    rest = np.ones_like(scores)  # the diagonal that the columns do not explain yet
    columns = np.zeros((len(scores), 0))
    while rest.max() > TOLERANCE:
        pivot = int(rest.argmax())
        column = np.exp(-((scores - scores[pivot]) ** 2) / (2 * width**2))
        column -= columns @ columns[pivot]
        column /= math.sqrt(rest[pivot])
        columns = np.column_stack([columns, column])
        rest -= column**2
    return columns - columns.mean(axis=0)


def _product(x: Floats, y: Floats) -> float:
    """tr(K H L H) of two kernels given by their features."""
    return float(np.square(x.T @ y).sum())
