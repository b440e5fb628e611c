"""The share of the model that a circuit recovers, two-sided: what targets are about.

A mean can be right by errors that cancel, so what counts are the errors of single prompts, of the
metric (Bound.error) and of KL, each as a share of the empty circuit's; the lower share is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.metrics import KL, Metric, differ, two_sided

Floats = NDArray[np.float64]


def share_kept(lost: float, whole: float) -> float | None:
    """1 - lost / whole, mean errors of a circuit and of the empty one; None if the latter is 0."""
    return 1 - lost / whole if differ(whole, 0.0) else None


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's; None where one of them does not vary, or there are fewer than three."""
    ranges = [differ(float(own.min()), float(own.max())) for own in (a, b)]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and all(ranges) else None


class Share:
    """How much of what cutting every edge changes circuits leave as it is, on some prompts.

    1 = the model, 0 = no better than the empty circuit, below = worse; 0 also where the
    metric and KL do not tell the model from the empty circuit.
    """

    def __init__(self, data: Data, metric: Metric) -> None:
        self.data, self.metrics = data, list(dict.fromkeys((metric, KL)))
        nothing = np.zeros_like(data.graph.legal)
        self.empty = [float(data.errors(m, [nothing]).mean()) for m in self.metrics]

    def each(self, mask: NDArray[np.bool_]) -> dict[str, float]:
        """By the metric's name, and by kl; without those that cannot tell model from empty."""
        errors = [
            [float(forward.values(two_sided(m), final).double().sum()) for m in self.metrics]
            for forward in self.data
            for final in (forward.final(mask),)
        ]
        means = np.array(errors).sum(0) / len(self.data)
        shares = {
            m.name: share_kept(float(mean), whole)
            for m, mean, whole in zip(self.metrics, means, self.empty, strict=True)
        }
        return {name: share for name, share in shares.items() if share is not None}

    def of(self, mask: NDArray[np.bool_]) -> float:
        """The lower of the shares of KL and of the metric's error."""
        return lower(self.each(mask))


def lower(shares: Mapping[str, float]) -> float:
    """The lowest of some shares; 0 of none."""
    return min(shares.values(), default=0.0)
