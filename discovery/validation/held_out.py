"""Prompts that a circuit was not found on: the same task, other draws, none in common.

The one place where a validation's prompts are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.job.build import task_prompts
from discovery.job.splits import new_rows
from discovery.settings.evaluation import FEWEST
from discovery.settings.run import Settings
from discovery.tasks.choices import PairsTask

SEED_STEP = 1_000_003  # between the run's draws and a validation's


def held_out(
    settings: Settings, loaded: LoadedModel, used: Sequence[Prompts], asked: int | str, seed: int
) -> Prompts:
    """Prompts none of which are among those that the run used, to search and to tune on.

    So many of the run's task (of its own file: lines that the run left), or all lines of a file.
    InputError if there are too few.
    """
    if isinstance(asked, str):
        return _of_file(settings, loaded, used, asked)
    more = settings.task.more(asked + sum(map(len, used)))
    drawn = settings.seed + SEED_STEP * (seed + 1)
    prompts = task_prompts(more, loaded, drawn, _needs(used[0]), _corrupt_for(settings))
    rows = new_rows(prompts, used)
    if len(rows) < asked:
        where = f"{getattr(more, 'path', 'its file')} has"
        where = "the task gives" if more.draws else where
        raise InputError(
            f"prompts={asked}: {where} only {len(rows)} prompts that the run did not use; ask for"
            f" prompts={len(rows)} or fewer, or search with a smaller task.n"
        )
    return prompts.take(rows[:asked])


def _of_file(
    settings: Settings, loaded: LoadedModel, used: Sequence[Prompts], path: str
) -> Prompts:
    file = PairsTask(path=path, prepend_bos=settings.task.prepend_bos, part=None)
    file.check("prompts")
    prompts = task_prompts(file, loaded, settings.seed, _needs(used[0]), _corrupt_for(settings))
    rows = new_rows(prompts, used)
    if len(rows) < FEWEST:
        raise InputError(
            f"prompts={path}: only {len(rows)} of its {len(prompts)} prompts are new to the run;"
            f" at least {FEWEST} are needed"
        )
    return prompts.take(rows)


def _needs(used: Prompts) -> tuple[str, ...]:
    return ("answers", "wrong") if used.has_wrong else ("answers",)


def _corrupt_for(settings: Settings) -> str | None:
    return "validation" if settings.ablation.needs_corrupt else None
