"""Linear probes with a control task and a permutation null: arrays in, figures out.

A probe (Alain and Bengio 2016) is fitted on one set of prompts and measured on another. What it
reads may be in the input's wording or in the probe's own memory: the control task (Hewitt and Liang
2019) gives the same probe labels that are random but fixed for each token, and selectivity is what
is read beyond that. Chance: the held-out labels are permuted against the predictions, which is
exact, since held-out prompts had no part in the fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from discovery.statistics.result import Floats

Kind = Literal["class", "token", "number"]
Ints = NDArray[np.int64]

FOLDS = 3  # of the cross-validation; a class has at least so many prompts
PENALTIES = (0.01, 0.1, 1.0)  # C of the logistic regression that are tried
RIDGES = (1.0, 10.0, 100.0, 1000.0)  # alpha of the ridge regression
VARIANCE = 1e-12  # below it, relative to the largest, a column of inputs is constant
TRIES = 20  # draws of control labels until each class has FOLDS prompts


@dataclass(frozen=True)
class Split:
    """One variable's values on the prompts that are fitted on and on those measured on."""

    kind: Kind
    fit_rows: Ints  # prompts that are used: those of classes that are large enough
    test_rows: Ints
    fit: NDArray[Any]  # classes [n], or numbers [n, targets]
    test: NDArray[Any]

    @property
    def is_class(self) -> bool:
        """Whether accuracy is measured, or else the share of variance explained (R2)."""
        return self.kind == "class"


@dataclass(frozen=True)
class Reading:
    """What a probe reads on held-out prompts: accuracy or R2 is sum(gain) / sum(base)."""

    gain: Floats  # [prompts]
    base: Floats  # [prompts], ones for classes
    chosen: float  # the same by cross-validation on the prompts fitted on: to pick by
    p: float  # of the permutation
    penalty: float  # of the regression, the best of some unless it was given

    @property
    def score(self) -> float:
        """Accuracy or R2; R2 is below 0 for a probe that is worse than the mean."""
        return float(self.gain.sum() / self.base.sum())


# ---- variables -----------------------------------------------------------------------------------


def read_variable(
    fit: Sequence[int], test: Sequence[int], fit_tokens: Ints, embed: Callable[[Ints], Floats],
    least: int,
) -> Split | str:  # fmt: skip
    """How a variable can be probed, or a sentence on why it cannot.

    Classes, where those of `least` prompts or more make up most prompts; else a token of the
    prompt, read as its embedding (`embed`; its main directions over the prompts); else a number.
    """
    values, others = np.array(fit), np.array(test)
    counts = Counter(values.tolist())
    if len(counts) < 2:
        return "it has one value"
    kept = sorted(v for v, count in counts.items() if count >= max(least, FOLDS))
    rows, test_rows = (np.flatnonzero(np.isin(v, kept)) for v in (values, others))
    if len(kept) > 1 and len(rows) > 0.8 * len(values) and len(test_rows) >= least:
        return Split("class", rows, test_rows, values[rows], others[test_rows])
    every, every_test = np.arange(len(values)), np.arange(len(others))
    if (fit_tokens == values[:, None]).any(1).all():
        both = _main_directions(embed(values), embed(others))
        return Split("token", every, every_test, *both)
    if len(counts) > FOLDS and len(values) >= 2 * least:
        numbers = (v[:, None].astype(float) for v in (values, others))
        return Split("number", every, every_test, *numbers)
    return f"its classes have fewer than {max(least, FOLDS)} prompts"


def _main_directions(fit: Floats, test: Floats) -> tuple[Floats, Floats]:
    most = max(1, min(16, len(fit) // 4))
    centre = fit.mean(0)
    axes = np.linalg.svd(fit - centre, full_matrices=False)[2][:most]
    return (fit - centre) @ axes.T, (test - centre) @ axes.T


def identities(tokens: Ints, at: Ints, wanted: int) -> list[bytes]:
    """[prompts]: the token at a position of each prompt, or as many before it as it takes.

    The shortest run of tokens ending there that comes in `wanted` kinds: where all prompts have one
    token, it is the wording before that tells them apart.
    """
    runs = list[bytes]()
    for length in range(1, tokens.shape[1] + 1):
        runs = [
            row[max(0, p + 1 - length) : p + 1].tobytes() for row, p in zip(tokens, at, strict=True)
        ]
        if len(set(runs)) >= wanted:
            break
    return runs


def control(
    split: Split, fit_ids: Sequence[bytes], test_ids: Sequence[bytes], rng: np.random.Generator
) -> Split | None:
    """The control task: each kind of token gets a value of the variable's own distribution.

    Drawn with replacement from the values fitted on. None where there is one kind only, or classes
    come out too small.
    """
    fit_ids = [fit_ids[i] for i in split.fit_rows]
    test_ids = [test_ids[i] for i in split.test_rows]
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys([*fit_ids, *test_ids]))}
    for _ in range(TRIES):
        drawn = split.fit[rng.integers(len(split.fit), size=len(kinds))]
        fit, test = (drawn[[kinds[i] for i in ids]] for ids in (fit_ids, test_ids))
        counts = np.unique(fit, axis=0, return_counts=True)[1]
        if len(counts) > 1 and (not split.is_class or counts.min() >= FOLDS):
            return Split(split.kind, split.fit_rows, split.test_rows, fit, test)
    return None


# ---- the probe -----------------------------------------------------------------------------------


def inputs(fit: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Standardised by what is fitted on; wider than half its prompts: so many main directions.

    Columns that do not vary are dropped; with none left a column of zeros stays.
    """
    mean, spread = fit.mean(0), fit.std(0)
    kept = spread > np.sqrt(VARIANCE) * max(spread.max(initial=0.0), 1e-300)
    if not kept.any() or spread.max() < 1e-10:
        return np.zeros((len(fit), 1)), np.zeros((len(test), 1))
    fit, test = ((x[:, kept] - mean[kept]) / spread[kept] for x in (fit, test))
    most = max(1, len(fit) // 2)
    if fit.shape[1] > most:
        axes = np.linalg.svd(fit, full_matrices=False)[2][:most]
        fit, test = fit @ axes.T, test @ axes.T
    return fit, test


def probe(
    fit: Floats, test: Floats, split: Split, permutations: Ints, penalty: float | None = None
) -> Reading:
    """Fit on [prompts, width] of the one half, measure on the other.

    The L2 penalty by cross-validation, unless given. permutations [draws, test prompts of the
    split]: orders of the held-out values for the null; none gives p = 1.
    """
    x, x_test = inputs(fit[split.fit_rows], test[split.test_rows])
    return (_classify if split.is_class else _regress)(x, x_test, split, permutations, penalty)


def _classify(
    x: Floats, x_test: Floats, split: Split, permutations: Ints, penalty: float | None
) -> Reading:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    def model(c: float) -> Any:
        return LogisticRegression(C=c, max_iter=300, tol=1e-3)

    folds = list(StratifiedKFold(FOLDS).split(x, split.fit))
    tried = {
        c: float(np.mean([
            (model(c).fit(x[a], split.fit[a]).predict(x[b]) == split.fit[b]).mean()
            for a, b in folds
        ]))
        for c in (PENALTIES if penalty is None else (penalty,))
    }  # fmt: skip
    best = max(tried, key=lambda c: tried[c])
    said = model(best).fit(x, split.fit).predict(x_test)
    right = (said == split.test).astype(float)
    null = (said == split.test[permutations]).mean(-1)
    return Reading(right, np.ones_like(right), tried[best], _p(float(right.mean()), null), best)


def _regress(
    x: Floats, x_test: Floats, split: Split, permutations: Ints, penalty: float | None
) -> Reading:
    from sklearn.linear_model import RidgeCV

    ridge: Any = RidgeCV(alphas=RIDGES if penalty is None else [penalty]).fit(x, split.fit)
    said = ridge.predict(x_test).reshape(len(x_test), -1)
    mean = split.fit.mean(0)
    base = np.square(split.test - mean).sum(1)
    error = np.square(split.test - said).sum(1)
    products = said @ split.test.T  # of the error of permuted values only these change
    cross = products[np.arange(len(said)), permutations].sum(-1)
    chosen = 1 + ridge.best_score_ / max(float(np.square(split.fit - mean).mean()), 1e-300)
    return Reading(
        base - error, base, float(chosen), _p(products.trace(), cross), float(ridge.alpha_)
    )


def _p(own: float, null: Floats) -> float:
    """With the tie of rounding counted against the probe."""
    return float((1 + (null >= own - 1e-12 * abs(own)).sum()) / (1 + len(null)))
