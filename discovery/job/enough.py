"""How many prompts are enough? A learning curve: twice as many, until the circuit stops gaining.

A circuit that was found on too few prompts does worse on others than on its own. So the method is
run on n prompts, 2 n, 4 n, ... until the share that its circuit recovers on the tuning prompts is
within GAP of that on its own, or there are no more prompts. The test prompts have no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from discovery.job.faithfulness import measure
from discovery.job.holds import GAP
from discovery.job.prepare import Cache, Job, prepare
from discovery.methods import Done, Found, Step
from discovery.settings.run import Settings

Say = Callable[[str], None]
Steps = Iterator[Step | Found]


@dataclass(frozen=True)
class Tried:
    """A circuit found on n prompts; shares are two-sided (acdc/share.py), None: undefined."""

    n: int
    n_edges: int
    search: float | None  # share recovered on its own prompts
    tune: float | None  # and on the tuning prompts

    @property
    def enough(self) -> bool:
        """Whether others are done as well as its own."""
        return self.search is None or self.tune is None or self.search - self.tune <= GAP


@dataclass(frozen=True)
class Enough:
    """The last job, what its method did, and the curve that led there."""

    job: Job
    done: Done
    curve: tuple[Tried, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """A line a number of prompts."""
        return [asdict(one) for one in self.curve]


def enough(job: Job, most: int, cache: Cache, run: Callable[[Job], Steps], say: Say) -> Enough:
    """Run the method on ever more prompts, from a job's own on, `most` at most; `run` is how."""
    curve = list[Tried]()
    while True:
        start = time.perf_counter()
        steps = tuple(_without_checkpoint(step) for step in run(job))
        done, found = Done(steps, time.perf_counter() - start), steps[-1]
        assert isinstance(found, Found)  # a method ends in one
        curve.append(_tried(job, found))
        now = curve[-1]
        say(
            f"{now.n} prompts: {now.n_edges} edges recover {_percent(now.search)} of them,"
            f" {_percent(now.tune)} of {len(job.held_out['tune'])} others"
        )
        fresh = len(curve) < 2 or now.n > curve[-2].n
        if now.enough or now.n >= most or not fresh:
            return Enough(job, done, tuple(curve))
        job = prepare(with_prompts(job.settings, min(2 * now.n, most)), cache)


def _without_checkpoint(step: Step | Found) -> Step | Found:
    """A step that holds on to nothing."""
    return replace(step, checkpoint=None) if isinstance(step, Step) else step


def with_prompts(settings: Settings, n: int) -> Settings:
    """The same with n prompts to search on."""
    return settings.model_copy(update={"task": settings.task.model_copy(update={"n": n})})


@torch.inference_mode()
def _tried(job: Job, found: Found) -> Tried:
    own, others = (measure(d, job.metric, found.mask) for d in (job.data, job.held_out["tune"]))
    return Tried(len(job.data), int(found.mask.sum()), own.share, others.share)


def _percent(share: float | None) -> str:
    return "nothing that can be said" if share is None else f"{share:.0%}"
