"""What every job on a task begins with: the model, its prompts, two runs of them, a metric."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from acdc.bridge import LoadedModel
from acdc.forward import Ablation, PatchedForward
from acdc.metrics import Metric, make_metric
from acdc.prompts import Prompts
from discovery.build import CLEAN_ONLY, build_prompts, load_model
from discovery.evaluation import task_scores
from discovery.settings import MetricName, ModelSettings, PairsTask, Settings

SMALL_MODEL = 10_000_000  # parameters
DEFAULT_THREADS = torch.get_num_threads()
Made = TypeVar("Made")


class Last(Generic[Made]):
    """Remembers the last thing made, and lets go of it before another is made."""

    def __init__(self) -> None:
        self._held: tuple[Hashable, Made] | None = None

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The last thing made if it was under this key, else what `make` makes now."""
        if self._held is None or self._held[0] != key:
            self._held = None
            self._held = (key, make())
        return self._held[1]


class Kept:
    """What jobs of one process share: the last model, and its two runs of the last prompts.

    Each is used again only if all that determines it is equal, so sharing changes no result.
    """

    def __init__(self) -> None:
        self._model: Last[LoadedModel] = Last()
        self._runs: Last[PatchedForward] = Last()

    def model(self, settings: ModelSettings) -> LoadedModel:
        """The configured model."""

        def make() -> LoadedModel:
            self._runs = Last()  # they hold the model that goes
            return load_model(settings)

        return self._model.get((settings.model, settings.device), make)

    def runs(self, settings: Settings, loaded: LoadedModel) -> PatchedForward:
        """Clean and corrupt run of the configured prompts, cut edges resampled."""

        def make() -> PatchedForward:
            prompts = build_prompts(settings, loaded)
            with torch.no_grad():  # attribution needs tensors that gradients may pass
                graph = loaded.model.graph(settings.graph.kv)
                return PatchedForward(loaded.model, graph, prompts)

        return self._runs.get(_determines_runs(settings), make)


def _determines_runs(settings: Settings) -> Hashable:
    """Everything that prompts, graph and runs depend on; of a file also its size and time."""
    task, method = settings.task, settings.method
    file: Any = None
    if isinstance(task, PairsTask):
        about = Path(task.path).stat()
        file = (about.st_size, about.st_mtime_ns)
    return (
        settings.model, settings.device, settings.threads, settings.seed, settings.graph, task,
        file, method.metric, method.name in CLEAN_ONLY,  # the last two: what prompts must have
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Everything that a method works on."""

    loaded: LoadedModel
    forward: PatchedForward  # holds the graph and the prompts
    metric: Metric

    @torch.inference_mode()
    def describe(self) -> str:
        """The prompts, and the model's own score, so that nobody searches for what it cannot do."""
        forward = self.forward
        lines = [describe_prompts(self.loaded, forward.prompts)]
        lines.append(f"{self.loaded.model.name} on the task:")
        for run, logits in (("clean", forward.clean.logits), ("corrupt", forward.corrupt.logits)):
            if run == "clean" or forward.prompts.has_corrupt:
                lines.append(f"  {run:8}{_score_line(task_scores(forward.prompts, logits))}")
        return "\n".join(lines)


def prepare(
    settings: Settings,
    metric: MetricName | None = None,
    ablation: Ablation | None = None,
    kept: Kept | None = None,
) -> Job:
    """The configured job; metric and ablation are the method's own unless given.

    With `kept`, model and runs are made only if the last job's cannot be used. InputError if model,
    task and metric do not fit.
    """
    method, kept = settings.method, kept or Kept()
    loaded = load(settings, kept)
    runs = kept.runs(settings, loaded)
    with torch.no_grad():
        forward = runs.under(ablation or method.ablation)
        chosen = make_metric(metric or method.metric, forward.prompts, forward.clean.logits)
    return Job(loaded, forward, chosen)


def load(settings: ModelSettings, kept: Kept | None = None) -> LoadedModel:
    """The configured model, and torch's threads set for it.

    By default one thread for a small model, where a second costs more than it brings.
    """
    loaded = (kept or Kept()).model(settings)
    small = sum(w.numel() for w in loaded.bridge.parameters()) < SMALL_MODEL
    torch.set_num_threads(settings.threads or (1 if small else DEFAULT_THREADS))
    return loaded


def describe_prompts(loaded: LoadedModel, prompts: Prompts) -> str:
    """What the task made, with its first pair."""
    notes = "".join(f", {k} {v}" for k, v in prompts.notes.items() if k != "warning")
    lines = [f"prompts: {len(prompts)} of {prompts.clean.shape[1]} tokens{notes}"]
    lines += [f"warning: {v}" for k, v in prompts.notes.items() if k == "warning"]
    lines.append(f"  {'clean':8}{describe_ids(loaded, prompts.clean[0].tolist())}")
    if prompts.has_corrupt:
        lines.append(f"  {'corrupt':8}{describe_ids(loaded, prompts.corrupt[0].tolist())}")
    return "\n".join(lines)


def describe_ids(loaded: LoadedModel, ids: list[int]) -> str:
    """Tokens as a quoted text, or as ids where the model has no tokenizer."""
    return str(ids) if loaded.tokenizer is None else repr(loaded.tokenizer.decode(ids))


def _score_line(scores: Mapping[str, float]) -> str:
    if not scores:
        return "no answers named"
    words = {"accuracy": "accuracy {:.1%}", "top1": "top-1 {:.1%}"}
    return ", ".join(words.get(k, "logit diff {:.3f}").format(v) for k, v in scores.items())
