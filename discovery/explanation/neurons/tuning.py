"""What a neuron's activation goes by: share of variance that a label explains, against chance.

Samples are positions of prompts; labels are the current token, it and the one before, or the
position (after Voita et al. 2023, who name dead, n-gram and positional neurons). Eta squared is
high by chance where labels are many, so each has its mean under permuted labels, and what counts is
the share explained beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from discovery.statistics.result import Floats

MOST_CHANCE = 0.9  # share that permuted labels may explain for anything to be said
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Explained:
    """[neurons]: variance explained by one kind of label."""

    share: Floats  # eta squared, 0 to 1; of a neuron that never varies 0
    chance: Floats  # its mean under permuted labels
    highest: Floats  # the largest under permuted labels

    @property
    def beyond(self) -> Floats:
        """(share - chance) / (1 - chance): 0 at chance, 1 if all is explained.

        Not a number where chance alone explains nearly all: labels that hardly ever come twice.
        """
        room = np.where(self.chance < MOST_CHANCE, 1 - self.chance, np.nan)
        return (self.share - self.chance) / room

    def goes_by(self, least: float) -> NDArray[np.bool_]:
        """[neurons]: of which the labels explain more than `least` beyond chance, and any draw."""
        return (self.beyond > least) & (self.share > self.highest)


def explained(
    values: Floats, labels: Ints, rng: np.random.Generator, permutations: int
) -> Explained:
    """Eta squared of every neuron, and what permuted labels explain; values [samples, neurons].

    Eta squared is the variance of the labels' means over the variance.
    """
    centred, whole = _centred(values)
    codes = np.unique(labels, return_inverse=True)[1]
    own = _of_centred(centred, whole, codes)
    null = np.array(
        [_of_centred(centred, whole, rng.permutation(codes)) for _ in range(permutations)]
    )
    return Explained(own, null.mean(0), null.max(0))


def _centred(values: Floats) -> tuple[Floats, Floats]:
    """Less their means, and the sums of squares; infinite for neurons that do not vary."""
    centred = values - values.mean(0)
    whole = np.square(centred).sum(0)
    varies = whole > 1e-20 * np.square(values).sum(0)
    return centred, np.where(varies, whole, np.inf)


def _of_centred(centred: Floats, whole: Floats, codes: Ints) -> Floats:
    n = len(codes)
    sums = csr_array((np.ones(n), (codes, np.arange(n)))) @ centred
    return (np.square(sums) / np.bincount(codes)[:, None]).sum(0) / whole


def labels(parts: Sequence[Ints]) -> dict[str, Ints]:
    """[prompts x positions] by kind, the first position of each prompt left out.

    Of tokens [prompt, pos], a part after the other. At the first position many models have
    activations of another order, whatever stands there.
    """
    pairs = [np.stack([t[:, :-1], t[:, 1:]], -1).reshape(-1, 2) for t in parts]
    return {
        "token": np.concatenate([t[:, 1:].ravel() for t in parts]),
        "token pair": np.unique(np.concatenate(pairs), axis=0, return_inverse=True)[1].ravel(),
        "position": np.concatenate([np.tile(np.arange(1, t.shape[1]), len(t)) for t in parts]),
    }
