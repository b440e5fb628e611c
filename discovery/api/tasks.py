"""Tasks for a model: prompts to find a circuit on, and others to judge it on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.api.choose import choose, lines, stored
from discovery.api.model import Model
from discovery.job.build import task_prompts
from discovery.job.prepare import describe_ids
from discovery.job.splits import SEEDS, unseen
from discovery.tasks import choices

FRESH = 900_001  # seed of fresh prompts, apart from those of a run's parts


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts of a task, as this model reads them; made by `task` or `pairs`."""

    choice: choices.Task
    model: Model
    seed: int = 0
    only: Prompts | None = None  # of `fresh`: just these

    @cached_property
    def prompts(self) -> Prompts:
        """Clean and corrupt token ids, answers, where they are read."""
        return self._made if self.only is None else self.only

    @cached_property
    def _made(self) -> Prompts:
        return task_prompts(self.choice, self.model.loaded, self.seed)

    def check_search(self, model: Model) -> None:
        """InputError unless these are prompts to search on, for this model."""
        if self.model is not model:
            raise InputError("task: it was made for another model; make it for this one")
        if self.only is not None:
            raise InputError("task: these prompts are to judge on; search on the task they are of")

    def fresh(self, n: int, seed: int = 1, tune: int = 64) -> Task:
        """n other prompts to judge a circuit on: none that a run searches on, nor its `tune`.

        Of a file: lines that a run leaves. InputError if there are fewer.
        """
        seen = [self._made]
        tuned = self._held("tune", tune, self.seed + SEEDS["tune"], seen)
        seen += [] if tuned is None else [tuned]
        found = self._held("test", n, self.seed + FRESH + seed, seen)
        if found is None or len(found) < n:
            raise InputError(
                f"fresh({n}): the task has only {0 if found is None else len(found)} prompts that"
                " are not to search or to tune on"
            )
        return replace(self, only=found)

    def _held(self, part: choices.Part, n: int, seed: int, seen: list[Prompts]) -> Prompts | None:
        held = self.choice.of_part(part, n + sum(map(len, seen)))
        if held is None:
            return None
        try:
            return unseen(held, self.model.loaded, seed if held.draws else self.seed, n, seen)
        except choices.NoneLeft:
            return None

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        prompts = self.prompts.reading(0)
        first = describe_ids(self.model.loaded, prompts.tokens(0))
        return (
            f"Task({self.choice.label!r}: {len(prompts)} prompts of {prompts.extent} tokens"
            f" for {self.model.name}, the first {first})"
        )


def task(name: str, model: Model, *, seed: int = 0, **fields: Any) -> Task:
    """A task by its name ("ioi", "induction", "greater_than", "module:Class"), for this model.

    `fields` are those of its file in conf/task, such as n, corruption, length, prepend_bos.
    InputError if the task and the model do not fit.
    """
    return _tried(choose("task", name=name, **fields), model, seed)


def pairs(
    rows: str | Path | Iterable[Mapping[str, Any]], model: Model, *, name: str = "pairs",
    seed: int = 0, **fields: Any,
) -> Task:  # fmt: skip
    """One's own prompts: a JSONL file, or its rows as dicts.

    A row: {"clean": ..., "corrupt": ..., "answers": [...], "wrong": [...]}; see the page on own
    tasks. `name` is what the task is called when rows are given; `fields` are n, length, part,
    prepend_bos. InputError names every faulty row.
    """
    if not isinstance(rows, str | Path):
        rows = stored("pairs", name, ".jsonl", lines(rows))
    return _tried(choose("task", name="pairs", path=str(rows), **fields), model, seed)


def _tried(choice: choices.Task, model: Model, seed: int) -> Task:
    choice.check("task")
    made = Task(choice, model, seed)
    len(made)  # refuses what does not fit, now
    return made
