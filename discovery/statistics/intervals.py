"""How sure is a figure? Bootstrap intervals over prompts or over groups of them, exact binomial.

A mean is a ratio of means with ones below, and a group of prompts (a template, a label) counts by
its sums, so one bootstrap serves all: units are drawn with replacement and sum(a) / sum(b) is
computed anew (BCa: Efron 1987). Means over prompts of one template are dependent; give `groups`,
and mind that fewer than about 20 groups cover less than they promise. A ratio whose denominator
may be 0 has no interval: it is undefined, and says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.result import Floats, check_between, check_need, check_scores

CELLS = 2_000_000  # resampled numbers held at once


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; None and the reason where there is none."""

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    n: int  # units drawn: prompts or groups
    method: str
    undefined: str = ""  # why there is no interval


def mean_interval(
    values: Floats,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Interval of the mean of values [prompts]; `groups` holds each prompt's label."""
    return ratio_of_means(values, np.ones_like(values), rng, groups, level, resamples)


def ratio_of_means(
    numerator: Floats,
    denominator: Floats,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Interval of mean(numerator) / mean(denominator), both [prompts], paired.

    Undefined if the denominator's mean cannot be told from 0: its own interval holds 0.
    """
    a, b, method = _units(numerator, denominator, groups, level, resamples)
    ones = np.ones_like(b)
    low, high = _bootstrap(b, ones, rng, level, resamples)
    if low <= 0 <= high:
        reason = f"the denominator's mean {b.mean():.4g} has the interval {low:.4g} to {high:.4g}"
        return Interval(None, None, None, level, len(a), method, reason)
    low, high = _bootstrap(a, b, rng, level, resamples)
    return Interval(float(a.sum() / b.sum()), low, high, level, len(a), method)


def mean_of_ratios(
    numerator: Floats,
    denominator: Floats,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    near_zero: float = 0.01,
) -> Interval:
    """Interval of mean(numerator / denominator), both [prompts]; not the ratio of means.

    Undefined if any denominator is near 0, that is, within `near_zero` of the mean size of the
    denominators: a few such prompts would decide the mean alone.
    """
    _, _, method = _units(numerator, denominator, groups, level, resamples)
    check_between("near_zero", near_zero, 0.0, 1.0)
    size = np.abs(denominator)
    near = int((size <= near_zero * size.mean()).sum())
    if near:
        reason = f"{near} of {len(size)} denominators are near 0"
        units = len(set(groups)) if groups is not None else len(size)
        return Interval(None, None, None, level, units, method, reason)
    return mean_interval(numerator / denominator, rng, groups, level, resamples)


def binomial_interval(count: int, n: int, level: float = 0.95) -> Interval:
    """Exact interval (Clopper and Pearson 1934) of a probability after `count` of n."""
    check_between("level", level, 0.0, 1.0)
    if n < 1 or not 0 <= count <= n:
        raise InputError(f"count={count}, n={n}: count must lie within 0 and n, n at least 1")
    found = stats.binomtest(count, n).proportion_ci(level, method="exact")
    return Interval(count / n, float(found.low), float(found.high), level, n, "exact binomial")


def _units(
    a: Floats, b: Floats, groups: Sequence[Hashable] | None, level: float, resamples: int
) -> tuple[Floats, Floats, str]:
    """What is drawn: prompts, or the sums of each group in order of first appearance."""
    check_scores("interval", a.shape[:1], numerator=a, denominator=b)
    check_between("level", level, 0.0, 1.0)
    if resamples < 1:
        raise InputError(f"resamples={resamples}: must be at least 1")
    if groups is None:
        check_need("interval", "prompts", 2, len(a))
        return a, b, "BCa over prompts"
    if len(groups) != len(a):
        raise InputError(f"groups: {len(groups)} labels for {len(a)} prompts")
    order = {label: i for i, label in enumerate(dict.fromkeys(groups))}
    check_need("interval", "groups", 2, len(order))
    index = np.array([order[label] for label in groups])
    return _sums(index, a), _sums(index, b), "BCa over groups"


def _sums(index: NDArray[np.int64], values: Floats) -> Floats:
    return np.bincount(index, values).astype(float)


def _bootstrap(
    a: Floats, b: Floats, rng: np.random.Generator, level: float, resamples: int
) -> tuple[float, float]:
    """BCa limits of sum(a) / sum(b), percentiles where BCa has none.

    Both limits are the estimate if no resample can differ.
    """
    whole = float(a.sum() / b.sum()) if b.sum() else math.nan
    if np.allclose(a, whole * b, rtol=1e-12, atol=0):
        return whole, whole
    draw = partial(
        stats.bootstrap, (a, b), lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True, vectorized=True, n_resamples=resamples, batch=max(1, CELLS // len(a)),
        confidence_level=level, rng=rng,
    )  # fmt: skip
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = draw(method="BCa").confidence_interval
    if math.isnan(found.low) or math.isnan(found.high):  # resamples that hardly differ
        found = draw(method="percentile").confidence_interval
    return float(found.low), float(found.high)
