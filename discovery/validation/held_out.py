"""Prompts that a circuit was not found on: the same task, other draws, none in common.

The one place where a validation's prompts are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from acdc.ablation import Ablation
from acdc.bridge import LoadedModel
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.prompts import Prompts
from discovery.ablations.choices import AblationChoice
from discovery.job.build import cut_by, graph_of, make_ablation, task_prompts
from discovery.job.splits import new_rows, with_company
from discovery.settings.evaluation import FEWEST
from discovery.settings.run import Settings
from discovery.tasks.choices import OwnTask, PairsTask
from discovery.validation.bench import Bench, make_bench

SEED_STEP = 1_000_003  # between the run's draws and a validation's


def held_out(
    settings: Settings, loaded: LoadedModel, used: Sequence[Prompts], asked: int | str, seed: int,
    fewest: int = FEWEST,
) -> Prompts:  # fmt: skip
    """Prompts none of which are among those that the run used, to search and to tune on.

    So many of the run's task (of its own file: lines that the run left), or all lines of a file, of
    which `fewest` must be new. InputError if there are too few.
    """
    if isinstance(asked, str):
        return _of_file(settings, loaded, used, asked, fewest)
    more = settings.task.more(asked + sum(map(len, used)))
    drawn = settings.seed + SEED_STEP * (seed + 1)
    prompts = task_prompts(more, loaded, drawn, _needs(used[0]), _corrupt_for(settings))
    rows = new_rows(prompts, used)
    if len(rows) < asked:
        where = f"{getattr(more, 'path', 'its file')} has"
        where = "the task gives" if more.draws else where
        fewer = f"ask for prompts={len(rows)} or fewer, or " if len(rows) >= fewest else ""
        raise InputError(
            f"prompts={asked}: {where} only {len(rows)} prompts that the run did not use, of"
            f" {sum(map(len, used))} that it did, and at least {fewest} are needed; {fewer}search"
            " with a smaller task.n, tune or test, or name a file of new ones: prompts=FILE"
        )
    return prompts.take(rows[:asked])


def run_ablation(
    asked: AblationChoice, run: Settings, loaded: LoadedModel, used: Prompts
) -> Ablation:
    """As the run had it; what it learnt, it learnt from its own prompts."""
    ablation = make_ablation(asked, run.task, loaded, run.seed)
    if type(ablation).learnt is Ablation.learnt:
        return ablation
    paired = asked.pair(used, run.seed)
    return cut_by(ablation, Data(loaded.model, graph_of(run, loaded, used), paired)).ablation


def bench_of(
    run: Settings, loaded: LoadedModel, graph: Graph, prompts: Prompts, ablation: Ablation,
    seed: int, chunk: int,
) -> Bench:  # fmt: skip
    """A bench of held-out prompts, paired as the run's ablation asks, with its graph."""
    prompts = with_company(prompts)
    asked = run.ablation.pair(prompts, seed)
    own = prompts.has_corrupt and len(asked) == len(prompts) and asked is not prompts
    return make_bench(loaded.model, graph, asked, ablation, chunk, prompts if own else None)


def _of_file(
    settings: Settings, loaded: LoadedModel, used: Sequence[Prompts], path: str, fewest: int
) -> Prompts:
    task = settings.task
    asked = {"answers": task.answers, "corrupt": task.corrupt} if isinstance(task, OwnTask) else {}
    file = PairsTask.model_validate(
        {"path": path, "prepend_bos": task.prepend_bos, "part": None, **asked}
    )
    file.check("prompts")
    prompts = task_prompts(file, loaded, settings.seed, _needs(used[0]), _corrupt_for(settings))
    rows = new_rows(prompts, used)
    if len(rows) < fewest:
        raise InputError(
            f"prompts={path}: only {len(rows)} of its {len(prompts)} prompts are new to the run;"
            f" at least {fewest} are needed"
        )
    return prompts.take(rows)


def _needs(used: Prompts) -> tuple[str, ...]:
    return ("answers", "wrong") if used.has_wrong else ("answers",)


def _corrupt_for(settings: Settings) -> str | None:
    return "validation" if settings.ablation.needs_corrupt else None
