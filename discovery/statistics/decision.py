"""Three shares that decide about a circuit, and the words that their intervals allow.

Of scores per prompt: c of the circuit, m of the model, e with every edge cut, r of the model with
the circuit cut out. Two-sided, so that errors of opposite sign do not cancel:

    alone    1 - mean |c - m| / mean |e - m|     what the circuit recovers by itself
    outside  mean |r - e| / mean |m - e|         what the rest still does without the circuit
    needed   share of the edges whose loss changes the score by at least NEEDED of mean |m - e|

A word is said only where the whole interval lies in its band; else it is "not decided". So of
circuits that lie on the border of two bands at most (1 - level) / 2 are put into either wrongly.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from discovery.statistics.intervals import Interval, ratio_of_means
from discovery.statistics.result import Floats, check_scores

Word = Literal["yes", "partly", "no", "not decided"]
Question = Literal["alone", "outside", "needed"]
WORDS: tuple[Word, Word, Word] = ("no", "partly", "yes")
BORDERS: dict[Question, tuple[float, float]] = {  # from where "partly" is said, and "yes"
    "alone": (0.5, 0.9),
    "outside": (0.1, 0.5),
    "needed": (0.5, 0.9),
}
NEEDED = 0.01  # of what cutting every edge changes (Wang et al. 2022, minimality)


def alone(
    circuit: Floats, model: Floats, empty: Floats, rng: np.random.Generator, level: float = 0.95
) -> Interval:
    """What the circuit recovers, [prompts] each: 1 = the model on each, 0 = as the empty one."""
    check_scores("alone", model.shape, circuit=circuit, model=model, empty=empty)
    whole = np.abs(empty - model)
    return ratio_of_means(whole - np.abs(circuit - model), whole, rng, level=level)


def outside(
    rest: Floats, model: Floats, empty: Floats, rng: np.random.Generator, level: float = 0.95
) -> Interval:
    """How far the model without the circuit is from the empty one, [prompts] each: 0 = nowhere."""
    check_scores("outside", model.shape, rest=rest, model=model, empty=empty)
    return ratio_of_means(np.abs(rest - empty), np.abs(model - empty), rng, level=level)


def needed(
    changes: Floats, effect: Floats, rng: np.random.Generator, level: float = 0.95,
    resamples: int = 1000,
) -> Interval:  # fmt: skip
    """Share of edges that matter; `changes` [edges, prompts], |score with - without the edge|.

    `effect` [prompts] is |model - empty circuit|. Percentile bootstrap over prompts.
    """
    check_scores("needed", effect.shape, changes=changes[0], effect=effect)
    n = len(effect)
    if not effect.mean() > 0:
        return Interval(None, None, None, level, n, "bootstrap over prompts",
                        "cutting every edge changes nothing")  # fmt: skip
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    share = _matter(changes, effect, np.ones((1, n)))[0]
    drawn = _matter(changes, effect, weights)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(float(share), low, high, level, n, "bootstrap over prompts")


def _matter(changes: Floats, effect: Floats, weights: Floats) -> Floats:
    """[resamples]: the share of edges whose weighted mean change is large enough."""
    least = NEEDED * (weights @ effect)
    return ((weights @ changes.T) >= least[:, None]).mean(axis=1)


def word(question: Question, found: Interval) -> Word:
    """The band that holds the whole interval; "not decided" where none does."""
    if found.low is None or found.high is None:
        return "not decided"
    low, high = (
        int(np.searchsorted(BORDERS[question], v, "right")) for v in (found.low, found.high)
    )
    return WORDS[low] if low == high else "not decided"
