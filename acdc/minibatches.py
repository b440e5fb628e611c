"""Prompts some at a time, for methods that look at them many times over.

Where cut edges carry another prompt's values, which prompt that is is drawn anew each time, from
those that are run together with it: their clean runs are there. All depends on the seed and the
number of the step alone, so work that was stopped goes on with what it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import PatchedForward

Piece = tuple[int, range]  # a group of the data, and which of its prompts


class Minibatches:
    """Neighbouring prompts together; once all have had their turn, the order is drawn anew.

    Of prompts of several lengths those of a length are neighbours.
    """

    def __init__(self, data: Data, size: int, seed: int) -> None:
        """Of `size` prompts each, or fewer, in parts no larger than the data's.

        InputError unless size >= 1.
        """
        if size < 1:
            raise InputError(f"batch={size}: at least 1 prompt at a time")
        size = min(size, len(data))
        part = max(p for p in range(1, min(size, data.part) + 1) if size % p == 0)
        within = data.hold and data.part % part == 0  # held runs are looked at, not made again
        self.data = data if within else data.arranged(part, data.hold, data.batch_bytes, data.host)
        self.seed, self.batches = seed, _packed(list(_pieces(self.data, part)), size)
        self._partners: dict[int, list[list[int]] | None] = {}  # of each group

    def __len__(self) -> int:
        return len(self.batches)

    def at(self, step: int) -> Iterator[PatchedForward]:
        """The parts of the minibatch of a step, counted from 0; of each prompt its whole answer."""
        turn, place = divmod(step, len(self))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self))
        for group, some in self.batches[int(order[place])]:
            others = self._drawn(step, group, some)
            for part in self.data.parts_of(group):
                forward = self.data[part]
                if others is not None:
                    yield forward.beside(some, others)
                else:
                    yield forward if len(some) == len(forward.prompts) else forward.piece(some)

    def _drawn(self, step: int, group: int, some: range) -> list[int] | None:
        """Another prompt of the group for each of some; None: they keep those that they have."""
        if group not in self._partners:
            prompts = self.data.prompts.take(self.data.groups[group])
            self._partners[group] = self.data.ablation.partners(prompts)
        partners = self._partners[group]
        if partners is None or not all(partners[row] for row in some):
            return None
        rng = np.random.default_rng([self.seed, step, group])
        return [int(rng.choice(partners[row])) for row in some]


def _pieces(data: Data, most: int) -> Iterator[Piece]:
    """All prompts, at most so many of a group at a time."""
    for group, rows in enumerate(data.groups):
        n = len(rows)
        yield from ((group, range(i, min(i + most, n))) for i in range(0, n, most))


def _packed(pieces: Sequence[Piece], size: int) -> list[list[Piece]]:
    """Neighbouring pieces together, at most `size` prompts."""
    batches, room = list[list[Piece]](), 0
    for piece in pieces:
        if len(piece[1]) > room:
            batches.append([])
            room = size
        batches[-1].append(piece)
        room -= len(piece[1])
    return batches
