"""From settings to things: the model and the prompts that a run works on."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from acdc.ablation import Ablation
from acdc.bridge import LoadedModel
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.pretrained import Outline
from acdc.prompts import Prompts
from acdc.spans import spans_of
from discovery.ablations.choices import AblationChoice
from discovery.settings.run import ModelSettings, Settings
from discovery.tasks.choices import OwnTask, PairsTask, Task

REFERENCE_SEED = 2_000_003  # apart from the seeds of the run's own prompts


def load_model(settings: ModelSettings) -> LoadedModel:
    """The configured model on the configured device, its identities checked."""
    if settings.device.startswith("cuda"):
        repeatable_on_cards()
    return settings.model.load(settings.device, partial(check_prompts, settings))


def repeatable_on_cards() -> None:
    """The same command, the same circuit: sums on a card are done in one order.

    What has no such way warns. The workspace is cuBLAS's own condition, and is read when the first
    product is made.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_prompts(settings: ModelSettings, outline: Outline) -> None:
    """InputError for prompts that cannot be had, as far as tokenizer and sizes tell."""
    if isinstance(settings, Settings):
        build_prompts(settings, outline)
        return
    for field in ("task", "versus"):
        if (task := getattr(settings, field, None)) is not None:
            try:
                task_prompts(task, outline, settings.seed)
            except InputError as error:
                raise InputError(f"versus: {error}" if field == "versus" else str(error)) from None


def build_prompts(settings: Settings, loaded: LoadedModel | Outline) -> Prompts:
    """The configured task for this model; InputError if the two, method and metric do not fit."""
    metric = settings.metric.load()
    prompts = task_prompts(settings.task, loaded, settings.seed, metric.needs, settings.corrupt_for)
    metric.check(prompts)
    spans_of(prompts, settings.graph.positions)  # or why there are none
    return prompts


def graph_of(settings: Settings, loaded: LoadedModel, prompts: Prompts) -> Graph:
    """The edges that a run has, whose prompts these are: they say which spans there are."""
    graph = loaded.model.graph(settings.graph.kv)
    return replace(graph, spans=spans_of(prompts, settings.graph.positions))


def task_prompts(
    task: Task,
    loaded: LoadedModel | Outline,
    seed: int,
    needs: Collection[str] = (),
    corrupt_for: str | None = None,
) -> Prompts:
    """A task's prompts for this model, all that they depend on in the arguments.

    `needs` says what has to be there ("answers", "wrong"), and `corrupt_for` who needs corrupt
    prompts, if anybody. InputError if the two do not fit.
    """
    prompts: Any = task.build(loaded, seed, needs, corrupt_for)
    if not isinstance(prompts, Prompts):
        raise InputError(
            f"task.name={task.name!r}: build gave a {type(prompts).__name__}; wanted are"
            " acdc.prompts.Prompts"
        )
    prompts.check_vocabulary(loaded.d_vocab)
    if max(prompts.lengths) > loaded.n_ctx:
        raise InputError(
            f"task: prompts have {prompts.extent} tokens, the model takes at most {loaded.n_ctx}"
        )
    if corrupt_for is not None and not prompts.has_corrupt:
        raise InputError("task: clean and corrupt prompts are all the same up to the answer")
    return prompts


def make_ablation(choice: AblationChoice, task: Task, loaded: LoadedModel, seed: int) -> Ablation:
    """What cut edges carry; a reference set is the task's with another seed, or a file's."""

    def references(path: str | None, n: int | None) -> Prompts:
        if path is None:
            # of a file: the lines of the search, so that none held out has a part in it
            fresh = task.more(n or 1) if task.draws else task
            return task_prompts(fresh, loaded, seed + REFERENCE_SEED if task.draws else seed)
        asked = {"answers": task.answers} if isinstance(task, OwnTask) else {}
        file = PairsTask.model_validate(
            {"path": path, "n": n, "prepend_bos": task.prepend_bos, "part": None, **asked}
        )
        file.check("ablation")
        return task_prompts(file, loaded, seed)

    return choice.make(references, seed)


def cut_by(ablation: Ablation, data: Data) -> Data:
    """The data with these values on cut edges, learnt from it where they are to be."""
    fitted = data.under(ablation)
    learnt = fitted.ablation.learnt(fitted)
    return fitted if learnt is fitted.ablation else fitted.under(learnt)
