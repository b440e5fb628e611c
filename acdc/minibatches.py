"""Prompts some at a time, for methods that look at them many times over.

Which they are depends on the seed and the number of the step alone, so work that was stopped goes
on with the minibatch that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import PatchedForward


class Minibatches:
    """Neighbouring prompts together; once all have had their turn, the order is drawn anew."""

    def __init__(self, data: Data, size: int, seed: int) -> None:
        """Of `size` prompts each (the last may have fewer), in parts no larger than the data's.

        InputError unless size >= 1.
        """
        if size < 1:
            raise InputError(f"batch={size}: at least 1 prompt at a time")
        size = min(size, len(data))
        self.part = max(p for p in range(1, min(size, data.part) + 1) if size % p == 0)
        within = data.hold and data.part % self.part == 0  # held runs are looked at, not made again
        self.data = (
            data if within else data.arranged(self.part, data.hold, data.batch_bytes, data.host)
        )
        self.seed, self.parts = seed, size // self.part  # of one minibatch

    def __len__(self) -> int:
        return -(-len(self.data) // (self.part * self.parts))

    def at(self, step: int) -> Iterator[PatchedForward]:
        """The parts of the minibatch of a step, counted from 0."""
        turn, place = divmod(step, len(self))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self))
        size = self.part * self.parts
        first = int(order[place]) * size
        starts = range(first, min(first + size, len(self.data)), self.part)
        return (self._piece(start) for start in starts)

    def _piece(self, start: int) -> PatchedForward:
        """A part, or some of a larger one."""
        index, place = divmod(start, self.data.part)
        forward = self.data[index]
        stop = min(place + self.part, len(forward.prompts))
        return (
            forward if stop - place == len(forward.prompts) else forward.piece(range(place, stop))
        )
