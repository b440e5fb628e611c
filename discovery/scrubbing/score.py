"""Judging a scrubbed model: from losses, logits, features and activations, whatever made them.

Losses are in any unit where lower is better (mostly nats), one a reference; scrubbed losses are
[reference, draw]. Percent recovered alone tells hypotheses apart badly: the trivial feature "the
label" scores high (see `retained`), a wrong one can score well (see `calibrated_information` and
`discovery.statistics`), and the mean hides a tail (see `effect`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import bootstrap

from acdc.errors import InputError
from discovery.scrubbing.samplers import class_ids

BCA_UP_TO = 3000  # references; above, BCa's correction is far below the width of the interval
ROUNDING = 1e-12  # of the largest gap: resamples that differ by less differ by nothing
ALIKE = 2.0  # standard errors between model and baseline below which nothing is divided
ELEMENTS = 2_000_000  # of a resampled array at a time

Losses = Float[np.ndarray, " reference"]


@dataclass(frozen=True)
class Recovered:
    """(L_base - L_scrub) / (L_base - L_model), a fraction: 0 the baseline, 1 the model."""

    value: float
    low: float  # of the confidence interval
    high: float
    error: float  # standard error over references
    level: float  # of the interval
    method: Literal["BCa", "percentile"]  # of the bootstrap
    baseline: str  # what the zero is
    model_loss: float
    baseline_loss: float
    scrubbed_loss: float
    scrubbed_error: float  # standard error of the scrubbed loss over references


def recovered(
    model: Losses,
    baseline: Losses,
    scrubbed: Float[np.ndarray, "reference draw"],
    name: str,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> Recovered:
    """How much of the way from a baseline (`name`) to the model the scrubbed model keeps.

    The interval is a bootstrap over references, all three losses resampled together; the standard
    error is the linearised one. May exceed 1 or be negative. Raises InputError where baseline and
    model differ by less than twice the standard error of their difference.
    """
    mean = scrubbed.mean(1)
    if not len(model) == len(baseline) == len(mean) > 1:
        raise InputError(
            f"losses of {len(model)} (model), {len(baseline)} (baseline) and {len(mean)} (scrubbed)"
            " references: as many of each are needed, at least 2"
        )
    if not all(np.isfinite(losses).all() for losses in (model, baseline, mean)):
        raise InputError("losses: all must be finite")
    gap = baseline - model
    span, unsure = gap.mean(), standard_error(gap)
    if abs(span) <= ALIKE * unsure or np.isclose(baseline.mean(), model.mean(), rtol=1e-9):
        raise InputError(
            f"baseline {name!r}: its loss {baseline.mean():.4g} is that of the model"
            f" {model.mean():.4g} within {ALIKE:g} standard errors, so nothing can be recovered"
        )

    def fraction(base: Any, model: Any, scrub: Any, axis: int = -1) -> Any:
        base = base.mean(axis)
        return (base - scrub.mean(axis)) / (base - model.mean(axis))

    value = float(fraction(baseline, model, mean))
    method = "BCa" if len(mean) <= BCA_UP_TO else "percentile"
    low, high = value, value
    if np.ptp(baseline - mean - value * gap) > ROUNDING * np.abs(gap).max():
        found = bootstrap(
            (baseline, model, mean), fraction, paired=True, vectorized=True, method=method,
            confidence_level=level, n_resamples=resamples, rng=generator,
            batch=max(1, ELEMENTS // len(mean)),
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    return Recovered(
        value=value,
        low=low,
        high=high,
        error=float(standard_error((baseline - mean - value * gap) / span)),
        level=level,
        method=method,
        baseline=name,
        model_loss=float(model.mean()),
        baseline_loss=float(baseline.mean()),
        scrubbed_loss=float(mean.mean()),
        scrubbed_error=standard_error(mean),
    )


def standard_error(values: Losses) -> float:
    """Of the mean of independent values; 0 for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Effect:
    """Loss of the scrubbed model minus loss of the model, per reference and draw."""

    mean: float
    median: float
    rms: float  # does not cancel between inputs that gain and inputs that lose
    share_worse: float  # above 0
    share_1_nat: float  # above 1
    data_variance: float | None  # of the expected loss between references; None for one draw
    scrub_variance: float | None  # of the loss between the draws of one reference; likewise


def effect(model: Losses, scrubbed: Float[np.ndarray, "reference draw"]) -> Effect:
    """What the mean hides. With m draws the variance of the mean scrubbed loss over n references
    is data_variance / n + scrub_variance / (n m).
    """
    delta = scrubbed - model[:, None]
    data = scrub = None
    draws = scrubbed.shape[1]
    if draws > 1 and len(scrubbed) > 1:
        scrub = float(scrubbed.var(axis=1, ddof=1).mean())
        data = max(0.0, float(scrubbed.mean(1).var(ddof=1)) - scrub / draws)
    return Effect(
        mean=float(delta.mean()),
        median=float(np.median(delta)),
        rms=float(np.sqrt(np.square(delta).mean())),
        share_worse=float((delta > 0).mean()),
        share_1_nat=float((delta > 1).mean()),
        data_variance=data,
        scrub_variance=scrub,
    )


def cross_entropy(
    logits: Float[np.ndarray, "sample label"], labels: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """-log softmax at the label, in nats."""
    return -np.take_along_axis(log_softmax(logits, axis=1), labels[:, None], 1)[:, 0]


def entropy(values: Any) -> float:
    """Of the values' own shares, in nats; of labels, it is the loss of the best constant guess."""
    share = np.bincount(class_ids(values)) / len(values)
    return float(-(share * np.log(share)).sum())


def constant_guess_loss(labels: NDArray[np.integer]) -> float:
    """Nats lost by who knows the labels' shares alone: a second zero point for scores."""
    return entropy(labels)


@dataclass(frozen=True)
class Calibrated:
    """What the scrubbed logits still say of the label, after the best scale and biases."""

    information: float  # 1 - loss / H(label): 1 all, 0 nothing; below 0 only by noise
    loss: float  # nats, held out
    label_entropy: float  # nats


def calibrated_information(
    logits: Float[np.ndarray, "sample ..."], labels: Int[np.ndarray, " sample"]
) -> Calibrated:
    """Fit one scale and a bias per label on half of the samples, take the loss on the other half.

    Both ways round, averaged; the halves are the even and the odd samples, so all draws of one
    reference must not be neighbours. `logits` is [sample, label], or [sample]: the logit difference
    of label 1 against label 0. A scale, unlike percent recovered, forgives wrong confidence.
    """
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], 1)
    if len(labels) < 4 or len(np.unique(labels)) < 2:
        raise InputError("calibration: at least 4 samples and 2 different labels are needed")
    logits = logits.astype(np.float64)
    losses = np.empty(len(labels))
    for begin in (0, 1):
        scale, bias = _calibrate(logits[begin::2], labels[begin::2])
        held = slice(1 - begin, None, 2)
        losses[held] = cross_entropy(scale * logits[held] + bias, labels[held])
    loss, known = float(losses.mean()), entropy(labels)
    return Calibrated(1 - loss / known, loss, known)


def _calibrate(
    logits: NDArray[np.float64], labels: NDArray[np.integer]
) -> tuple[float, NDArray[np.float64]]:
    """Scale and biases of least cross-entropy; a convex problem."""
    unit = logits.std() or 1.0
    scaled = logits / unit
    hot = np.eye(logits.shape[1])[labels]

    def loss(free: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = log_softmax(free[0] * scaled + free[1:], axis=1)
        wrong = (np.exp(log_p) - hot) / len(labels)
        slope = np.concatenate([[(wrong * scaled).sum()], wrong.sum(0)])
        return float(-(hot * log_p).sum() / len(labels)), slope

    start = np.zeros(1 + logits.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return float(found[0] / unit), found[1:]


@dataclass(frozen=True)
class Retained:
    """What agreeing on a feature keeps fixed."""

    information: float  # H(feature), nats
    beyond_label: float  # H(feature | label), nats; 0: the feature is the label, no mechanism
    classes: int
    mean_class: float  # size of a datum's class, on average


def retained(feature: Any, labels: NDArray[np.integer]) -> Retained:
    """Information in a feature over the data set, in all and given the label."""
    ids = class_ids(feature)
    size = np.bincount(ids)
    joint = entropy(np.stack([ids, class_ids(labels)], 1))
    return Retained(
        information=entropy(ids),
        beyond_label=max(0.0, joint - entropy(labels)),
        classes=len(size),
        mean_class=float(size[ids].mean()),
    )


def variance_explained(activation: Float[np.ndarray, "datum part"], feature: Any) -> float:
    """One-way R^2: share of the activation's variance between the classes of the feature.

    For the variance within one label give the data of that label only. Grows by chance with the
    number of classes. 0 for an activation that never varies.
    """
    ids = class_ids(feature)
    centred = activation.astype(np.float64) - activation.mean(0, dtype=np.float64)
    total = np.square(centred).sum()
    sums = np.zeros((ids.max() + 1, centred.shape[1]))
    np.add.at(sums, ids, centred)
    between = (np.square(sums).sum(1) / np.bincount(ids)).sum()
    return float(between / total) if total else 0.0
