"""Search, tune and test: prompts to find a circuit on, to choose its size on, and to judge it on.

No prompt is in two of them. Tasks that are drawn get other draws; the user's own lines are divided
as they say themselves (`split`), or by share. Only `test` has had no part in any choice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from acdc.bridge import LoadedModel
from acdc.prompts import Prompts
from discovery.build import task_prompts
from discovery.settings import Settings
from discovery.tasks.choices import NoneLeft, Part, Task

SEED_STEP = 1_000_003  # between the seeds of the run's own prompts and of fresh ones
SEEDS: dict[Part, int] = {"tune": 500_001, "test": 700_001}  # added to the run's


@dataclass(frozen=True)
class Splits:
    """A run's prompts; None where there are none left."""

    search: Prompts
    tune: Prompts | None
    test: Prompts | None


def split(settings: Settings, loaded: LoadedModel, search: Prompts) -> Splits:
    """The prompts that are held out beside those of the search."""
    tune = _part(settings, loaded, "tune", settings.tune, [search])
    seen = [p for p in (search, tune) if p is not None]
    return Splits(search, tune, _part(settings, loaded, "test", settings.test, seen))


def _part(
    settings: Settings, loaded: LoadedModel, part: Part, n: int, seen: Collection[Prompts]
) -> Prompts | None:
    if n == 0:
        return None
    task = settings.task.held_out(part, n + sum(map(len, seen)))
    if task is None:
        return None
    seed = settings.seed + (SEEDS[part] if task.draws else 0)  # lines are divided by one seed
    metric = settings.metric.load()
    try:
        return unseen(task, loaded, seed, n, seen, metric.needs, settings.corrupt_for)
    except NoneLeft:
        return None


def unseen(
    task: Task,
    loaded: LoadedModel,
    seed: int,
    n: int,
    seen: Collection[Prompts],
    needs: Collection[str] = (),
    corrupt_for: str | None = None,
) -> Prompts | None:
    """The task's first n prompts, or fewer, that are not among those seen; None if there are none.

    They need not differ from each other.
    """
    prompts = task_prompts(task, loaded, seed, needs, corrupt_for)
    known = {tuple(row) for one in seen for row in one.clean.tolist()}
    rows = [i for i, row in enumerate(prompts.clean.tolist()) if tuple(row) not in known]
    return prompts.take(rows[:n]) if rows else None
