"""Stability selection: the edges that keep coming back, and how many of them may be chance.

A method is run on both halves of the prompts, divided at random again and again. An edge is in the
core if it is in at least a share tau > 1/2 of the circuits. Call an edge noise if the method takes
it no more often than the average edge of the graph, with probability at most theta = k / p (k edges
of p on average). Then (Shah and Samworth 2013, theorem 1; with independent halves instead,
Meinshausen and Buehlmann 2010) the expected number of noise edges in the core is at most

    theta k / (2 tau - 1)  =  k^2 / (p (2 tau - 1))

whatever the method and however edges depend on each other. The core at rate q takes the least tau
whose bound is at most q times the core's size. That tau is chosen by what was found, which the
theorem does not cover; tests/consensus tries it on planted circuits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Core:
    """The edges that stay, [edges]; empty, and why, if no share keeps chance below the rate."""

    edges: Mask
    mean_size: float  # edges of a circuit
    share: float | None  # of the circuits, in which an edge of the core is at least
    bound: float | None  # noise edges to be expected in it, at most
    empty: str = ""

    @property
    def size(self) -> int:
        """Edges in it."""
        return int(self.edges.sum())


def halves(n: int, pairs: int, rng: np.random.Generator) -> list[list[int]]:
    """Two complementary halves of n prompts for each pair, one after the other; of odd n, one left.

    InputError with fewer than 4 prompts.
    """
    if n < 4:
        raise InputError(f"{n} prompts: at least 4, so that their halves can differ")
    orders = [rng.permutation(n).tolist() for _ in range(pairs)]
    half = n // 2
    return [sorted(part) for o in orders for part in (o[:half], o[half : 2 * half])]


def core(masks: Mask, rate: float) -> Core:
    """The core of circuits [circuits, edges] found on complementary halves.

    InputError unless 0 < rate < 1 and there is a circuit.
    """
    if not 0 < rate < 1 or masks.ndim != 2 or not len(masks):
        raise InputError(f"q={rate:g}: between 0 and 1, of masks {masks.shape} [circuits, edges]")
    n, p = masks.shape
    counts, k = masks.sum(0), float(masks.sum(1).mean())
    for least in range(n // 2 + 1, n + 1):
        share = least / n
        bound, inside = k * k / (p * (2 * share - 1)), counts >= least
        if inside.any() and bound <= rate * inside.sum() * (1 + 1e-12):
            return Core(inside, k, share, bound)
    return Core(np.zeros(p, bool), k, None, None, _why(k, p, counts, n, rate))


def _why(k: float, p: int, counts: NDArray[np.int64], n: int, rate: float) -> str:
    always = int((counts == n).sum())
    return (
        f"{always} edges are in all {n} circuits, and of {k:.3g} edges out of {p} as many as"
        f" {k * k / p:.2g} could be by chance: more than {rate:g} of them; take smaller circuits,"
        " or allow more (q)"
    )
