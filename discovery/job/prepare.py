"""What every job on a task begins with: the model, its prompts, two runs of them, a metric."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch

from acdc.bridge import LoadedModel
from acdc.data import Data
from acdc.errors import InputError
from acdc.memory import Plan, Shape, plan
from acdc.metrics import Metric
from acdc.prompts import Prompts
from discovery.job.build import cut_by, graph_of, load_model, make_ablation, task_prompts
from discovery.job.faithfulness import task_scores
from discovery.job.splits import SEEDS, split, with_company
from discovery.settings.run import ModelSettings, Settings
from discovery.tasks.choices import Part

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


class Cache:
    """What jobs of one process share: the last model, and its two runs of the last prompts.

    Each is used again only if all that determines it is equal, so sharing changes no result.
    """

    def __init__(self) -> None:
        self._model: Last[LoadedModel] = Last()
        self._data: Last[Data] = Last()

    def model(self, settings: ModelSettings) -> LoadedModel:
        """The configured model."""

        def make() -> LoadedModel:
            self._data = Last()  # it holds the model that goes
            return load_model(settings)

        return self._model.get((settings.model, settings.device), make)

    def data(self, settings: Settings, loaded: LoadedModel, metric: Metric) -> Data:
        """The configured prompts in parts, paired as the ablation asks, cut edges resampled.

        Runs are made when asked for.
        """
        task, seed, needs = settings.task, settings.seed, metric.needs
        ablation = settings.ablation
        corrupt_for = settings.corrupt_for  # its name is for messages only

        def make() -> Data:
            prompts = ablation.pair(task_prompts(task, loaded, seed, needs, corrupt_for), seed)
            return Data(loaded.model, graph_of(settings, loaded, prompts), prompts, padded=True)

        # the model is this one's: Cache.model lets the data go with it
        asked = (task, task.fingerprint(), seed, needs, corrupt_for is not None, ablation)
        return self._data.get((asked, settings.graph, settings.threads), make)


@dataclass(frozen=True)
class Job:
    """Everything that a method works on."""

    loaded: LoadedModel
    data: Data  # holds the graph and the prompts
    metric: Metric
    plan: Plan  # how the data is worked on
    settings: Settings

    @cached_property
    def held_out(self) -> Mapping[Part, Data]:
        """Prompts to tune and to test on, as far as the task has them.

        Many circuits are run on those to tune on, so their runs are held like the search's.
        """
        found: dict[Part, Data] = {}
        for part, prompts in split(self.settings, self.loaded, self.data.prompts).items():
            hold = self.plan.hold and part == "tune" and self.settings.aim is not None
            for some in (prompts, with_company(prompts)):
                try:
                    found[part] = self.on(some, SEEDS[part], hold)
                    break
                except InputError:  # too few to be each other's partners
                    continue
        return found

    def on(self, prompts: Prompts, seed: int, hold: bool = False) -> Data:
        """Other prompts, worked on as the job's own: paired by a seed beside the run's.

        InputError if there are too few to be each other's partners.
        """
        paired = self.settings.ablation.pair(prompts, self.settings.seed + seed)
        return Data(
            self.loaded.model, self.data.graph, paired, self.data.ablation, self.plan.part, hold,
            self.plan.batch_bytes, self.plan.host, self.data.padded,
        )  # fmt: skip

    @cached_property
    def own_pairs(self) -> Data:
        """The first prompts with the task's own corrupt ones, which tell what heads do.

        Of an answer of several tokens they tell it of the first.
        """
        settings, needs, graph = self.settings, self.metric.needs, self.data.graph.plain
        prompts = task_prompts(settings.task, self.loaded, settings.seed, needs).reading(0)
        if torch.equal(prompts.corrupt.cpu(), self.data.prompts.corrupt.cpu()):
            return self.data.apart().at_least(1).with_graph(graph)
        return Data(self.loaded.model, graph, prompts, part=self.plan.part).at_least(1)

    @torch.inference_mode()
    def describe(self) -> str:
        """The prompts, and the model's own score, so that nobody searches for what it cannot do."""
        data = self.data
        lines = [describe_prompts(self.loaded, data.prompts)]
        held = [f"{len(d)} to {part} on" for part, d in self.held_out.items()]
        lines.append(f"held out: {' and '.join(held) or 'none'}")
        lines.append(f"{self.loaded.model.name} on the task:")
        clean = task_scores(data, lambda forward: forward.clean.logits)
        lines.append(f"  {'clean':8}{_score_line(clean)}")
        if data.prompts.has_corrupt:
            corrupt = task_scores(data, lambda forward: forward.corrupt.logits)
            lines.append(f"  {'corrupt':8}{_score_line(corrupt)}")
        return "\n".join(lines)


def prepare(settings: Settings, cache: Cache | None = None) -> Job:
    """The configured job. With `cache`, model and runs are made only if the last job's do not fit.

    InputError if model, task and metric do not fit, or the prompts do not fit into memory.
    """
    cache = cache or Cache()
    metric = settings.metric.load()
    settings.method.check_question(metric, settings.ablation.name)
    loaded = load(settings, cache)
    data = cache.data(settings, loaded, metric)
    metric.check(data.prompts)
    tuned, works = settings.aim is not None, settings.method.works
    beside = settings.tune if tuned else 0
    prompts, tokens = data.prompts, data.tokens
    beside = -(-beside * len(tokens) // len(data))  # taken to be alike
    shape = Shape(loaded.model, len(tokens), data.n_pos, prompts.has_corrupt, beside, sum(tokens))
    works = "targeted" if tuned and works == "search" else works
    how = plan(shape, works, settings.memory_gib)
    data = data.arranged(how.part, how.hold, how.batch_bytes, how.host)
    ablation = make_ablation(settings.ablation, settings.task, loaded, settings.seed)
    return Job(loaded, cut_by(ablation, data), metric, how, settings)


def load(settings: ModelSettings, cache: Cache | None = None) -> LoadedModel:
    """The configured model, and torch's threads set for it.

    By default one thread for a small model, where a second costs more than it brings.
    """
    loaded = (cache or Cache()).model(settings)
    small = sum(w.numel() for w in loaded.bridge.parameters()) < SMALL_MODEL
    torch.set_num_threads(settings.threads or (1 if small else DEFAULT_THREADS))
    return loaded


def describe_prompts(loaded: LoadedModel, prompts: Prompts) -> str:
    """What the task made, with its first pair."""
    notes = "".join(f", {k} {v}" for k, v in prompts.notes.items() if k != "warning")
    lines = [f"prompts: {prompts.asked}{notes}"]
    lines += [f"warning: {v}" for k, v in prompts.notes.items() if k == "warning"]
    first = prompts.reading(0)
    lines.append(f"  {'clean':8}{describe_ids(loaded, first.tokens(0))}")
    if prompts.has_corrupt:
        lines.append(f"  {'corrupt':8}{describe_ids(loaded, first.swapped().tokens(0))}")
    return "\n".join(lines)


def describe_ids(loaded: LoadedModel, ids: list[int]) -> str:
    """Tokens as a quoted text, or as ids where the model has no tokenizer."""
    return str(ids) if loaded.tokenizer is None else repr(loaded.tokenizer.decode(ids))


def _score_line(scores: Mapping[str, float]) -> str:
    if not scores:
        return "no answers named"
    words = {"accuracy": "accuracy {:.1%}", "top1": "top-1 {:.1%}"}
    return ", ".join(words.get(k, "logit diff {:.3f}").format(v) for k, v in scores.items())
