"""What a story is worth on a bench: each prompt a reference, scrubbed as the story allows.

A loss is the negative of the bench's score, so lower is better; 0 % recovered is the model's output
on a random prompt of the same half, each pair counted once, 100 % the model's own output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import ttest_1samp
from torch import Tensor

from acdc.data import floats
from acdc.forward import stream_of
from acdc.metrics import KL, Bound
from discovery.explanation.story.claims import Chance, Place, Story, claims
from discovery.explanation.story.data import Pool, Rows
from discovery.explanation.story.runs import LazyRuns, Recent
from discovery.scrubbing.engine import Classes, scrub
from discovery.scrubbing.score import Recovered, recovered
from discovery.scrubbing.transformer import transformer
from discovery.validation.bench import SCORES, Bench

BYTES = 2**29  # of runs, and of values of claims, that are kept from story to story


@dataclass(frozen=True)
class Scrub:
    """A story's losses. What is drawn is drawn anew for each draw."""

    loss: Float[np.ndarray, "reference draw"]  # - score
    kl: Float[np.ndarray, "reference draw"]  # KL(model || scrubbed), nats
    classes: dict[str, Classes]  # what each claim had to swap with, by the place's label


@dataclass(frozen=True)
class Change:
    """One story against another on the same references, in shares of the whole way."""

    mean: float  # share recovered after - before
    p_value: float  # two-sided paired t-test over references that it is 0


class Judge:
    """Scrubs stories on one bench; runs, and values of unchanged claims, are kept."""

    def __init__(
        self, bench: Bench, nodes: Sequence[str], references: int, part: int
    ) -> None:  # fmt: skip
        """`nodes`: all that stories may speak of; `references`: the first so many prompts."""
        data, graph = bench.data, bench.graph
        named = [n for n in dict.fromkeys(nodes) if n != "logits"]
        writers = [graph.writer_index[n] for n in named]
        places = [graph.place(w) for w in writers if w]
        parts = [(layer, "mlp" if i == graph.n_heads else "q") for layer, i in places]
        streams = [stream_of(graph, *place) for place in [*parts, (graph.n_layers, "logits")]]
        self.bench, self.pool = bench, Pool(data.prompts)
        self.runs = LazyRuns(data.model, graph, self.pool, writers, streams, part, BYTES)
        self.computation = transformer(data.model, graph, data.prompts, named, None, self.runs)
        self.references = np.arange(min(references, self.pool.n))
        self.n_scrubbed = 0  # stories so far
        self._kept = Recent(BYTES)
        self._bound: dict[bytes, tuple[Bound, Bound]] = {}
        self.model = self._measure(self.runs.logits[self.references], self.references)[:, 0]
        self.baseline = self._baseline()
        self.span = float((self.baseline[:, 0] - self.model).mean())

    def scrub(
        self, found: Sequence[Place], story: Story, chance: Chance, draws: int = 1
    ) -> Scrub:  # fmt: skip
        """Losses of a story on a tree of places; without any claim they are the baseline's."""
        hypothesis = claims(found, story, self.pool, chance)
        self.n_scrubbed += 1
        if not hypothesis.children:
            loss, kl = (self.baseline[:, [i]].repeat(draws, 1) for i in (0, 1))
            return Scrub(loss, kl, {})
        with torch.no_grad():
            done = scrub(
                self.computation, hypothesis, self.references, np.random.default_rng(0), draws,
                batch=len(self.references) * draws, measure=self._measure, kept=self._kept,
            )  # fmt: skip
        classes = {label.removeprefix("logits/"): c for label, c in done.classes.items()}
        classes = {label.rpartition("/")[2]: c for label, c in classes.items()}
        return Scrub(done.output[..., 0], done.output[..., 1], classes)

    def share(self, done: Scrub) -> float:
        """Share recovered, without its interval."""
        return float((self.baseline[:, 0] - done.loss.mean(1)).mean()) / self.span

    def recovered(self, done: Scrub, level: float, rng: np.random.Generator) -> Recovered:
        """Share recovered. InputError if the model is no better than on a random prompt."""
        base = self.baseline[:, 0]
        return recovered(self.model, base, done.loss, "a random prompt", rng, 1 - level)

    def kl_share(self, done: Scrub) -> float:
        """1 - KL / the baseline's: 1 the model's own distribution, 0 that of a random prompt."""
        return 1 - float(done.kl.mean() / self.baseline[:, 1].mean())

    def change(self, before: Scrub, after: Scrub) -> Change:
        """What a change of the story does to the share recovered."""
        moved = (before.loss - after.loss).mean(1) / self.span
        if np.ptp(moved) == 0:
            return Change(float(moved.mean()), float(moved[0] == 0))
        found: Any = ttest_1samp(moved, 0)
        return Change(float(moved.mean()), float(found.pvalue))

    def _measure(self, logits: Tensor, rows: Rows) -> Float[np.ndarray, "sample 2"]:
        """Loss and KL of logits on these references' prompts."""
        if (key := rows.tobytes()) not in self._bound:
            prompts = self.bench.data.prompts.take(rows.tolist())
            clean = self.runs.logits[torch.as_tensor(rows)]
            score, kl = (m.bind(prompts, clean) for m in (SCORES[self.bench.score], KL))
            self._bound[key] = score, kl
        score, kl = self._bound[key]
        return np.stack(
            [floats(score.sign * score.of_logits(logits)), floats(kl.of_logits(logits))], 1
        )

    def _baseline(self) -> Float[np.ndarray, "reference 2"]:
        """Expected loss and KL with a random prompt's logits: the mean over all of them."""
        total = np.zeros((len(self.references), 2))
        for logits in self.runs.logits:
            total += self._measure(logits.expand(len(self.references), -1), self.references)
        return total / self.pool.n
