"""A made-up language in which repeats help, but are not the whole story.

A text mixes four sources. A fixed Markov chain over Zipf-distributed tokens; skip-trigrams (the
last trigger token in the text decides what follows certain tokens); phrases that belong to one
text and come again at variable distances; and breaks that end a phrase early. The phrases of a text
share tokens in different orders, so that often only the token before decides which follower is
right. A token of a phrase may come in the chain as well, with other followers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

VOCABULARY = 256  # token 0 begins every text and occurs nowhere else
FOLLOWERS, CHAIN = 12, 0.9  # likely followers of a token, and their share; the rest is Zipf
TRIGGERS, OPENERS, TRIGGERED = 24, 8, 0.5  # skip-trigrams: tokens of each kind, probability
PHRASES, LONGEST_PHRASE = 3, 5  # per text; the shortest has 3 tokens
POOL = 8  # different tokens in all phrases of a text
BEGIN, GO_ON = 0.2, 0.9  # probabilities: a phrase begins at a free position; it goes on


@dataclass(frozen=True)
class Language:
    """The fixed tables."""

    zipf: Float[np.ndarray, " vocab"]
    chain: Float[np.ndarray, "vocab vocab"]  # row: probabilities of the next token
    trigger: Int[np.ndarray, " vocab"]  # index of a trigger token, -1 for others
    opener: Int[np.ndarray, " vocab"]  # index of a token that a trigger acts on, -1 for others
    skip: Int[np.ndarray, "trigger opener"]  # the token that follows


@cache
def language() -> Language:
    """Return the one language of this module. The tables are the same at every call."""
    generator = np.random.default_rng(7)
    zipf = np.append(0.0, 1 / np.arange(1, VOCABULARY))
    zipf /= zipf.sum()
    chain = np.tile((1 - CHAIN) * zipf, (VOCABULARY, 1))
    for row in chain:
        followers = generator.choice(VOCABULARY, FOLLOWERS, replace=False, p=zipf)
        row[followers] += CHAIN * generator.dirichlet(np.full(FOLLOWERS, 0.5))
    trigger, opener = np.full(VOCABULARY, -1), np.full(VOCABULARY, -1)
    trigger[generator.choice(np.arange(20, 120), TRIGGERS, replace=False)] = np.arange(TRIGGERS)
    opener[1 : OPENERS + 1] = np.arange(OPENERS)
    skip = generator.integers(1, VOCABULARY, (TRIGGERS, OPENERS))
    return Language(zipf, chain, trigger, opener, skip)


def texts(count: int, length: int, generator: np.random.Generator) -> Int[np.ndarray, "text pos"]:
    """Draw texts of `length` tokens, the beginning token included."""
    words, cumulated = language(), language().chain.cumsum(axis=1)
    phrases, sizes = _phrases(count, generator)
    tokens = np.zeros((count, length), int)
    each = np.arange(count)
    phrase, place = np.zeros(count, int), np.full(count, LONGEST_PHRASE)
    seen = np.full(count, -1)
    for at in range(1, length):
        now = tokens[:, at - 1]
        draw = generator.random((5, count))
        seen = np.where(words.trigger[now] >= 0, words.trigger[now], seen)
        plain = (draw[0][:, None] > cumulated[now]).sum(axis=1).clip(max=VOCABULARY - 1)
        skips = (seen >= 0) & (words.opener[now] >= 0) & (draw[1] < TRIGGERED)
        plain = np.where(skips, words.skip[seen, words.opener[now]], plain)
        inside = (place < sizes[each, phrase]) & (draw[2] < GO_ON)
        begins = ~inside & (draw[3] < BEGIN)
        phrase = np.where(begins, (draw[4] * PHRASES).astype(int), phrase)
        place = np.where(begins, 0, np.where(inside, place, LONGEST_PHRASE))
        told = phrases[each, phrase, place.clip(max=LONGEST_PHRASE - 1)]
        tokens[:, at] = np.where(inside | begins, told, plain)
        place = place + (inside | begins)
    return tokens


def _phrases(
    count: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, "text phrase token"], Int[np.ndarray, "text phrase"]]:
    """Draw the phrases of each text and their sizes.

    All phrases of a text draw on the same few tokens, any of the vocabulary; none twice in one.
    """
    pool = generator.random((count, VOCABULARY - 1)).argsort(axis=1)[:, :POOL] + 1
    order = generator.random((count, PHRASES, POOL)).argsort(axis=2)[:, :, :LONGEST_PHRASE]
    phrases = np.take_along_axis(pool[:, None].repeat(PHRASES, 1), order, axis=2)
    return phrases, generator.integers(3, LONGEST_PHRASE + 1, (count, PHRASES))
