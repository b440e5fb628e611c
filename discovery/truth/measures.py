"""How well a ranking, or a family of circuits, agrees with the truth. Arrays in, numbers out.

Items are edges or nodes, in one flat array. A point of the ROC is a circuit: of the items that are
not true, the share that it has (FPR), and of the true ones (TPR). (0, 0) and (1, 1), the circuits
of nothing and of everything, are always points. Of scores every cut between two different values is
one; items that tie come together. Two areas:

    auroc        points joined by straight lines: the chance that a true item ranks above one that
                 is not, a tie counting half (InterpBench's measure, from (0, 0) on)
    pessimistic  points joined by steps, first to the right, then up (Conmy et al. 2023): nothing is
                 granted between two circuits, so ties count as wrong

A search that finds all that is true and nothing else has both 1, whatever lies beyond its point; a
search that stops short gets from `pessimistic` nothing for what it never found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from acdc.errors import InputError

Items = Bool[np.ndarray, " item"]
Scores = Float[np.ndarray, " item"]


@dataclass(frozen=True)
class ROC:
    """Points from (0, 0) to (1, 1); neither rate ever falls."""

    false: Float[np.ndarray, " point"]  # share of what is not true
    true: Float[np.ndarray, " point"]  # share of what is true

    @property
    def auroc(self) -> float:
        """Area under straight lines; .5 is chance."""
        return float((np.diff(self.false) * (self.true[1:] + self.true[:-1])).sum() / 2)

    @property
    def pessimistic(self) -> float:
        """Area under steps that rise as late as they can; chance gets less than .5."""
        return float(((1 - self.false[1:]) * np.diff(self.true)).sum())


def roc_of_scores(scores: Scores, true: Items) -> ROC:
    """The best k items for every k, tied ones together. InputError as `roc_of_circuits`."""
    cuts = np.unique(scores)[::-1]
    return roc_of_circuits([scores >= cut for cut in cuts], true)


def roc_of_circuits(circuits: Sequence[Items], true: Items) -> ROC:
    """Circuits of any sizes, such as a search's over thresholds; they need not be nested.

    One that another beats at both rates is left out, as in the original. InputError unless some
    items are true and some are not.
    """
    n_true, n_false = int(true.sum()), int((~true).sum())
    if not n_true or not n_false:
        raise InputError(f"truth: {n_true} of {len(true)} items are true; a ROC needs both kinds")
    points = {(0.0, 0.0), (1.0, 1.0)}
    points |= {((c & ~true).sum() / n_false, (c & true).sum() / n_true) for c in circuits}
    kept, best = list[tuple[float, float]](), 0.0  # by FPR: all lower ones have been seen
    for x, y in sorted(points):
        if y >= best:
            kept.append((float(x), float(y)))
            best = y
    false, rates = np.array(kept).T
    return ROC(false, rates)


def precision_at_size(scores: Scores, true: Items) -> float:
    """Share of true ones among the best n items, n being how many are true.

    Of items that tie for the last places as many are true as on average.
    """
    n = int(true.sum())
    if not n:
        raise InputError("truth: no item is true; precision at the true size is of nothing")
    last = np.sort(scores)[-n]
    above, tied = scores > last, scores == last
    places = n - int(above.sum())
    return float(((above & true).sum() + places * (tied & true).sum() / tied.sum()) / n)


@dataclass(frozen=True)
class Median:
    """A median with its bootstrap interval."""

    median: float
    low: float
    high: float


def median_over(
    values: Mapping[str, Sequence[float]], rng: np.random.Generator, level: float = 0.95,
    resamples: int = 1000,
) -> Median:  # fmt: skip
    """Median of all values; circuits are drawn with replacement, and within each its draws.

    `values` holds, by the circuit's name, one number a draw of model and prompts. The interval is
    the percentiles of the resampled medians; of few circuits it says that they are few. InputError
    for a circuit without a value.
    """
    sizes = np.array([len(own) for own in values.values()])
    if not len(sizes) or not sizes.all():
        raise InputError("truth: a median needs a value of every circuit")
    table = np.full((len(sizes), sizes.max()), np.nan)
    for row, own in zip(table, values.values(), strict=True):
        row[: len(own)] = own
    some = rng.integers(len(sizes), size=(resamples, len(sizes)))
    own = sizes[some][..., None]  # [resample, circuit, draw]
    drawn = table[some[..., None], (rng.random((*some.shape, sizes.max())) * own).astype(int)]
    drawn[np.arange(sizes.max()) >= own] = np.nan
    medians = np.nanmedian(drawn.reshape(resamples, -1), axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Median(float(np.nanmedian(table)), float(low), float(high))
