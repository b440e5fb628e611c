"""The share of the model that a circuit recovers, two-sided: what targets are about.

A mean can be right by errors that cancel, so what counts are the errors of single prompts, of the
metric (Bound.error) and of KL, each as a share of the empty circuit's; the lower share is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.metrics import KL, Metric, differ


class Share:
    """How much of what cutting every edge changes circuits leave as it is, on some prompts.

    1 = the model, 0 = no better than the empty circuit, below = worse; 0 also where the
    metric and KL do not tell the model from the empty circuit.
    """

    def __init__(self, data: Data, metric: Metric) -> None:
        self.data, self.metrics = data, list(dict.fromkeys((metric, KL)))
        nothing = np.zeros_like(data.graph.legal)
        self.empty = [float(data.errors(m, [nothing]).mean()) for m in self.metrics]

    def of(self, mask: NDArray[np.bool_]) -> float:
        """The lower of the shares of KL and of the metric's error."""
        errors = [
            [float(forward.bound(m).error(logits).double().sum()) for m in self.metrics]
            for forward in self.data
            for logits in (forward.run(mask),)
        ]
        means = np.array(errors).sum(0) / len(self.data)
        known = [(m, e) for m, e in zip(means, self.empty, strict=True) if differ(e, 0.0)]
        return min((1 - float(mean) / empty for mean, empty in known), default=0.0)
