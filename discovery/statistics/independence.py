"""Does what the circuit leaves out carry anything of the model's behaviour? Less than a margin?

The circuit's complement is compared with the empty circuit, which knows something of the model by
itself: which prompts are hard. So the question is asked given the empty circuit's score. Shown: on
nine prompts in ten the complement scores as the empty circuit does, within a margin (an exact
binomial test); the whole model, whose complement is the empty circuit, passes. Refuted: complement
and model depend on each other given the empty circuit. For this both scores are taken less their
best cubic in the empty circuit's score, and the model's are permuted among prompts on which the
empty circuit scores alike (local permutations: Kim, Neykov, Balakrishnan and Wasserman 2022). The
statistic is the Hilbert-Schmidt independence criterion (Gretton et al. 2007; for circuits Shi et
al. 2024, without the condition), tr(K H L H) / (n - 1)^2, with Gaussian kernels: it sees any
dependence, not only a linear one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.spatial.distance import pdist

from acdc.errors import InputError
from discovery.statistics.result import (
    Floats,
    TestResult,
    check_between,
    check_margin,
    check_need,
    check_scores,
    decide,
)

TOLERANCE = 1e-12  # of a kernel's diagonal, which is 1
STRATUM = 10  # prompts on which the empty circuit is said to score alike
SHARE = 0.9  # of prompts on which nothing may be left


def independence(
    complement: Floats,
    model: Floats,
    empty: Floats,
    margin: float,
    rng: np.random.Generator,
    permutations: int = 1000,
    level: float = 0.05,
) -> TestResult:
    """Does the complement do no more than the empty circuit? Scores [prompts], margin their unit.

    p: that on at most .9 of prompts |complement - empty| is within the margin. Its opposite, in
    `extra`, is (1 + permutations with at least the observed HSIC) / (1 + permutations), and 1 where
    either score is a cubic of the empty circuit's. `extra` also holds the normalised HSIC
    (0 to 1) and the number of prompts beyond the margin. InputError with fewer than 29 prompts.
    """
    name = "independence"
    check_scores(name, model.shape[:1], complement=complement, model=model, empty=empty)
    check_between("level", level, 0.0, 1.0)
    check_margin(name, margin)
    n = len(model)
    check_need(name, "prompts", math.ceil(math.log(level) / math.log(SHARE)), n)
    if 1 / (1 + permutations) > level:
        raise InputError(
            f"permutations={permutations}: must be at least {math.ceil(1 / level) - 1} at"
            f" level={level}"
        )
    beyond = int((np.abs(complement - empty) > margin).sum())
    p = float(stats.binomtest(n - beyond, n, SHARE, "greater").pvalue)
    order = local_orders(empty, rng)
    dependence, normalised = _dependence(
        off_cubic(complement, empty), off_cubic(model, empty), order, permutations
    )
    return TestResult(
        name=name,
        null=f"on at most {SHARE:g} of prompts the complement scores as the empty circuit does",
        statistic=beyond / n,
        p_value=p,
        n=n,
        level=level,
        rejected=p <= level,
        holds=decide(p, dependence, level),
        extra={
            "beyond": beyond, "margin": margin, "permutations": permutations,
            "normalised": normalised, "p_opposite": dependence,
        },
    )  # fmt: skip


def off_cubic(scores: Floats, given: Floats) -> Floats:
    """[n]: scores less their least-squares cubic in `given`; exact zeros below rounding."""
    x = given - given.mean()
    x = x / (np.abs(x).max() or 1.0)
    powers = np.stack([x**k for k in range(4)], axis=1)
    left = scores - powers @ np.linalg.lstsq(powers, scores)[0]
    return np.where(np.abs(left) <= 1e-9 * np.abs(scores).max(), 0.0, left)


def local_orders(given: Floats, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    """Draws permutations [n] that exchange only prompts among about STRATUM with like `given`."""
    strata = np.array_split(np.argsort(given, kind="stable"), max(1, len(given) // STRATUM))

    def draw() -> np.ndarray:
        out = np.empty(len(given), dtype=np.int64)
        for rows in strata:
            out[rows] = rng.permutation(rows)
        return out

    return draw


def _dependence(
    first: Floats, second: Floats, order: Callable[[], np.ndarray], permutations: int
) -> tuple[float, float]:
    """p-value of the HSIC of two scores under permutations of the second, and its normalised size.

    1 and 0 where a score is constant.
    """
    if not np.ptp(first) or not np.ptp(second):
        return 1.0, 0.0
    x, y = _features(first), _features(second)
    observed = _product(x, y)
    # Equal values differ by rounding only; they count as at least as large.
    bar = observed * (1 - 1e-9)
    larger = sum(_product(x, y[order()]) >= bar for _ in range(permutations))
    size = observed / math.sqrt(_product(x, x) * _product(y, y))
    return (1 + larger) / (1 + permutations), size


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
