"""Nodes knocked out together: what two do for each other, and sets that make up for one another.

loss(K) = score of the model - score without K. interaction(K) = loss(K) - sum of the losses of its
members alone. Above 0, super-additive: each makes up for the other (OR, backup). Below 0,
sub-additive: what one does needs the other (AND, a chain).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from discovery.explanation.backups.knocked import KnockOuts
from discovery.explanation.backups.takeover import Nodes, p_rises
from discovery.explanation.figures import adjusted
from discovery.statistics.intervals import Interval, mean_interval
from discovery.statistics.result import Floats

Gate = Literal["AND", "OR", "ADDER", "none", "mixed"]
SHARE = 0.05  # of the full effect: what two runs may differ by and still be called equal


@dataclass(frozen=True)
class Table:
    """f_ab: scores with a and b there (1) or out (0), [prompts] each."""

    f11: Floats
    f10: Floats
    f01: Floats
    f00: Floats


def gate(f: Table) -> Gate:
    """How two inputs combine, both ways: by noising one (from f11), by denoising one (from f00).

    AND: either one noised costs all, neither denoised helps. OR: neither noised costs, either one
    denoised helps all the way. ADDER: shares that add up, neither being nothing. none: without both
    it is as with both, and so with one. Equal is within the larger of 5 % of the full effect and 2
    standard errors (arXiv 2505.10039; Heimersheim and Nanda 2024).
    """
    full = f.f11 - f.f00

    def equal(a: Floats, b: Floats) -> bool:
        d = a - b
        error = d.std(ddof=1) / np.sqrt(len(d)) if len(d) > 1 else 0.0
        return bool(abs(d.mean()) <= max(SHARE * abs(full.mean()), 2 * error))

    noised = equal(f.f11, f.f10), equal(f.f11, f.f01)  # whether noising b, a costs nothing
    denoised = equal(f.f10, f.f00), equal(f.f01, f.f00)  # whether denoising a, b helps nothing
    if all(noised) and all(denoised):
        return "none"
    if all(noised) and not any(denoised):
        return "OR"
    if all(denoised) and not any(noised):
        return "AND"
    adds = equal(f.f11 + f.f00, f.f10 + f.f01)
    return "ADDER" if adds and not any(noised) and not any(denoised) else "mixed"


@dataclass(frozen=True)
class Pair:
    """Two nodes out, on prompts that nothing was picked on. In the score's unit, positive: cost."""

    a: str
    b: str
    loss_a: Interval  # noising a alone, from the model
    loss_b: Interval
    loss: Interval  # both
    denoise_a: Interval  # gain by a alone where both are out
    denoise_b: Interval
    interaction: Interval
    p_value: float  # two-sided, of the interaction, Benjamini and Hochberg over the pairs
    gate: Gate


def interaction(runs: KnockOuts, nodes: Nodes) -> Floats:
    """[prompts]: loss together less the sum of losses alone, in the score's unit."""
    return runs.loss(nodes) - np.sum([runs.loss((n,)) for n in nodes], axis=0)


def strongest(choose: KnockOuts, nodes: Sequence[int], most: int) -> list[int]:
    """Nodes whose knock-out moves the mean score most, either way, in the graph's order."""
    size = {n: abs(float(choose.loss((n,)).mean())) for n in nodes}
    return sorted(sorted(nodes, key=lambda n: (-size[n], n))[:most])


def pairs_to_try(
    strong: Sequence[int], picked: Sequence[tuple[int, int]], most: int
) -> list[tuple[int, int]]:
    """All pairs of the strongest nodes, and so many of primary and backup, first come first.

    A backup costs little alone, so that it is not among the strongest.
    """
    some = sorted((min(p), max(p)) for p in list(dict.fromkeys(picked))[:most])
    return list(dict.fromkeys([*combinations(strong, 2), *some]))


def pairs(
    test: KnockOuts, both: Sequence[tuple[int, int]], level: float, rng: np.random.Generator
) -> list[Pair]:
    """Each of these pairs, the most super-additive first."""

    def of(values: Floats) -> Interval:
        return mean_interval(values, rng, level=1 - level)

    names, found = test.graph.writers, list[Pair]()
    together = [interaction(test, pair) for pair in both]
    p = adjusted(np.array([2 * min(float(p_rises(x)), float(p_rises(-x)), 0.5) for x in together]))
    for (a, b), extra, p_ in zip(both, together, p, strict=True):
        f = Table(*(test.of(out).score for out in ((), (b,), (a,), (a, b))))
        found.append(Pair(
            names[a], names[b], of(f.f11 - f.f01), of(f.f11 - f.f10), of(f.f11 - f.f00),
            of(f.f10 - f.f00), of(f.f01 - f.f00), of(extra), float(p_), gate(f),
        ))  # fmt: skip
    return sorted(found, key=lambda pair: -(pair.interaction.estimate or 0))


@dataclass(frozen=True)
class Step:
    """One step of the greedy set."""

    nodes: tuple[str, ...]
    loss: Interval
    interaction: Interval


def greedy(
    choose: KnockOuts, test: KnockOuts, both: Sequence[tuple[int, int]], most: int, least: float,
    level: float, rng: np.random.Generator,
) -> list[Step]:  # fmt: skip
    """The set that makes up for itself most: the most super-additive pair, grown a node at a time.

    Grown on `choose`, by nodes of these pairs, while the interaction grows by more than `least`
    (in the score's unit), to `most` nodes; each step is measured on `test`.
    """
    pool, best, steps = sorted({n for pair in both for n in pair}), 0.0, list[Step]()
    tried: list[Nodes] = list(both)
    while tried and len(tried[0]) <= most:
        gains = [float(interaction(choose, out).mean()) for out in tried]
        if max(gains) <= best + least:
            break
        best, out = max(gains), tried[int(np.argmax(gains))]
        names = tuple(test.graph.writers[n] for n in out)
        values = test.loss(out), interaction(test, out)
        steps.append(Step(names, *(mean_interval(v, rng, level=1 - level) for v in values)))
        tried = [tuple(sorted([*out, n])) for n in pool if n not in out]
    return steps
