"""Would other prompts give the same circuit? Circuits found on bootstrap samples, compared.

Circuit discovery is an estimate (Meloux et al. 2025, arXiv 2510.00845). Given the circuits of B
resampled data sets as masks [B, edges]: how often each edge is in, with exact intervals, how alike
two circuits are, and one figure for all (Nogueira, Sechidis and Brown 2018). What is not decided is
said to be undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import jaccard
from acdc.errors import InputError
from discovery.statistics.intervals import binomial_interval
from discovery.statistics.result import Floats, check_need

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Inclusion:
    """How often each edge is in the circuit; every array is [edges]."""

    frequency: Floats
    low: Floats  # exact limits of the probability of inclusion
    high: Floats
    stable: Mask  # low > 1/2
    unstable: Mask  # high < 1/2
    undecided: Mask  # the interval holds 1/2


def inclusion(masks: Mask, level: float = 0.95) -> Inclusion:
    """Frequencies and intervals from masks [B, edges]; take B of at least 100.

    InputError with fewer circuits than could make any edge stable.
    """
    b = _check("inclusion", masks)
    limits = [binomial_interval(count, b, level) for count in range(b + 1)]
    low = np.array([limit.low for limit in limits])
    high = np.array([limit.high for limit in limits])
    if low[-1] <= 0.5:
        tail = 1 - level
        need = next(m for m in range(b, 10_000) if (tail / 2) ** (1 / m) > 0.5)
        check_need("inclusion", "circuits", need, b)
    counts = masks.sum(axis=0)
    low, high = low[counts], high[counts]
    stable, unstable = low > 0.5, high < 0.5
    return Inclusion(counts / b, low, high, stable, unstable, ~stable & ~unstable)


def jaccard_of_pairs(masks: Mask) -> Floats:
    """[B (B - 1) / 2]: shared edges over all edges of each pair; 1 for two empty circuits."""
    _check("jaccard", masks)
    used = masks[:, masks.any(axis=0)]
    return np.array([jaccard(one, other) for one, other in combinations(used, 2)])


def nogueira(masks: Mask) -> float | None:
    """Stability of masks [B, edges]: 1 for equal circuits, 0 on average for random ones.

    1 - mean over edges of B / (B - 1) p (1 - p), over the same for random sets of the mean size.
    Slightly negative values occur. None if every circuit is empty or every one is full.
    """
    b = _check("nogueira", masks)
    p = masks.mean(axis=0)
    random = p.mean() * (1 - p.mean())
    if random == 0:
        return None
    return float(1 - b / (b - 1) * (p * (1 - p)).mean() / random)


def _check(name: str, masks: Mask) -> int:
    """The number of circuits."""
    if masks.ndim != 2 or masks.shape[1] == 0:
        raise InputError(f"{name}: masks have shape {masks.shape}, they must be [circuits, edges]")
    check_need(name, "circuits", 2, len(masks))
    return len(masks)
