"""The main job, verbs in order: load, build prompts, search, evaluate, record.

Plain settings in, a run folder out (see discovery/runs/folder.py). Everything is
written as it becomes known, so a killed run keeps what it had. Knows neither Hydra nor the console:
progress goes to tqdm, sentences to `say`.
"""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acdc.bridge import LoadedModel
from acdc.circuit import SCORES
from acdc.data import Data
from acdc.errors import InputError
from acdc.memory import GIB
from discovery.choices.given import PREFIX
from discovery.choices.labels import model_folder, task_file
from discovery.heads.describe import describe_heads
from discovery.job.doubts import doubts
from discovery.job.enough import Steps, enough, with_prompts
from discovery.job.faithfulness import Measured, as_fields, evaluate, measure
from discovery.job.holds import holds, verdict
from discovery.job.mirror import head_rows, run_name, summary, tags
from discovery.job.origin import commit
from discovery.job.prepare import Cache, Job, prepare
from discovery.job.propose import Proposed, asked, propose
from discovery.job.routes import routes_of
from discovery.job.summary import caption, title
from discovery.methods import Done, Method
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.runs.json_files import encode, read_json
from discovery.runs.tracking import Outcome, Tracker, check_tracking, start_tracker
from discovery.settings.run import Settings
from discovery.show.drawing import DrawnEdge, Layout, draw_circuit
from discovery.tasks.choices import Part

CURVE = "learning_curve.json"
MANY = 4  # times that a prompt is looked at from which more prompts would do better
LARGE = 20_000  # edges of a graph on which a search to a target may take hours
FORWARD_REPEATS = 5  # plain passes timed before the search, and again after it
Say = Callable[[str], None]
Page = Callable[[Mapping[str, Any], str], str]  # circuit.json and a title to self-contained HTML


def discover(
    settings: Settings,
    folder: Path,
    overrides: Sequence[str],
    say: Say,
    group: str | None = None,
    cache: Cache | None = None,
    page: Page | None = None,
) -> dict[str, Any]:
    """Run one search into `folder`; returns what result.json holds.

    `group` is the sweep that it belongs to, `cache` what it shares with the sweep's other jobs,
    `page` how a tracker is shown the circuit.
    A run of the same settings that was killed in this folder goes on. InputError for anything the
    user can mend; the folder's status.json then says failed.
    """
    config = settings.model_dump(mode="json")
    with termination_as_exit(), RunFolder.create(folder, config, overrides, goes_on=True) as run:
        check_tracking(settings.tracking.mode)
        clock, cache = _Clock(), cache or Cache()
        with clock("load"):
            job = prepare(settings, cache=cache)
        job, done = _grown(job, run, cache, clock, say)
        settings = job.settings
        with start_tracker(
            settings.tracking.mode, folder=folder, project=settings.tracking.project,
            config=config, name=run_name(settings), group=group,
            job_type=settings.method.name, tags=tags(settings),
        ) as tracker:  # fmt: skip
            return _discover(settings, run, tracker, job, clock, say, done, page)


def _grown(
    job: Job, run: RunFolder, cache: Cache, clock: _Clock, say: Say
) -> tuple[Job, Done | None]:
    """The job with as many prompts as are enough, if that is asked, and what was done there.

    A run that goes on takes the number that it came to.
    """
    if job.settings.grow is None:
        return job, None
    curve = read_json(run.path(CURVE))
    if curve is not None:
        return prepare(with_prompts(job.settings, curve["curve"][-1]["n"]), cache), None

    def steps(own: Job) -> Steps:
        method, seed = own.settings.method, own.settings.seed
        return asked(method, own.data, own.metric, seed, _aim(own.settings, own))

    with clock("grow"):
        found = enough(job, job.settings.grow, cache, steps, say)
    run.write(CURVE, {"curve": found.to_json()})
    return found.job, found.done


def _discover(
    settings: Settings, run: RunFolder, tracker: Tracker, job: Job, clock: _Clock, say: Say,
    done: Done | None, page: Page | None,
) -> dict[str, Any]:  # fmt: skip
    loaded, data, metric = job.loaded, job.data, job.metric
    plain = _time_forward(loaded, data)
    say(estimate(settings, job, statistics.median(plain)))
    say(job.describe())
    say(f"graph: {data.graph.describe()}")
    warnings = doubts(loaded, data, metric, getattr(settings.method, "threshold", None))
    for sentence in warnings:
        say(f"warning: {sentence}")
    with clock("search"):
        aim = _aim(settings, job)
        proposed = propose(settings.method, data, metric, settings.seed, run, tracker, aim, done)
    if (missed := _missed(settings.aim, proposed)) is not None:
        warnings.append(missed)
        say(f"warning: {missed}")
    plain += _time_forward(loaded, data)
    with clock("evaluate"), torch.inference_mode():
        measured = _measured(job, proposed)
    with clock("heads"), torch.inference_mode():
        circuit = proposed.circuit.without_spans()
        heads = describe_heads(circuit, job.own_pairs, loaded, settings.seed)
        run.write("heads.json", heads)
    with clock("routes"), torch.inference_mode():
        lines = map(encode, routes_of(job.own_pairs.prompts, loaded))
        run.write_bytes("routes.jsonl", b"".join(line + b"\n" for line in lines))
    result = _result(settings, run, job, proposed, measured, clock, statistics.median(plain))
    result["warnings"] = warnings
    picture = _draw(run, proposed, result)
    run.write("result.json", result)
    tracker.finish(_outcome(run, proposed, result, heads, picture, page))
    return result


def _aim(settings: Settings, job: Job) -> tuple[float, Data] | None:
    """The target, if one holds, and the prompts that it holds on."""
    if settings.aim is None:
        return None
    if "tune" not in job.held_out:
        raise InputError(
            f"target={settings.aim:g}: the task has no prompts left to tune on; give more (or"
            " task.n less than all of them), or give the method a size (method.threshold,"
            " method.n_edges)"
        )
    return settings.aim, job.held_out["tune"]


def _missed(aim: float | None, proposed: Proposed) -> str | None:
    """Why a target was not reached, if it was not."""
    reached = proposed.found.counts.get("tune_share")
    if aim is None or reached is None or reached >= aim:
        return None
    return (
        f"the target {aim:g} was not reached: {reached:.3f} on the tuning prompts with"
        f" {proposed.circuit.n_edges} edges, and no edge that was tried brings it nearer; search on"
        " more prompts (task.n), or ask for less (target)"
    )


def plan_only(settings: Settings, say: Say) -> None:
    """Say what the run would take in memory and time; nothing is searched or written."""
    job = prepare(settings)
    say(estimate(settings, job, statistics.median(_time_forward(job.loaded, job.data))))


def estimate(settings: Settings, job: Job, forward_seconds: float) -> str:
    """Memory and time of the run, before it begins."""
    passes = settings.method.passes(job.data.graph)
    if settings.aim is not None and settings.method.works == "search":
        passes = None  # a few searches, each as long as the circuit is large
    one = f"a plain forward pass of all prompts takes {forward_seconds:.3g} s"
    if passes is None:
        says = f"{job.plan.says()}\ntime: {one}; how many {settings.method.name} takes is not known"
        says += _by_heart(settings.method, len(job.data))
        long = settings.method.works == "search" and job.data.graph.n_edges > LARGE
        return says + (", it may be hours: method=learned takes some hundreds" if long else "")
    total = passes * forward_seconds
    words = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} minutes"
    return f"{job.plan.says()}\ntime: roughly {passes:.0f} plain forward passes, {words}; {one}"


def _by_heart(method: Method, n: int) -> str:
    """Advice for a method that looks at each of n prompts many times."""
    if method.looks is None or method.looks < MANY * n:
        return ""
    return (
        f"\nprompts: {method.name} looks at each of the {n} about {method.looks / n:.0f} times; of"
        f" more (up to {method.looks:,}: task.n) it learns what holds on others, for little more"
    )


def _time_forward(loaded: LoadedModel, data: Data) -> list[float]:
    """Seconds of plain forward passes of all prompts, one not counted; timed on the first part."""
    tokens, seconds = data.prompts_of(0).clean.clamp(min=0), []  # padding is as dear as a token
    whole = sum(data.tokens)
    for _ in range(FORWARD_REPEATS + 1):
        start = time.perf_counter()
        loaded.plain_logits(tokens)
        _synchronise(loaded)
        seconds.append((time.perf_counter() - start) * whole / tokens.numel())
    return seconds[1:]


def _synchronise(loaded: LoadedModel) -> None:
    if loaded.model.device.type == "cuda":
        torch.cuda.synchronize()


# --- after the search


def _result(
    settings: Settings, run: RunFolder, job: Job, proposed: Proposed,
    measured: Mapping[Part, Measured], clock: _Clock, forward_seconds: float,
) -> dict[str, Any]:  # fmt: skip
    method, circuit = settings.method, proposed.circuit
    clock.seconds["search"] = round(proposed.seconds, 3)  # earlier attempts included
    return {
        "model": settings.model.label,
        "task": settings.task.label,
        "places": _places(settings),
        "method": method.name,
        "metric": settings.metric.name.removeprefix(PREFIX),
        "unit": job.metric.unit,
        "lower_is_better": job.metric.lower_is_better,
        "ablation": settings.ablation.name,
        "threshold": getattr(method, "threshold", None),
        "target": settings.aim,
        "seed": settings.seed,
        "n_edges_total": circuit.graph.n_edges,
        "n_edges": circuit.n_edges,
        "n_edges_on_paths": circuit.pruned().n_edges,
        "n_nodes": len(circuit.nodes),
        **as_fields(measured["search"]),
        "splits": {part: asdict(own) for part, own in measured.items()},
        **_test_fields(measured.get("test")),
        "verdict": verdict(measured),
        "holds": holds(measured),
        **proposed.found.counts,
        "seconds": clock.seconds,
        "forward_seconds": forward_seconds,
        "search_in_forwards": proposed.seconds / forward_seconds,
        "peak_memory_gib": peak_memory(job.loaded.model.device),
        "expected_memory_gib": round(job.plan.peak / GIB, 3),
        "prompts_at_a_time": job.plan.part,
        "config_hash": run.config_hash,
        "versions": _versions(),
        "commit": commit(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {settings.device}",
    }


def _places(settings: Settings) -> dict[str, str]:
    """Where own files lie, by which runs are told apart that have one name."""
    model, task = settings.model.model_dump(), settings.task.model_dump()
    found = {"model": model_folder(model), "task": task_file(task)}
    return {name: str(Path(place).resolve()) for name, place in found.items() if place}


def _measured(job: Job, proposed: Proposed) -> dict[Part, Measured]:
    """The circuit on the prompts of the search, and on those that were held out."""
    mask = proposed.found.mask
    found: dict[Part, Measured] = {}
    found["search"] = evaluate(job.data, job.metric, mask, proposed.found.metric)
    for part, data in job.held_out.items():
        found[part] = measure(data, job.metric, mask)
    return found


def _test_fields(test: Measured | None) -> dict[str, float | None]:
    """What runs are sorted by: flat, None where nothing was held out."""
    names = ("faithfulness", "error_share", "kl_share")
    fields = {f"test_{n}": None if test is None else getattr(test, n) for n in names}
    scores = {} if test is None or test.scores is None else test.scores.get("circuit", {})
    return {**fields, "test_accuracy": scores.get("accuracy")}


def peak_memory(device: torch.device) -> float:
    """The most that a card held so far, or this process (Linux counts KiB, macOS bytes), in GiB."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / GIB, 3)
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 3)


def _versions() -> dict[str, str]:
    names = ("circuit-discovery", "torch", "transformer-lens", "transformers", "numpy")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def _draw(run: RunFolder, proposed: Proposed, result: Mapping[str, Any]) -> Path:
    circuit = proposed.circuit.without_spans()
    graph = circuit.graph
    layout = Layout(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.has_mlp)
    drawn = [
        DrawnEdge(graph.writers[w], graph.readers[r].name, float(circuit.scores[w, r]))
        for w, r in np.argwhere(circuit.mask).tolist()
    ]
    picture, _ = draw_circuit(
        run.folder, layout, drawn,
        title=title(result),
        subtitle=caption(result),
        width="|score|" if proposed.found.ranks else "|effect|",
    )  # fmt: skip
    return picture


def _outcome(
    run: RunFolder, proposed: Proposed, result: Mapping[str, Any], heads: Mapping[str, Any],
    picture: Path, page: Page | None,
) -> Outcome:  # fmt: skip
    """What a tracker is told: the record less what is long."""
    graph = proposed.circuit.graph
    sizes = {k: getattr(graph, k) for k in ("n_layers", "n_heads", "n_kv_heads", "has_mlp")}
    rows = head_rows(heads)
    pages = {}
    if page is not None:
        pages["circuit_page"] = page(read_json(run.path("circuit.json")) or {}, title(result))
    return Outcome(
        summary(result) | sizes,
        proposed.found.edges,
        tables={"heads": rows} if rows else {},
        pictures={"circuit": picture},
        pages=pages,
        files=[run.path(name) for name in ("circuit.json", SCORES) if run.size(name)],
    )


class _Clock:
    """Seconds spent in named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Lap:
        return _Lap(self, name)


@dataclass
class _Lap:
    clock: _Clock
    name: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.seconds[self.name] = round(time.perf_counter() - self.start, 3)
