"""What methods say on the way, and what they end with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from discovery.runs.folder import TestedEdge


@dataclass(frozen=True)
class Step:
    """A piece of a method's work that is done."""

    edges: tuple[Mapping[str, Any], ...] = ()  # new lines of edges.jsonl
    row: Mapping[str, Any] = field(default_factory=dict)  # a line of metrics.jsonl; empty: none
    done: int = 0  # edges whose fate is known
    says: str = ""  # what a progress bar shows beside it
    # numbers and tensors to go on from, for a method that can; None: not from here
    checkpoint: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None


@dataclass(frozen=True)
class Resume:
    """Where a method is to go on: what a Step's checkpoint was, and all edge lines up to it."""

    about: Mapping[str, Any]
    tensors: Mapping[str, Any]
    edges: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Found:
    """What a method ended with."""

    mask: NDArray[np.bool_]  # [writers, readers]: the circuit
    scores: NDArray[np.float64]  # [writers, readers]
    score: str  # what the scores are, in words, with their unit and sign
    ranks: bool  # whether a smaller circuit is the edges that score best
    counts: Mapping[str, int | float] = field(default_factory=dict)  # goes into result.json
    metric: float | None = None  # of the circuit, where the method itself says so
    edges: tuple[TestedEdge, ...] = ()  # tested or scored, in order


@dataclass(frozen=True)
class Done:
    """A method's work from its first step to its Found, and how long it took."""

    steps: tuple[Step | Found, ...]
    seconds: float


def shown(
    steps: Iterable[Step | Found], total: int, what: str | None = None
) -> Iterator[Step | Found]:
    """The steps, with a bar of edges whose fate is known, of so many, and what they say.

    It stays when all is done, unless it is one of several and says `what` of.
    """
    with tqdm(
        total=total, desc=what, unit="edge", dynamic_ncols=True, smoothing=0.05, leave=what is None
    ) as bar:
        for step in steps:
            if isinstance(step, Step):
                bar.update(step.done - bar.n)
                bar.set_postfix_str(step.says, refresh=False)
            yield step


def last(steps: Iterable[Step | Found]) -> Found:
    """Run a method to its end. TypeError if it ends without a Found."""
    found: Step | Found | None = None
    for found in steps:  # noqa: B007
        pass
    if not isinstance(found, Found):
        raise TypeError(f"a method ends in a Found, this one in {found!r}")
    return found
