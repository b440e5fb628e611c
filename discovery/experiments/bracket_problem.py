"""The search for roles on a bracket classifier: which direct term carries which test."""

from __future__ import annotations

from discovery.experiments.brackets import baseline, losses
from discovery.experiments.brackets_graph import BracketData, computation
from discovery.experiments.feature_search import Problem

FEATURES = ("start", "count", "count_start", "horizon", "balanced")


def bracket_problem(data: BracketData, draws: int = 1) -> Problem:
    """All heads and MLPs by their direct terms. Of the features, `balanced` is the label itself.

    The embedding at position 0 is the same for all strings and carries nothing.
    """
    return Problem(
        computation(data),
        parts=tuple(name for name in data.network.terms if name != "embed"),
        features={name: data.features[name] for name in FEATURES},
        labels=data.labels,
        measure=lambda z, rows: losses(z.double().numpy(), data.labels[rows]),
        baseline=baseline(data),
        draws=draws,
    )
