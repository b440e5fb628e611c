"""From settings to things: the model and the prompts that a run works on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from acdc.ablation import Ablation
from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.ablations.choices import AblationChoice
from discovery.settings import ModelSettings
from discovery.tasks.choices import PairsTask, Task

REFERENCE_SEED = 2_000_003  # apart from the seeds of the run's own prompts


def load_model(settings: ModelSettings) -> LoadedModel:
    """The configured model on the configured device, its identities checked."""
    return settings.model.load(settings.device)


def task_prompts(
    task: Task,
    loaded: LoadedModel,
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
    prompts.check_vocabulary(loaded.model.d_vocab)
    if prompts.clean.shape[1] > loaded.model.n_ctx:
        raise InputError(
            f"task: prompts have {prompts.clean.shape[1]} tokens, the model takes at most"
            f" {loaded.model.n_ctx}"
        )
    if corrupt_for is not None and not prompts.has_corrupt:
        raise InputError("task: clean and corrupt prompts are all the same up to the answer")
    return prompts


def make_ablation(choice: AblationChoice, task: Task, loaded: LoadedModel, seed: int) -> Ablation:
    """What cut edges carry; a reference set is the task's with another seed, or a file's."""

    def references(path: str | None, n: int | None) -> Prompts:
        if path is None:
            return task_prompts(task.more(n or 1), loaded, seed + REFERENCE_SEED)
        file = PairsTask(path=path, n=n, prepend_bos=task.prepend_bos)
        file.check("ablation")
        return task_prompts(file, loaded, seed)

    return choice.make(references, seed)
