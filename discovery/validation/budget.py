"""Minutes that a validation may take: which parts are done, never how.

A part is done in full or left out, so its figures depend on its settings alone. What it will take
is estimated from runs already timed; what is left out is named, with the budget that would do it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

Progress = Callable[[str], None]
SLACK = 1.5  # an estimate may be as wrong as that


class Estimate:
    """In a budget's place: affords nothing, and adds up what is asked for."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def affords(self, part: str, seconds: float) -> bool:
        """No; so many seconds more."""
        self.minutes += seconds / 60
        return False

    def __call__(self, part: str) -> AbstractContextManager[None]:
        """What is done all the same, unmeasured."""
        return nullcontext()


@dataclass(frozen=True)
class LeftOut:
    """A part that was not done."""

    part: str
    minutes: float | None  # that it would take; None: it was not asked for at all
    ask: str  # what to set to have it


class Budget:
    """Times named parts, tells which one begins, and says whether the next one still fits."""

    def __init__(self, minutes: float | None, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.left_out: list[LeftOut] = []
        self._minutes, self._progress, self._begin = minutes, progress, time.perf_counter()

    def affords(self, part: str, seconds: float) -> bool:
        """Whether a part of so many seconds fits; one that does not is put down as left out."""
        spent = time.perf_counter() - self._begin
        if self._minutes is None or spent + seconds <= 60 * self._minutes:
            return True
        before = sum(one.minutes or 0.0 for one in self.left_out)
        need = math.ceil(spent / 60 + SLACK * (before + seconds / 60))
        self.leave_out(part, seconds / 60, f"budget={max(need, 1)}m, or budget=full")
        return False

    def leave_out(self, part: str, minutes: float | None, ask: str) -> None:
        """Put a part down as left out."""
        self.left_out.append(LeftOut(part, None if minutes is None else round(minutes, 1), ask))
        self._progress(f"{part}: left out")

    def announce(self, estimate: Estimate) -> None:
        """Say what everything would take, before it is begun."""
        whole = "nothing is left out" if self._minutes is None else (
            f"budget={self._minutes:g}m, what does not fit is left out and named"
        )  # fmt: skip
        self._progress(f"all tests would take about {estimate.minutes:.1f} minutes; {whole}")

    def __call__(self, part: str) -> Budget:
        """The context in which a part is done."""
        self._progress(part)
        self._part = part
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._part] = round(time.perf_counter() - self._start, 3)
