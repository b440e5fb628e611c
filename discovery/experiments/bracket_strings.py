"""Bracket strings of the causal-scrubbing posts' distribution (Chan et al. 2022), drawn afresh.

Even length from 2 to 40, fair brackets, and a balanced string nine times as likely as under these:
26% are balanced. Strings are arrays [string, 40] of +1 for `(`, -1 for `)` and 0 beyond the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from discovery.experiments.bracket_network import CLOSE, END, OPEN, PAD, START

LONGEST = 40  # characters
BALANCED_WEIGHT = 9  # how much likelier a balanced string is than under fair characters
BLOCK = 1 << 15  # fair strings drawn at once

Strings = Int[np.ndarray, "string character"]


def is_balanced(strings: Strings) -> Bool[np.ndarray, " string"]:
    """Return whether each string closes what it opens, and nothing before it is opened."""
    depth = strings.cumsum(axis=1)
    return (depth[:, -1] == 0) & (depth.min(axis=1) >= 0)


def lengths(count: int, generator: np.random.Generator) -> Int[np.ndarray, " string"]:
    """Draw even lengths, each as likely."""
    return 2 * generator.integers(1, LONGEST // 2 + 1, count)


def blocks_of_strings(generator: np.random.Generator) -> Iterator[Strings]:
    """Yield strings without end, in blocks, by rejection of unbalanced ones."""
    while True:
        fair = generator.choice(np.array([1, -1], np.int8), (BLOCK, LONGEST))
        fair[np.arange(LONGEST) >= lengths(BLOCK, generator)[:, None]] = 0
        yield fair[is_balanced(fair) | (generator.random(BLOCK) < 1 / BALANCED_WEIGHT)]


def pieces(blocks: Iterator[Strings], count: int) -> Iterator[Strings]:
    """Cut a stream of blocks into pieces of `count` strings."""
    held = next(blocks)
    while True:
        while len(held) < count:
            held = np.concatenate([held, next(blocks)])
        yield held[:count]
        held = held[count:]


def draw_strings(count: int, generator: np.random.Generator) -> Strings:
    """Draw `count` strings."""
    return next(pieces(blocks_of_strings(generator), count))


def tokens_of(strings: Strings) -> Int[np.ndarray, "string pos"]:
    """Return token ids: START, the brackets, END, then PAD up to 42."""
    tokens = np.full((len(strings), LONGEST + 2), PAD)
    tokens[:, 0] = START
    tokens[:, 1:-1] = np.choose(strings + 1, [CLOSE, PAD, OPEN])
    tokens[np.arange(len(strings)), np.abs(strings).sum(axis=1) + 1] = END
    return tokens
