"""Which data may stand in for a datum: exact, agreeing on a feature, any, or a fixed one.

A feature is an array over the data set, one scalar or one row of scalars a datum; two data agree
when these are equal. Draws are uniform, with replacement, the reference included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError

Rows = NDArray[np.integer]  # data by their row number


def class_ids(feature: Any) -> Rows:
    """Number the different values of a feature 0, 1, ... in their order -> [datum].

    The feature is [datum] or [datum, part], rows compared whole. Raises InputError
    for NaN, which equals nothing.
    """
    array = np.asarray(feature)
    if array.ndim not in (1, 2):
        raise InputError(f"a feature of shape {array.shape}: allowed are [datum] and [datum, part]")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError("a feature holds NaN, which agrees with no datum")
    if array.ndim == 2:
        return np.unique(array, axis=0, return_inverse=True)[1].reshape(-1)
    return np.unique(array, return_inverse=True)[1]


class Sampler:
    """What all have in common. `reference` [sample] are the data to be replaced."""

    together: str | None = None  # nodes that name the same word share one draw

    def check(self, size: int) -> None:
        """Raise InputError unless the sampler fits a data set of `size` rows."""

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        """One datum for each reference."""
        raise NotImplementedError

    def class_sizes(self, reference: Rows) -> Rows | None:
        """How many data each reference could be replaced by; None where that says nothing."""
        return None


@dataclass(frozen=True)
class Exact(Sampler):
    """The reference itself."""

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        return reference


@dataclass(frozen=True)
class Unconditioned(Sampler):
    """Any datum. Nodes with the same `together` share one draw a sample."""

    together: str | None = None

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        return generator.integers(size, size=len(reference))


@dataclass(frozen=True)
class Fixed(Sampler):
    """Always the same datum (the attribution of one example)."""

    row: int

    def check(self, size: int) -> None:
        if not 0 <= self.row < size:
            raise InputError(f"row={self.row}: allowed are 0..{size - 1}")

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        return np.full_like(reference, self.row)


@dataclass(frozen=True, eq=False)
class Agree(Sampler):
    """Data on which the feature ([datum] or [datum, part]) has the reference's value.

    `among` ([datum], bool) restricts what may be drawn; the reference need not be in it.
    """

    feature: Any
    among: Any = None

    def check(self, size: int) -> None:
        for field, array in (("feature", self.feature), ("among", self.among)):
            if array is not None and len(array) != size:
                raise InputError(f"{field} has {len(array)} rows, the data set {size}")
        self._classes  # noqa: B018 -- complains about values and shape

    @cached_property
    def _classes(self) -> tuple[Rows, Rows, Rows, Rows]:
        """Class of each datum; data that may be drawn by class, first and number of each class."""
        ids = class_ids(self.feature)
        rows = np.arange(len(ids)) if self.among is None else np.flatnonzero(self.among)
        members = rows[np.argsort(ids[rows], kind="stable")]
        number = np.bincount(ids[rows], minlength=ids.max() + 1)
        return ids, members, np.cumsum(number) - number, number

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        ids, members, first, number = self._classes
        drawn = ids[reference]
        return members[first[drawn] + generator.integers(number[drawn])]

    def class_sizes(self, reference: Rows) -> Rows:
        ids, _, _, number = self._classes
        return number[ids[reference]]
