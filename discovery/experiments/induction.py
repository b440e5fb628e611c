"""Causal scrubbing of induction heads, path by path (Chan et al., Alignment Forum, December 2022).

Each sample has two texts: x gives the labels and every path that is not scrubbed, an independent x'
every path that is. The induction heads of layer 1 are one node; what its queries, keys and values
read is the stream before layer 1, and that is a sum of terms:

    embedding_t + sum over heads h of layer 0, positions s of attention_h[t, s] OV_h(embedding_s)

A `Split` says which of these terms are claimed to matter; they come from x, the rest from x'. The
published scores on another network (naive 35%, refined 86%) are shown beside the own; only the
shape can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from acdc.errors import InputError
from discovery.experiments.induction_heads import Heads, Texts
from discovery.experiments.two_layer import Pattern, TwoLayer
from discovery.scrubbing.computation import Computation, Node
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Exact, Unconditioned
from discovery.scrubbing.score import Losses, Recovered, recovered

EXACT = 1e-3  # logits by which float32 sums in another order may differ
OTHER = Unconditioned("x'")
INPUTS = ("query", "key", "value")


@dataclass(frozen=True)
class Split:
    """The terms of the stream before layer 1 that are claimed to matter; the rest is the rest."""

    embedding: bool = False
    offsets: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # t - s kept, by head
    whole: tuple[int, ...] = ()  # heads kept at all positions
    estimated: tuple[int, ...] = ()  # heads kept as "all attention on the current token"

    def claimed(self, pattern: Pattern) -> Pattern:
        """The part of layer 0's attention that is claimed; `pattern` minus this is the rest."""
        length = pattern.shape[-1]
        back = torch.arange(length)[:, None] - torch.arange(length)
        kept = torch.zeros_like(pattern)
        for head, offsets in self.offsets.items():
            kept[:, head] = pattern[:, head] * torch.isin(back, torch.tensor(offsets))
        for head in self.whole:
            kept[:, head] = pattern[:, head]
        for head in self.estimated:
            kept[:, head] = torch.eye(length)
        return kept


@dataclass(frozen=True)
class Hypothesis:
    """Splits of the node's inputs; an input without split is not scrubbed."""

    name: str
    splits: Mapping[str, Split]
    strict: bool = False  # keys: also the attention in the claimed terms comes from x'
    published: int | None = None  # percent recovered on another network, from the posts


def hypotheses(heads: Heads, n_heads: int) -> tuple[Hypothesis, ...]:
    """The ladder: naive path by path, naive jointly, refinements one by one and together."""
    every = tuple(range(n_heads))
    token = Split(embedding=True)
    key, strict = Split(whole=(heads.previous,)), Split(offsets={heads.previous: (1,)})
    near = Split(embedding=True, offsets=dict.fromkeys(heads.near, (1, 2)))
    near_key = Split(offsets=dict.fromkeys(heads.near, (1, 2, 3)))
    here = Split(embedding=True, offsets=dict.fromkeys(every, (0,)))
    same = Split(embedding=True, estimated=heads.same)
    rest = [head for head in every if head not in heads.same]
    value = Split(True, dict.fromkeys(rest, (0,)), estimated=heads.same)
    query_offsets = {head: (0, 1, 2) if head in heads.near else (0,) for head in rest}
    query = Split(True, query_offsets, estimated=heads.same)

    def joint(name: str, query: Split, key: Split, value: Split, **more: Any) -> Hypothesis:
        return Hypothesis(name, {"query": query, "key": key, "value": value}, **more)

    return (
        Hypothesis("value", {"value": token}, published=90),
        Hypothesis("query", {"query": token}, published=51),
        Hypothesis("key", {"key": key}, published=83),
        Hypothesis("key, strict", {"key": strict}, strict=True, published=82),
        joint("naive", token, key, token, published=35),
        joint("naive, strict key", token, strict, token, strict=True),
        joint("R1: three tokens compared", near, near_key, token),
        joint("R2: layer 0 at the same place", here, key, here),
        joint("R3: repeats as the token", same, key, same),
        joint("R1 + R2 + R3", query, near_key, value, published=86),
    )


def controls(heads: Heads) -> tuple[Hypothesis, ...]:
    """Claims that must fail."""
    token, key = Split(embedding=True), Split(whole=(heads.previous,))
    return (
        Hypothesis("key without the previous-token head", {"key": Split()}),
        Hypothesis("query and key exchanged", {"query": key, "key": token, "value": token}),
        Hypothesis("key, strict, offset 2", {"key": Split(offsets={heads.previous: (2,)})}, True),
    )


@dataclass(frozen=True)
class Experiment:
    """A network, texts of one token more than it reads, and which current tokens count.

    A loss is in nats per counted position, [text]: the sum over a text's counted positions divided
    by their mean number per text.
    """

    network: TwoLayer
    tokens: Texts
    counted: Bool[np.ndarray, " vocab"]
    induction: tuple[int, ...]
    draws: int = 1  # texts x' for each text x, averaged

    def __post_init__(self) -> None:
        if not self.counted[self.tokens[:, :-1]].any():
            raise InputError("counted: none of these tokens occurs in the texts")

    def computation(self, splits: Mapping[str, Split]) -> Computation:
        """The network as a graph in which the claimed and the other terms of a split are nodes."""
        network, tokens = self.network, torch.from_numpy(self.tokens[:, :-1])

        def direct(embedding: Tensor, pattern: Tensor) -> Tensor:
            stream = embedding + network.attention(0, pattern, embedding)
            return stream + self._layer_1(stream, stream, stream, others=True)

        nodes = {
            "embedding": Node(("input",), lambda rows: network.embed[tokens[rows]]),
            "pattern": Node(("embedding",), lambda stream: network.pattern(0, stream, stream)),
            "direct": Node(("embedding", "pattern"), direct),
            "induction": Node(INPUTS, self._layer_1),
            "output": Node(("direct", "induction"), lambda a, b: network.logits(a + b)),
        }
        for name in INPUTS:
            nodes |= self._split(name, splits.get(name, Split()))
        return Computation(nodes, "output", len(tokens))

    def _layer_1(self, query: Tensor, key: Tensor, value: Tensor, others: bool = False) -> Tensor:
        """What the induction heads, or all others of layer 1, write."""
        of = self.induction
        if others:
            of = tuple(h for h in range(self.network.n_heads) if h not in self.induction)
        pattern = self.network.pattern(1, query, key)
        return self.network.heads(1, pattern, value)[:, list(of)].sum(1)

    def _split(self, name: str, split: Split) -> dict[str, Node]:
        attention = self.network.attention

        def claimed(embedding: Tensor, pattern: Tensor) -> Tensor:
            terms = attention(0, split.claimed(pattern), embedding)
            return terms + embedding if split.embedding else terms

        def rest(embedding: Tensor, pattern: Tensor) -> Tensor:
            terms = attention(0, pattern - split.claimed(pattern), embedding)
            return terms if split.embedding else terms + embedding

        return {
            f"{name} claimed": Node(("embedding", "pattern"), claimed),
            f"{name} rest": Node(("embedding", "pattern"), rest),
            name: Node((f"{name} claimed", f"{name} rest"), torch.add),
        }

    def measure(
        self, logits: Tensor, rows: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, " sample"]:
        """Loss of each text in `rows`."""
        now, following = self.tokens[rows, :-1], torch.from_numpy(self.tokens[rows, 1:])
        log_p = logits.log_softmax(-1).gather(-1, following[..., None])[..., 0].numpy()
        per_text = self.counted[self.tokens[:, :-1]].sum() / len(self.tokens)
        return -(log_p.astype(np.float64) * self.counted[now]).sum(1) / per_text

    def losses(self, splits: Mapping[str, Split], claim: Claim, seed: int) -> Losses:
        """Loss per text under a claim on the output. Equal seeds draw equal x'."""
        generator, rows = np.random.default_rng(seed), np.arange(len(self.tokens))
        with torch.inference_mode():
            computation = self.computation(splits)
            found = scrub(
                computation, claim, rows, generator, self.draws, batch=256, measure=self.measure
            )
        return found.output.mean(1)

    def model(self, seed: int) -> Losses:
        """Loss of the network as it is."""
        return self.losses({}, Claim("output", Exact()), seed)

    def baseline(self, seed: int) -> Losses:
        """Loss when all that the induction heads read comes from x'."""
        return self.losses({}, _root(Claim("induction", OTHER)), seed)

    def mislabelled(self, seed: int) -> Losses:
        """Loss of the network on x' with the labels of x: what chance gives."""
        return self.losses({}, Claim("output", OTHER), seed)

    def scrubbed(self, hypothesis: Hypothesis, seed: int) -> Losses:
        """Loss under a hypothesis."""
        children = tuple(
            _claim(name, hypothesis.splits.get(name), hypothesis.strict) for name in INPUTS
        )
        node = Claim("induction", Exact(), children, others=Exact())
        return self.losses(hypothesis.splits, _root(node), seed)

    def rewrite_error(self, splits: Mapping[str, Split]) -> float:
        """Largest difference, in logits, between the split graph and the network."""
        rows = np.arange(min(len(self.tokens), 32))
        with torch.inference_mode():
            found = self.computation(splits).run("output", rows)
            return float(
                (found - self.network(torch.from_numpy(self.tokens[rows, :-1]))).abs().max()
            )


@dataclass(frozen=True)
class Rung:
    """A hypothesis or control with its score: 0 is the induction heads on x', 1 the network."""

    name: str
    published: int | None
    recovered: Recovered
    rewrite_error: float | None  # logits; None where nothing is split


def rungs(experiment: Experiment, heads: Heads, seed: int) -> Iterator[Rung]:
    """Score the ladder, then the controls; resamples texts.

    Raises InputError where the induction heads change the loss too little to divide by, and
    AssertionError if a rewrite is not the network.
    """
    model, baseline = experiment.model(seed), experiment.baseline(seed)

    def score(losses: Losses) -> Recovered:
        generator = np.random.default_rng(seed)
        return recovered(model, baseline, losses[:, None], "induction heads read x'", generator)

    for one in hypotheses(heads, experiment.network.n_heads) + controls(heads):
        error = experiment.rewrite_error(one.splits)
        assert error < EXACT, f"{one.name}: the rewrite differs from the network by {error}"
        yield Rung(one.name, one.published, score(experiment.scrubbed(one, seed)), error)
    yield Rung("the network on x', labels of x", None, score(experiment.mislabelled(seed)), None)


def _root(node: Claim) -> Claim:
    return Claim("output", Exact(), (Claim("direct", Exact()), node), others=Exact())


def _claim(name: str, split: Split | None, strict: bool) -> Claim:
    if split is None:
        return Claim(name, Exact())
    terms = Claim(f"{name} claimed", Exact())
    if strict and name == "key":
        embedding = Claim("embedding", Exact())
        terms = Claim(f"{name} claimed", Exact(), (embedding,), others=OTHER)
    return Claim(name, Exact(), (terms,), others=OTHER)
