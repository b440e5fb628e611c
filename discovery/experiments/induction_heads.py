"""Which heads and which tokens the induction experiment speaks of, by their behaviour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from acdc.errors import InputError
from discovery.experiments.markov_text import VOCABULARY
from discovery.experiments.two_layer import TwoLayer

Texts = Int[np.ndarray, "text pos"]
CLEAR = 0.4  # an attention score above this names a head
KEPT_TOKENS = 0.2  # share of the judged tokens that count
FEWEST_REPEATS = 20  # of a token, for its repeats to be judged


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
    induction: Float[np.ndarray, "2 head"]  # to what followed the current token, where it is right


@torch.inference_mode()
def head_scores(network: TwoLayer, tokens: Texts) -> HeadScores:
    """Score all heads on texts of one token more than the network reads.

    "Induction" adds up the attention to all positions after an earlier occurrence of the current
    token, over the queries for which one of these holds the next token. The first three queries do
    not count for the attention to positions before.
    """
    now, following = tokens[:, :-1], tokens[:, 1:]
    before = np.concatenate([np.full_like(now[:, :1], -1), now[:, :-1]], axis=1)
    follows = (now[:, :, None] == before[:, None, :]) & np.tri(now.shape[1], dtype=bool)
    right = (follows & (now[:, None, :] == following[:, :, None])).any(2)
    masks = {
        "same": (now[:, None, :] == now[:, :, None], follows.any(2)),
        "induction": (follows, right),
    }
    found: dict[str, list[np.ndarray]] = {"previous": [], "near": [], "same": [], "induction": []}
    stream = network.embed[torch.from_numpy(now)]
    for layer in range(2):
        pattern = network.pattern(layer, stream, stream)
        stream = stream + network.attention(layer, pattern, stream)
        offsets = [pattern.diagonal(-b, 2, 3)[:, :, 3 - b :].mean((0, 2)) for b in (1, 2, 3)]
        found["previous"].append(offsets[0].numpy())
        found["near"].append(torch.stack(offsets).sum(0).numpy())
        for name, (keys, queries) in masks.items():
            attended = (pattern * torch.from_numpy(keys)[:, None]).sum(3).transpose(1, 2)
            found[name].append(attended[torch.from_numpy(queries)].mean(0).numpy())
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
