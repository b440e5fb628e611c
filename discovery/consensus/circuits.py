"""Circuits of one method on parts of the prompts, in other orders, at other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.metrics import Metric
from discovery.methods import Method, Scoring, last
from discovery.methods.choosing import choose

Mask = NDArray[np.bool_]  # [writers, readers]


def averages(method: Method, data: Data) -> bool:
    """Whether its scores on a resample are the mean of what they are on single prompts."""
    return method.by_prompt and data.ablation.by_prompt


def circuits(
    method: Method, data: Data, metric: Metric, rows: Sequence[Sequence[int]],
    seeds: Sequence[int], times: Sequence[float] = (1.0,),
) -> Iterator[Mask]:  # fmt: skip
    """What the method finds on each choice of prompts, with its seed; sizes that are given join.

    Scores that are means over prompts are made once a prompt; any other method is run in full.
    `times` are multiples of the method's own size (Method.times); of several, an edge counts that
    is in any of their circuits.
    """
    sized = [method.times(factor) for factor in times]
    scores = None
    if isinstance(method, Scoring) and averages(method, data):
        data.each(lambda forward: forward.clean)  # all at once: those of single prompts are held
        scores = np.stack([method.scores(data.take([i]), metric, s) for i, s in _each(data, seeds)])
    for chosen, seed in zip(rows, seeds, strict=True):
        found = np.zeros_like(data.graph.legal)
        some = None if scores is not None else data.take(chosen)
        for one in sized:
            if scores is not None:
                assert isinstance(one, Scoring)  # as `method` is
                found |= choose(one, data.graph, scores[chosen].mean(0), seed).circuit.mask
            elif some is not None:
                found |= last(one.find(some, metric, seed)).mask
        yield found


def _each(data: Data, seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every prompt, all with the first seed: a score that is a mean of prompts draws nothing."""
    return ((i, seeds[0]) for i in range(len(data)))
