"""The bench that circuits are tried on: a model and held-out prompts; masks in, scores out.

Every prompt's score is kept, since every statistic of validation is over prompts. Scores are
signed so that higher = the model does the task better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.ablation import RESAMPLE, Ablation
from acdc.attribution import edge_changes
from acdc.data import Data, floats
from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.graph import Graph
from acdc.memory import batch_bytes
from acdc.metrics import KL, LOGIT_DIFF, NLL, Metric, correct
from acdc.model import Model
from acdc.prompts import Prompts
from acdc.share import correlation, share_kept
from discovery.job.shares import zero_point

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # [writers, readers]
ScoreName = Literal["logit_diff", "log_prob"]
SCORES: dict[ScoreName, Metric] = {"logit_diff": LOGIT_DIFF, "log_prob": NLL}
NAMES = ("score", "kl", "correct")  # of Values
CHUNK = 40  # prompts whose activations are worked on together


@dataclass(frozen=True)
class Values:
    """What a model or circuit does on every prompt; [prompts, draws] where something is drawn."""

    score: Floats  # [prompts], higher = better
    kl: Floats  # [prompts], KL(model || this), nats
    correct: Floats  # [prompts], 1 if right (acdc.metrics.correct), in all tokens of the answer


@dataclass(frozen=True)
class TwoSided:
    """What a mean hides: errors that cancel. Shares have 1 at the model, 0 at the empty circuit."""

    kl_share: float | None  # 1 - mean KL / the empty circuit's; None: that is 0
    error_share: float | None  # 1 - mean |score - model's| / the empty circuit's; None likewise
    correlation: float | None  # of the score with the model's, over prompts; None: one is constant
    accuracy: float


def two_sided(run: Values, model: Values, empty: Values) -> TwoSided:
    """How alike a run and the model are, prompt by prompt."""
    score = run.score if run.score.ndim > 1 else run.score[:, None]
    target = np.broadcast_to(model.score[:, None], score.shape)
    lost, whole = np.abs(score - target).mean(), np.abs(empty.score - model.score).mean()
    return TwoSided(
        share_kept(float(run.kl.mean()), float(empty.kl.mean())),
        share_kept(float(lost), float(whole)),
        correlation(score.ravel(), target.ravel()),
        float(run.correct.mean()),
    )


class Bench:
    """A model's held-out prompts; `run` decides what is done on each part.

    `paired` are the same prompts with the task's own corrupt ones, where the run asked of others.
    """

    def __init__(self, data: Data, score: ScoreName, paired: Data | None = None) -> None:
        self.data, self.graph, self.n = data, data.graph, len(data)
        self.score: ScoreName = score
        self.paired = paired

    @cached_property
    def model(self) -> Values:
        """Values of the whole model."""
        return self.run(lambda forward: forward.clean.logits)

    @cached_property
    def empty(self) -> Values:
        """Values with every edge cut."""
        return self.circuit(self.graph.legal & False)

    @property
    def zero(self) -> str:
        """What 0 % is of every share: what the cut edges of the empty circuit carry."""
        return zero_point(self.data.ablation.name)

    @property
    def unit(self) -> str:
        """Of the score."""
        return "logits" if self.score == "logit_diff" else "nats"

    def score_of(self, forward: PatchedForward, logits: torch.Tensor) -> torch.Tensor:
        """[..., batch]: the score of logits [..., batch, vocab] on a part's prompts."""
        metric = SCORES[self.score]
        return -metric.sign * forward.bound(metric).of_logits(logits)

    def run(self, logits: Callable[[PatchedForward], torch.Tensor]) -> Values:
        """Values of any run of the parts, prompts in order."""

        return self.joined(self.data.each(lambda forward: self.values(forward, logits(forward))))

    def joined(self, parts: Sequence[Values]) -> Values:
        """The values of all parts, prompts in order."""
        own = {name: [getattr(v, name) for v in parts] for name in NAMES}
        return Values(
            self.data.join(own["score"]), self.data.join(own["kl"]),
            self.data.join(own["correct"], of=np.minimum),
        )  # fmt: skip

    def values(self, forward: PatchedForward, logits: torch.Tensor) -> Values:
        """Values of logits [batch, vocab] on a part's prompts."""
        return Values(
            floats(self.score_of(forward, logits)),
            floats(forward.bound(KL).of_logits(logits)),
            np.array(correct(forward.prompts, logits), float),
        )

    def circuit(self, mask: Mask) -> Values:
        """Values with the edges of `mask` kept and all others cut."""
        return self.run(lambda forward: forward.run(mask))

    def scores(self, masks: Sequence[Mask], alike: Mask | None = None) -> Floats:
        """[masks, prompts]: the score of each circuit; `alike` as in Data.circuits."""
        metric = SCORES[self.score]
        return -metric.sign * self.data.circuits(metric, masks, alike)

    def edge_changes(self, mask: Mask, edges: NDArray[np.integer]) -> Floats:
        """[edges, prompts]: what cutting one of `edges` [edges, 2] alone adds to the score."""
        metric = SCORES[self.score]
        return -metric.sign * edge_changes(self.data, metric, mask, edges)

    def scored(self, final: Callable[[PatchedForward], torch.Tensor]) -> Floats:
        """[prompts]: the score alone of any run of the parts, from what the final norm sees."""
        metric = SCORES[self.score]
        parts = self.data.each(lambda forward: floats(forward.values(metric, final(forward))))
        return -metric.sign * self.data.join(parts)

    def first(self, n: int) -> Bench:
        """A bench of the first prompts: n or a few more, or all if there are fewer."""
        paired = None if self.paired is None else self.paired.at_least(n)
        return Bench(self.data.at_least(n), self.score, paired)

    def of_length(self, length: int) -> Bench:
        """The prompts of one length; InputError if there are none."""
        rows = [i for i, own in enumerate(self.data.prompts.lengths) if own == length]
        if not rows:
            raise InputError(f"no prompt has {length} tokens")
        return self.take(rows)

    def take(self, rows: Sequence[int]) -> Bench:
        """Some of the prompts; nothing of theirs is run yet."""
        paired = None if self.paired is None else self.paired.take(rows)
        return Bench(self.data.take(rows), self.score, paired)

    def under(self, ablation: Ablation) -> Bench:
        """The same prompts with other values on cut edges."""
        if ablation is RESAMPLE and self.paired is not None:
            return Bench(self.paired, self.score)
        return Bench(self.data.under(ablation), self.score)

    def permuted(self, feature: str, rng: np.random.Generator) -> Bench:
        """The same prompts with one feature's values permuted over each group's."""
        features = self.data.prompts.features
        values = np.array(features[feature])
        for rows in map(list, self.data.groups):
            values[rows] = rng.permutation(values[rows])
        permuted = {**features, feature: tuple(values.tolist())}
        return Bench(self.data.with_features(permuted), self.score)


def make_bench(
    model: Model, graph: Graph, prompts: Prompts, ablation: Ablation, chunk: int = CHUNK,
    paired: Prompts | None = None,
) -> Bench:  # fmt: skip
    """A bench of held-out prompts; the score is what their answers allow.

    `paired`: the same prompts, row by row, with the task's own corrupt ones, if they are others.

    logit_diff (logits) where every prompt names wrong answers, else log_prob, the log of the
    answers' probability (nats). InputError where prompts name no answers.
    """
    if not prompts.has_answers:
        raise InputError(
            "validation needs `answers` on every prompt: without them nothing says what the model"
            " should do"
        )
    batch = batch_bytes(model.device)
    data = Data(model, graph, prompts, ablation, chunk, batch_bytes=batch)
    twin = None if paired is None else Data(model, graph, paired, RESAMPLE, chunk)
    return Bench(data, "logit_diff" if prompts.has_wrong else "log_prob", twin)


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
