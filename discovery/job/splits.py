"""Search, tune and test: prompts to find a circuit on, to choose its size on, and to judge it on.

No prompt is in two of them. Tasks that are drawn get other draws; the user's own lines are divided
as they say themselves (`split`), or by share. Only `test` has had no part in any choice.
"""

from __future__ import annotations

from collections.abc import Collection

from acdc.bridge import LoadedModel
from acdc.prompts import Prompts
from discovery.job.build import task_prompts
from discovery.settings.run import Settings
from discovery.tasks.choices import NoneLeft, Part, Task

SEEDS: dict[Part, int] = {"tune": 500_001, "test": 700_001}  # added to the run's


def split(settings: Settings, loaded: LoadedModel, search: Prompts) -> dict[Part, Prompts]:
    """The prompts that are held out beside those of the search, as far as there are any left."""
    found: dict[Part, Prompts] = {}
    sizes: dict[Part, int] = {"tune": settings.tune, "test": settings.test}
    for part, n in sizes.items():
        own = _part(settings, loaded, part, n, [search, *found.values()])
        if own is not None:
            found[part] = own
    return found


def _part(
    settings: Settings, loaded: LoadedModel, part: Part, n: int, seen: Collection[Prompts]
) -> Prompts | None:
    if n == 0:
        return None
    task = settings.task.of_part(part, n + sum(map(len, seen)))
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
    rows = new_rows(prompts, seen)
    return prompts.take(rows[:n]) if rows else None


def new_rows(prompts: Prompts, seen: Collection[Prompts]) -> list[int]:
    """Of the prompts, those whose clean tokens, without answers, are not among those seen."""
    known = {row for one in seen for row in one.reading(0).rows()}
    return [i for i, row in enumerate(prompts.reading(0).rows()) if row not in known]


def with_company(prompts: Prompts) -> Prompts:
    """Those that others are alike: resampling has nothing to draw for the rest."""
    rows = sorted(row for own in prompts.alike().values() if len(own) > 1 for row in own)
    return prompts.take(rows) if rows else prompts
