"""Where a path moves the answer: its reader is given the other prompt's at one position at a time.

The positions are the task's marks, each a path's effect of its own, and all others together. They
need not add up to the whole path's effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from acdc.prompts import Prompts
from discovery.explanation.paths.patching import Direction, Floats, MLPs, path_effects
from discovery.explanation.paths.walk import Path
from discovery.statistics.intervals import Interval, mean_interval
from discovery.validation.bench import Bench

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Placed:
    """One path, position by position."""

    path: Path
    effects: Mapping[str, Interval]  # mean change of the score, by mark and elsewhere
    where: str  # it moves the answer most, on the prompts that paths were picked on


def marked(prompts: Prompts) -> dict[str, Bool[np.ndarray, "prompts pos"]]:
    """Each mark's positions, and all others; marks at the same places are one, "end = answer"."""
    every, named = np.arange(prompts.clean.shape[1]), dict[tuple[int, ...], list[str]]()
    for name, at in prompts.marks.items():
        named.setdefault(tuple(at), []).append(name)
    found = {" = ".join(names): every == np.array(at)[:, None] for at, names in named.items()}
    rest = ~np.any([np.zeros(prompts.clean.shape, bool), *found.values()], axis=0)
    return {**found, ELSEWHERE: rest} if rest.any() else found


def placed(
    choose: Bench, test: Bench, paths: Sequence[Path], rng: np.random.Generator, level: float,
    mlps: MLPs = "frozen", direction: Direction = "noising",
) -> list[Placed]:  # fmt: skip
    """Effects of some paths at each of the task's marks; none where it has no marks."""
    if not test.data.prompts.marks:
        return []

    def effects(bench: Bench, path: Path) -> dict[str, Floats]:
        writer, reader = bench.graph.edge(f"{path.sender}->{path.receiver}")
        return {
            name: path_effects(bench, [[writer]], [reader], mlps, direction, at)[0]
            for name, at in marked(bench.data.prompts).items()
        }

    found = list[Placed]()
    for path in paths:
        picks, own = effects(choose, path), effects(test, path)
        where = max((n for n in picks if n in own), key=lambda n: abs(float(picks[n].mean())))
        means = {n: mean_interval(values, rng, level=1 - level) for n, values in own.items()}
        found.append(Placed(path, means, where))
    return found
