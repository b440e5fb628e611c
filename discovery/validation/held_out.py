"""Prompts that a circuit was not found on: the same task, other draws, none in common."""

from __future__ import annotations

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.build import task_prompts
from discovery.settings import Settings

SEED_STEP = 1_000_003  # between the run's draws and a validation's


def held_out(settings: Settings, loaded: LoadedModel, used: Prompts, n: int, seed: int) -> Prompts:
    """n prompts of the run's task, none of them among those that the run used.

    From the user's own pairs: lines that the run left. InputError if there are too few.
    """
    more = settings.task.more(n + len(used))
    needs = ("answers", "wrong") if used.has_wrong else ("answers",)
    drawn = settings.seed + SEED_STEP * (seed + 1)
    prompts = task_prompts(more, loaded, drawn, needs, "validation")
    seen = {tuple(row) for row in used.clean.tolist()}
    rows = [i for i, row in enumerate(prompts.clean.tolist()) if tuple(row) not in seen]
    if len(rows) < n:
        where = f"{getattr(more, 'path', 'its file')} has"
        where = "the task gives" if more.draws else where
        raise InputError(
            f"prompts={n}: {where} only {len(rows)} prompts that the run did not use; ask for"
            f" prompts={len(rows)} or fewer, or search with a smaller task.n"
        )
    return prompts.take(rows[:n])
