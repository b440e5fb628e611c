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

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from acdc.errors import InputError
from discovery.experiments.markov_text import VOCABULARY
from discovery.models.two_layer import Pattern, TwoLayer
from discovery.scrubbing.computation import Computation, Node
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Exact, Unconditioned
from discovery.scrubbing.score import Losses, Recovered, recovered

Texts = Int[np.ndarray, "text pos"]
CLEAR = 0.4  # an attention score above this names a head
KEPT_TOKENS = 0.2  # share of the judged tokens that count
FEWEST_REPEATS = 20  # of a token, for its repeats to be judged
OTHER = Unconditioned("x'")
INPUTS = ("query", "key", "value")


def sources(tokens: Texts) -> Int[np.ndarray, "text pos"]:
    """Position after the last earlier occurrence of each position's token; -1 where none is."""
    length = tokens.shape[1]
    same = (tokens[:, :, None] == tokens[:, None, :]) & np.tri(length, k=-1, dtype=bool)
    last = length - 1 - same[:, :, ::-1].argmax(axis=2)
    return np.where(same.any(axis=2), last + 1, -1)


@dataclass(frozen=True)
class HeadScores:
    """Mean attention per layer and head, each between 0 and 1."""

    previous: Float[np.ndarray, "2 head"]  # to the position before
    near: Float[np.ndarray, "2 head"]  # to the three positions before
    same: Float[np.ndarray, "2 head"]  # to the current token, here or earlier, where it has been
    induction: Float[np.ndarray, "2 head"]  # to what followed the current token, where it repeats


@torch.inference_mode()
def head_scores(network: TwoLayer, tokens: Texts) -> HeadScores:
    """Score all heads on texts of one token more than the network reads."""
    now, source = tokens[:, :-1], sources(tokens[:, :-1])
    repeat = (source > 0) & (np.take_along_axis(tokens, source.clip(0), 1) == tokens[:, 1:])
    row, query = np.nonzero(repeat)
    again = torch.from_numpy(source > 0)
    equal = torch.from_numpy(now[:, None, :, None] == now[:, None, None, :])
    found: dict[str, list[np.ndarray]] = {"previous": [], "near": [], "same": [], "induction": []}
    stream = network.embed[torch.from_numpy(now)]
    for layer in range(2):
        pattern = network.pattern(layer, stream, stream)
        stream = stream + network.attention(layer, pattern, stream)
        offsets = [pattern.diagonal(-back, 2, 3)[:, :, 2:].mean((0, 2)) for back in (1, 2, 3)]
        found["previous"].append(offsets[0].numpy())
        found["near"].append(sum(offsets).numpy())
        same = (pattern * equal).sum(3).transpose(1, 2)[again].mean(0)
        found["same"].append(same.numpy())
        found["induction"].append(pattern[row, :, query, source[row, query]].mean(0).numpy())
    return HeadScores(**{name: np.stack(rows) for name, rows in found.items()})


@dataclass(frozen=True)
class Heads:
    """The heads the hypotheses speak of."""

    previous: int  # of layer 0
    near: tuple[int, ...]  # of layer 0: attend to the last three tokens
    same: tuple[int, ...]  # of layer 0: attend to the current token and its repeats
    induction: tuple[int, ...]  # of layer 1, one node


def named_heads(scores: HeadScores) -> Heads:
    """Name heads by score; InputError if no clear previous-token or induction head is there."""
    previous = int(scores.previous[0].argmax())
    induction = tuple(np.flatnonzero(scores.induction[1] > CLEAR).tolist())
    for name, best in (
        ("previous-token head in layer 0", scores.previous[0].max()),
        ("induction head in layer 1", scores.induction[1].max()),
    ):
        if best <= CLEAR:
            raise InputError(f"network: the best {name} scores {best:.2f}; needed is over {CLEAR}")
    near = tuple(np.flatnonzero(scores.near[0] > CLEAR).tolist())
    same = tuple(h for h in np.flatnonzero(scores.same[0] > CLEAR).tolist() if h not in near)
    return Heads(previous, near, same, induction)


def bigram_table(tokens: Texts) -> Float[np.ndarray, "now following"]:
    """Probabilities of the next token from counts, each row with one unigram count added."""
    counts = np.zeros((VOCABULARY, VOCABULARY))
    np.add.at(counts, (tokens[:, :-1], tokens[:, 1:]), 1)
    unigram = counts.sum(axis=0) + 1
    counts += unigram / unigram.sum()
    return counts / counts.sum(axis=1, keepdims=True)


def candidates(tokens: Texts) -> Bool[np.ndarray, " vocab"]:
    """Current tokens whose repeats tell most beyond bigrams; the fifth that gains most.

    For each token, over its repeats: mean of log p_mix(next) - log p_bigram(next), where p_mix
    gives a share, fitted over all tokens, to the follower of the last occurrence. Tokens with fewer
    than `FEWEST_REPEATS` are not judged; InputError if all are so rare.
    """
    now, following, source = tokens[:, :-1], tokens[:, 1:], sources(tokens[:, :-1])
    bigram = bigram_table(tokens)[now, following]
    again = source > 0
    hit = (np.take_along_axis(tokens, source.clip(0), 1) == following)[again]
    plain = bigram[again]
    shares = np.linspace(0.01, 0.99, 99)
    best = max(shares, key=lambda share: np.log(share * hit + (1 - share) * plain).mean())
    gain = np.log(best * hit + (1 - best) * plain) - np.log(plain)
    number = np.bincount(now[again], minlength=VOCABULARY)
    total = np.bincount(now[again], gain, minlength=VOCABULARY)
    judged = number >= FEWEST_REPEATS
    if not judged.any():
        raise InputError(f"tokens: none repeats {FEWEST_REPEATS} times within texts")
    mean = np.where(judged, total / np.maximum(number, 1), -np.inf)
    return mean >= np.quantile(mean[judged], 1 - KEPT_TOKENS)


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

    def joint(name: str, query: Split, key: Split, value: Split, strict: bool = False):
        return Hypothesis(name, {"query": query, "key": key, "value": value}, strict)

    return (
        Hypothesis("value", {"value": token}),
        Hypothesis("query", {"query": token}),
        Hypothesis("key", {"key": key}),
        Hypothesis("key, strict", {"key": strict}, strict=True),
        joint("naive", token, key, token),
        joint("naive, strict key", token, strict, token, strict=True),
        joint("R1: three tokens compared", near, near_key, token),
        joint("R2: layer 0 at the same place", here, key, here),
        joint("R3: repeats as the token", same, key, same),
        joint("R1 + R2 + R3", query, near_key, value),
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
            found = scrub(computation, claim, rows, generator, batch=256, measure=self.measure)
        return found.output[:, 0]

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

    def score(self, losses: Losses, seed: int) -> Recovered:
        """Fraction recovered, from the baseline (0) to the network (1); resamples texts.

        Raises InputError where the induction heads change the loss too little to divide by.
        """
        model, baseline = self.model(seed), self.baseline(seed)
        generator = np.random.default_rng(seed)
        return recovered(model, baseline, losses[:, None], "induction heads read x'", generator)


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
