"""Causal scrubbing of a circuit: kept edges see the reference prompt, all others resampled ones.

The hypothesis that a circuit stands for (Chan et al. 2022): only the kept edges matter, so what the
others carry may come from any prompt of the task. Three questions, since the draws differ:

    shared     one other prompt supplies everything that is not in the circuit
    per node   each node draws its own (the algorithm's rule: one for all unimportant inputs)
    per edge   each cut edge draws its own; what it carries no longer fits together

and a stronger claim, `agree`: what the circuit reads of the reference prompt itself (kept edges out
of `input`) may come from any prompt that agrees with it on named features, drawn by each node.
Drawn from the prompts of one part, with replacement, the reference included; all tokens of an
answer see the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from acdc.forward import PatchedForward, bias_streams, stream_of
from acdc.live import Known, run_live
from discovery.validation.bench import NAMES, Bench, Floats, Mask, Values

How = Literal["shared", "per node", "per edge"]
HOWS: tuple[How, ...] = ("shared", "per node", "per edge")
EDGE_ROWS = 4096  # edges x prompts gathered at a time


@dataclass(frozen=True)
class Scrubbed:
    """What one hypothesis gives, and how much was really swapped."""

    values: Values  # [prompts, draws]
    smallest_class: int  # prompts in the smallest class of agreeing ones met
    lonely: float  # share of prompts that agree with nobody but themselves: nothing is swapped

    @property
    def score(self) -> Floats:
        """[prompts, draws]."""
        return self.values.score


class ResampledCuts:
    """Cut edges carry clean outputs of other prompts (see acdc/live.py, Cuts)."""

    offset = None  # what a kept edge replaces depends on its reader

    def __init__(
        self, forward: PatchedForward, how: How, rng: np.random.Generator,
        agree: Int[np.ndarray, " batch"] | None = None,
    ) -> None:  # fmt: skip
        self.forward, self.graph, self.how, self.rng = forward, forward.graph.plain, how, rng
        self.n = len(forward.prompts)
        self.biases = bias_streams(forward.model)
        self.shared = self._rows()
        self.agree = agree
        self.nodes: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}

    def key(self, reader: int) -> tuple[int, int]:
        """Readers of one node receive the same (their whole draw, if each edge has its own)."""
        node = self._node(reader)
        alone = self.how == "per edge"
        return reader if alone else 0, -1 if self.how == "shared" and self.agree is None else node

    def base(self, reader: int, kept: Sequence[int], span: int) -> Tensor:
        """Biases and the cut edges' resampled sum; where `agree`, the change of the input too."""
        graph, info = self.graph, self.graph.readers[reader]
        stream, n = stream_of(graph, info.layer, info.part), int(graph.senders[reader])
        clean = self.forward.clean
        if self.how == "per edge":
            cut = np.setdiff1d(np.arange(n), kept)
            total = self._each_edge(cut, span) + self.biases[stream]
        elif 2 * len(kept) <= n:
            rows = self._draw(reader)
            total = clean.streams[stream, rows, -span:]
            if kept:
                total = total - clean.writers.total(kept, span, rows)
        else:
            cut = np.setdiff1d(np.arange(n), kept).tolist()
            rows = self._draw(reader)
            total = clean.writers.total(cut, span, rows) + self.biases[stream]
        if self.agree is not None and 0 in kept:
            own = clean.writers.take([0], span)[0]
            total = total + own[self._agreeing(self._node(reader))] - own
        return total

    def _node(self, reader: int) -> int:
        nodes = self.graph.readers[reader].nodes
        return nodes[0] if nodes else len(self.graph.writers)

    def _rows(self) -> Tensor:
        return torch.as_tensor(self.rng.integers(self.n, size=self.n))

    def _draw(self, reader: int) -> Tensor:
        if self.how == "shared":
            return self.shared
        node = self._node(reader)
        if node not in self.nodes:
            self.nodes[node] = self._rows()
        return self.nodes[node]

    def _agreeing(self, node: int) -> Tensor:
        assert self.agree is not None  # asked for only then
        if node not in self.inputs:
            rows = [self.rng.choice(np.flatnonzero(self.agree == c)) for c in self.agree]
            self.inputs[node] = torch.as_tensor(np.array(rows))
        return self.inputs[node]

    def _each_edge(self, cut: Int[np.ndarray, " cut"], span: int) -> Tensor:
        writers = self.forward.clean.writers
        total = writers.total([], span)
        step = max(1, EDGE_ROWS // self.n)
        for start in range(0, len(cut), step):
            some = cut[start : start + step].tolist()
            rows = torch.as_tensor(self.rng.integers(self.n, size=(len(some), self.n)))
            total = total + writers.total(some, span, rows)
        return total


def scrub_circuit(
    bench: Bench, mask: Mask, how: How, draws: int, rng: np.random.Generator,
    agree: Sequence[str] = (),
) -> Scrubbed:  # fmt: skip
    """Scores of a circuit under resampling, several draws a prompt.

    `agree` names features (Prompts.features) on which the circuit's own inputs need only agree.
    """
    drawn = list[Values]()
    for _ in range(draws):
        finals = _finals(bench, mask, how, rng, agree)
        drawn.append(bench.joined([bench.values(f, f.model.unembed(x)) for f, x in finals]))
    classes = bench.data.each(lambda forward: feature_classes(forward, agree))
    sizes = np.concatenate([np.bincount(ids)[ids] for ids in classes])
    return Scrubbed(stacked(drawn), int(sizes.min()), float((sizes == 1).mean()))


def scrubbed_score(
    bench: Bench, mask: Mask, rng: np.random.Generator, agree: Sequence[str] = ()
) -> Floats:
    """[prompts]: the score of `scrub_circuit` alone, one shared draw."""
    finals = _finals(bench, mask, "shared", rng, agree)
    return bench.scored(lambda forward: next(finals)[1])


def _finals(
    bench: Bench, mask: Mask, how: How, rng: np.random.Generator, agree: Sequence[str]
) -> Iterator[tuple[PatchedForward, Tensor]]:
    """Each part and what its final norm sees, [batch, d_model], in one draw."""
    first = rng
    for forward in bench.data:
        if forward.token == 0:
            first, own = deepcopy(rng), rng
        else:
            own = deepcopy(first)  # the draws of the first token again
        cuts = ResampledCuts(forward, how, own, feature_classes(forward, agree) if agree else None)
        yield (
            forward,
            run_live(
                forward.model,
                forward.graph,
                forward.prompts.clean,
                mask,
                cuts,
                known=None if agree else Known.of_model(forward.graph, forward.clean.writers),
                layout=forward.layout,
            ),
        )


def feature_classes(forward: PatchedForward, names: Sequence[str]) -> Int[np.ndarray, " batch"]:
    """Class of each prompt: equal where all named features are (no names: one class)."""
    prompts = forward.prompts
    columns = [np.zeros(len(prompts), dtype=np.int64)]
    columns += [np.array(prompts.features[name], dtype=np.int64) for name in names]
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].ravel()


def stacked(draws: Sequence[Values]) -> Values:
    """[prompts, draws]."""
    return Values(*(np.stack([getattr(v, name) for v in draws], 1) for name in NAMES))


def resampled_baseline(bench: Bench) -> Values:
    """[prompts, draws]: every prompt scored on the model's run of each prompt of its part in turn.

    What resampling all input leaves, without any circuit. A shorter part goes round more than once.
    """
    turns = range(max(bench.data.each(lambda forward: len(forward.prompts))))

    def turned(forward: PatchedForward) -> Values:
        logits = forward.clean.logits
        return stacked([bench.values(forward, logits.roll(k, dims=0)) for k in turns])

    return bench.joined(bench.data.each(turned))
