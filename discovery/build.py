"""From settings to things: the model and the prompts that a run works on."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch

from acdc.bridge import LoadedModel, from_bridge, load_pretrained
from acdc.errors import InputError
from acdc.metrics import NEEDS, check_metric
from acdc.pretrained import Outline
from acdc.prompts import Prompts
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.settings import (
    GreaterThanTask,
    HFModel,
    InductionTask,
    IOITask,
    ModelSettings,
    Settings,
    SmolLM2Model,
    Task,
)
from discovery.tasks import greater_than, induction, ioi, pairs
from discovery.tasks.tokens import bos_id, known_bos

CLEAN_ONLY = ("ifr",)  # methods that look at clean runs only


def load_model(settings: ModelSettings) -> LoadedModel:
    """The configured model on the configured device, its identities checked."""
    dtype = getattr(torch, settings.model.dtype)
    if isinstance(settings.model, HFModel):
        check = partial(check_prompts, settings)
        return load_pretrained(settings.model.name, dtype, settings.device, check=check)
    if isinstance(settings.model, SmolLM2Model):
        check = partial(check_prompts, settings)
        return load_pretrained(str(smollm2_folder()), dtype, settings.device, "smollm2", check)
    bridge = load_induction().to(device=settings.device, dtype=dtype, print_details=False)
    return from_bridge(bridge, None, "induction")


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
    """The configured task for this model; InputError if the two and the method do not fit."""
    method = settings.method
    user = None if method.name in CLEAN_ONLY else f"method={method.name}"
    prompts = task_prompts(settings.task, loaded, settings.seed, NEEDS[method.metric], user)
    check_metric(method.metric, prompts)
    if user is not None and not prompts.has_corrupt:
        raise InputError("task: clean and corrupt prompts are all the same up to the answer")
    return prompts


def task_prompts(
    task: Task,
    loaded: LoadedModel | Outline,
    seed: int,
    needs: Collection[str] = (),
    corrupt_for: str | None = None,
) -> Prompts:
    """A task's prompts for this model.

    Of the user's own pairs, `needs` says what has to be there ("answers", "wrong"), and
    `corrupt_for` who needs corrupt prompts, if anybody. InputError if the two do not fit.
    """
    tokenizer = loaded.tokenizer
    common = {"seed": seed, "prepend_bos": task.prepend_bos}
    if isinstance(task, IOITask):
        prompts = ioi.build(tokenizer, n=task.n, corruption=task.corruption, **common)
    elif isinstance(task, GreaterThanTask):
        prompts = greater_than.build(tokenizer, n=task.n, **common)
    elif isinstance(task, InductionTask):
        bos = bos_id(tokenizer) if task.prepend_bos else known_bos(tokenizer, loaded.d_vocab)
        prompts = induction.build(
            d_vocab=loaded.d_vocab, n=task.n, length=task.length, bos_id=bos, **common
        )
    else:
        prompts = pairs.load(
            task.path, tokenizer=tokenizer, d_vocab=loaded.d_vocab, n=task.n,
            length=task.length, needs_answers="answers" in needs, needs_wrong="wrong" in needs,
            corrupt_for=corrupt_for, **common,
        )  # fmt: skip
    prompts.check_vocabulary(loaded.d_vocab)
    if prompts.clean.shape[1] > loaded.n_ctx:
        raise InputError(
            f"task: prompts have {prompts.clean.shape[1]} tokens, the model takes at most"
            f" {loaded.n_ctx}"
        )
    return prompts
