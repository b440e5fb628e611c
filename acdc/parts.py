"""Which prompts are run together.

Those of one length need no padding. Where lengths are mixed, neighbouring ones may share a part:
PAD stands before the shorter ones, no token looks there (Model.padded), and so every figure is what
it would be without, up to rounding. That costs tokens and saves parts, each of which calls every
operation again on fewer rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from acdc.prompts import Prompts

Rows = tuple[int, ...]
PART_COST, CARD_PART_COST = 48.0, 2000.0  # of a part beside its tokens, in tokens, about


def groups_of(prompts: Prompts, most: int, part_cost: float = 0.0) -> list[Rows]:
    """Rows to be run together: alike, at most so many, in the order of the first of each.

    A group has one length, and answers of as many tokens; lengths share groups where a part costs
    more than the padding. No group is one prompt alone where that can be helped: it would have no
    other to be resampled from, so all groups of its kind are made alike instead.
    """
    groups = list[Rows]()
    for own in _kinds(prompts.alike(), most, part_cost):
        n = -(-len(own) // most)
        ends = [min(most * i, len(own)) for i in range(n + 1)]
        if most > 2 and len(own) % most == 1:
            ends = [len(own) * i // n for i in range(n + 1)]
        groups += [tuple(own[start:end]) for start, end in pairwise(ends)]
    return sorted(groups)


def _kinds(
    alike: Mapping[tuple[int, int], list[int]], most: int, part_cost: float
) -> list[list[int]]:
    """Rows of one length, or of several that share groups, in order."""
    if not part_cost:
        return list(alike.values())
    kinds = list[list[int]]()
    by_forced = sorted(alike, key=lambda kind: kind[1])  # and by length, as they come
    for _, own in groupby(by_forced, key=lambda kind: kind[1]):
        keys = list(own)
        numbers = [len(alike[key]) for key in keys]
        for start, end in shared([length for length, _ in keys], numbers, most, part_cost):
            kinds.append(sorted(row for key in keys[start:end] for row in alike[key]))
    return kinds


def shared(
    lengths: Sequence[int], numbers: Sequence[int], most: int, part_cost: float
) -> list[tuple[int, int]]:
    """Ranges of rising lengths that share parts so that all together costs least.

    A part of `most` prompts at most costs its tokens, padding counted, and `part_cost`. The fewest
    ranges of those that cost the same.
    """
    best = [(0.0, 0)]  # of the first so many lengths: what they cost, and where the last one begins
    for end in range(1, len(lengths) + 1):
        options = list[tuple[float, int]]()
        for start in range(end):
            n = sum(numbers[start:end])
            cost = n * lengths[end - 1] + part_cost * -(-n // most)
            options.append((best[start][0] + cost, start))
        best.append(min(options))
    ranges, end = list[tuple[int, int]](), len(lengths)
    while end:
        ranges.append((best[end][1], end))
        end = best[end][1]
    return ranges[::-1]
