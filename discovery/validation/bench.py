"""The bench that circuits are tried on: a model and held-out prompts; masks in, scores out.

Every prompt's score is kept, since every statistic of validation is over prompts. Scores are
signed so that higher = the model does the task better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.errors import InputError
from acdc.forward import Ablation, PatchedForward
from acdc.graph import Graph
from acdc.metrics import Metric, correct, make_metric
from acdc.model import Model
from acdc.prompts import Prompts

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # [writers, readers]
ScoreName = Literal["logit_diff", "log_prob"]
CHUNK = 40  # prompts whose activations are worked on together


@dataclass(frozen=True)
class Values:
    """What a model or circuit does on every prompt."""

    score: Floats  # [prompts], higher = better
    kl: Floats  # [prompts], KL(model || this), nats
    correct: Floats  # [prompts], 1 if right (acdc.metrics.correct)


@dataclass(frozen=True)
class Part:
    """Some of the prompts, with their two runs and their metrics."""

    forward: PatchedForward
    score: Metric
    kl: Metric

    def values(self, logits: torch.Tensor) -> Values:
        """Of logits [batch, vocab] on this part's prompts."""
        right = np.array(correct(self.forward.prompts, logits), float)
        score = -self.score.sign * self.score.of_logits(logits)
        return Values(_floats(score), _floats(self.kl.of_logits(logits)), right)


class Bench:
    """A model's prompts in parts; `run` decides what is done on each."""

    def __init__(self, parts: Sequence[Part], score: ScoreName) -> None:
        self.parts = tuple(parts)
        self.score: ScoreName = score
        self.graph: Graph = parts[0].forward.graph
        self.n = sum(len(p.forward.prompts) for p in parts)

    @cached_property
    def model(self) -> Values:
        """Values of the whole model."""
        return self.run(lambda forward: forward.clean.logits)

    @cached_property
    def empty(self) -> Values:
        """Values with every edge cut."""
        return self.circuit(self.graph.legal & False)

    @property
    def unit(self) -> str:
        """Of the score."""
        return "logits" if self.score == "logit_diff" else "nats"

    def run(self, logits: Callable[[PatchedForward], torch.Tensor]) -> Values:
        """Values of any run of the parts, prompts in order."""
        return _join([part.values(logits(part.forward)) for part in self.parts])

    def circuit(self, mask: Mask) -> Values:
        """Values with the edges of `mask` kept and all others cut."""
        return self.run(lambda forward: forward.run(mask))

    def scores(self, masks: Sequence[Mask]) -> Floats:
        """[masks, prompts]: the score of each circuit."""
        return np.array([self.circuit(mask).score for mask in masks])

    def first(self, n: int) -> Bench:
        """A bench of the first parts, n prompts or a few more; InputError if there are too few."""
        if n > self.n:
            raise InputError(f"{n} prompts are asked for, but only {self.n} are held out")
        sizes = np.cumsum([len(p.forward.prompts) for p in self.parts])
        return Bench(self.parts[: int(np.searchsorted(sizes, n)) + 1], self.score)

    def under(self, ablation: Ablation) -> Bench:
        """The same prompts with other values on cut edges."""
        return self._each(lambda forward: forward.under(ablation))

    def permuted(self, feature: str, rng: np.random.Generator) -> Bench:
        """The same prompts with one feature's values permuted over each part's."""

        def change(forward: PatchedForward) -> PatchedForward:
            prompts, other = forward.prompts, copy(forward)
            values = rng.permutation(prompts.features[feature]).tolist()
            features = {**prompts.features, feature: tuple(values)}
            other.prompts = replace(prompts, features=features)
            return other

        return self._each(change)

    def _each(self, change: Callable[[PatchedForward], PatchedForward]) -> Bench:
        parts = [Part(change(p.forward), p.score, p.kl) for p in self.parts]
        return Bench(parts, self.score)


def make_bench(
    model: Model, graph: Graph, prompts: Prompts, ablation: Ablation, chunk: int = CHUNK
) -> Bench:
    """A bench of held-out prompts; the score is what their answers allow.

    logit_diff (logits) where every prompt names wrong answers, else log_prob, the log of the
    answers' probability (nats). InputError where prompts name no answers.
    """
    if not prompts.has_answers:
        raise InputError(
            "validation needs `answers` on every prompt: without them nothing says what the model"
            " should do"
        )
    score: ScoreName = "logit_diff" if prompts.has_wrong else "log_prob"
    parts = []
    for start in range(0, len(prompts), chunk):
        rows = range(start, min(start + chunk, len(prompts)))
        forward = PatchedForward(model, graph, prompts.take(rows), ablation)
        clean = forward.clean.logits
        name = "nll" if score == "log_prob" else "logit_diff"
        own, kl = (make_metric(m, forward.prompts, clean) for m in (name, "kl"))
        parts.append(Part(forward, own, kl))
    return Bench(parts, score)


def node_mask(graph: Graph, mask: Mask) -> Mask:
    """All edges between the nodes that a circuit's edges touch: the circuit at node granularity."""
    kept = graph.touched(mask)
    read = np.array([not r.nodes or bool(kept[list(r.nodes)].any()) for r in graph.readers])
    return graph.legal & kept[:, None] & read[None, :]


def without(mask: Mask, writers: Sequence[int]) -> Mask:
    """The circuit with some nodes knocked out: nobody reads them."""
    out = mask.copy()
    out[list(writers)] = False
    return out


def _join(values: Sequence[Values]) -> Values:
    return Values(
        np.concatenate([v.score for v in values]),
        np.concatenate([v.kl for v in values]),
        np.concatenate([v.correct for v in values]),
    )


def _floats(values: torch.Tensor) -> Floats:
    return values.double().cpu().numpy()
