"""The main job, verbs in order: load, build prompts, search, evaluate, record.

Plain settings in, a run folder out (see discovery/records.py and README). Everything is written as
it becomes known, so a killed run keeps what it had. Knows neither Hydra nor the console: progress
goes to tqdm, sentences to `say`.
"""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from acdc.bridge import LoadedModel
from acdc.forward import PatchedForward
from acdc.graph import Circuit, Graph
from acdc.metrics import Metric, make_metric
from acdc.prompts import Prompts
from acdc.search import Decision, Order, Step, acdc
from discovery.build import build_prompts, load_model
from discovery.drawing import DrawnEdge, Layout, draw_circuit
from discovery.evaluation import circuit_heads, evaluate, task_scores
from discovery.records import RunFolder, termination_as_exit
from discovery.settings import Settings
from discovery.tracking import Outcome, TestedEdge, Tracker, check_tracking, start_tracker

FORWARD_REPEATS = 5  # plain passes timed before the search, and again after it
SMALL_MODEL = 10_000_000  # parameters
DEFAULT_THREADS = torch.get_num_threads()
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What a search ended with."""

    circuit: Circuit
    tests: tuple[Decision, ...]
    last: Step
    seconds: float


def discover(
    settings: Settings, folder: Path, overrides: Sequence[str], say: Say, group: str | None = None
) -> dict[str, Any]:
    """Run one search into `folder`; returns what result.json holds.

    InputError for anything the user can mend; the folder's status.json then says failed.
    """
    config = settings.model_dump(mode="json")
    with termination_as_exit(), RunFolder.create(folder, config, overrides) as run:
        check_tracking(settings.tracking.mode)
        clock = _Clock()
        with clock("load"):
            loaded = load_model(settings)
            _set_threads(settings, loaded)
            prompts = build_prompts(settings, loaded)
        job = f"{settings.model.kind}-{settings.task.name}-{settings.method.name}"
        with start_tracker(
            settings.tracking.mode, folder=folder, project=settings.tracking.project,
            config=config, name=job, group=group, job_type=settings.method.name, tags=[],
        ) as tracker:  # fmt: skip
            return _discover(settings, run, tracker, loaded, prompts, clock, say)


def _discover(
    settings: Settings, run: RunFolder, tracker: Tracker, loaded: LoadedModel, prompts: Prompts,
    clock: _Clock, say: Say,
) -> dict[str, Any]:  # fmt: skip
    method = settings.method
    with clock("setup"), torch.inference_mode():
        graph = loaded.model.graph(settings.graph.kv)
        forward = PatchedForward(loaded.model, graph, prompts, method.ablation)
        metric = make_metric(method.metric, forward.prompts, forward.clean.logits)
    say(describe_prompts(loaded, forward.prompts))
    say(describe_model(loaded.model.name, forward))
    say(f"graph: {graph.describe()}")
    plain = _time_forward(loaded, forward.prompts)
    with clock("search"):
        found = _search(settings, run, tracker, forward, metric)
    plain += _time_forward(loaded, forward.prompts)
    with clock("evaluate"), torch.inference_mode():
        scores = evaluate(forward, metric, found.circuit, found.last.metric)
        heads = circuit_heads(found.circuit, forward)
    result = _result(settings, run, found, scores, clock, statistics.median(plain))
    _write(run, tracker, found, metric, result, heads)
    return result


def _set_threads(settings: Settings, loaded: LoadedModel) -> None:
    """As configured; by default one for a small model, where a second costs more than it brings."""
    small = sum(w.numel() for w in loaded.bridge.parameters()) < SMALL_MODEL
    threads = settings.threads or (1 if small else DEFAULT_THREADS)
    torch.set_num_threads(threads)


# --- before the search


def describe_prompts(loaded: LoadedModel, prompts: Prompts) -> str:
    """What the task made, with its first pair."""
    notes = "".join(f", {k} {v}" for k, v in prompts.notes.items())
    lines = [f"prompts: {len(prompts)} of {prompts.clean.shape[1]} tokens{notes}"]
    for name, tokens in (("clean", prompts.clean[0]), ("corrupt", prompts.corrupt[0])):
        ids = tokens.tolist()
        text = repr(loaded.tokenizer.decode(ids)) if loaded.tokenizer is not None else str(ids)
        lines.append(f"  {name:8}{text}")
    return "\n".join(lines)


@torch.inference_mode()
def describe_model(name: str, forward: PatchedForward) -> str:
    """The model's own score on the task, so that nobody searches for what it cannot do."""
    lines = [f"{name} on the task:"]
    for run, logits in (("clean", forward.clean.logits), ("corrupt", forward.corrupt.logits)):
        lines.append(f"  {run:8}{_score_line(task_scores(forward.prompts, logits))}")
    return "\n".join(lines)


def _score_line(scores: Mapping[str, float]) -> str:
    if not scores:
        return "no answers named"
    words = {"accuracy": "accuracy {:.1%}", "top1": "top-1 {:.1%}"}
    return ", ".join(words.get(k, "logit diff {:.3f}").format(v) for k, v in scores.items())


def _time_forward(loaded: LoadedModel, prompts: Prompts) -> list[float]:
    """Seconds of plain forward passes of the batch, one not counted."""
    seconds = []
    for _ in range(FORWARD_REPEATS + 1):
        start = time.perf_counter()
        loaded.plain_logits(prompts.clean)
        _synchronise(loaded)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _synchronise(loaded: LoadedModel) -> None:
    if loaded.model.device.type == "cuda":
        torch.cuda.synchronize()


# --- the search


def _search(
    settings: Settings, run: RunFolder, tracker: Tracker, forward: PatchedForward, metric: Metric
) -> Found:
    method, graph = settings.method, forward.graph
    order = Order(method.reader_order, method.sender_heads, method.gates, settings.seed)
    start, tests = time.perf_counter(), []
    step = None
    with tqdm(total=graph.n_edges, unit="edge", dynamic_ncols=True, smoothing=0.05) as bar:
        for number, step in enumerate(acdc(forward, metric, method.threshold, order, method.chunk)):
            tests += step.tests
            seconds = time.perf_counter() - start
            row = _metrics_row(graph, step, metric)
            run.append_edges(_edge_row(graph, test) for test in step.tests)
            run.append_metrics({**row, "seconds": round(seconds, 3)})
            run.heartbeat()
            tracker.log(row, step=number)
            bar.update(step.n_settled - bar.n)
            name = graph.readers[step.visit.reader].name
            counts = f"{step.n_kept} kept, {step.n_tests} tests"
            bar.set_postfix_str(f"{name}, {counts}, {metric.name} {step.metric:.4g}", refresh=False)
    assert step is not None  # every graph has the reader `logits`
    scores = np.zeros(graph.legal.shape)
    for test in tests:
        if test.writer is not None:
            scores[test.writer, test.reader] = test.effect
    circuit = Circuit(graph, step.mask, scores)
    return Found(circuit, tuple(tests), step, time.perf_counter() - start)


def _metrics_row(graph: Graph, step: Step, metric: Metric) -> dict[str, Any]:
    return {
        "reader": graph.readers[step.visit.reader].name,
        "kind": step.visit.kind,
        "reason": step.reason,
        "metric": step.metric,
        "n_edges": step.n_edges,
        "n_kept": step.n_kept,
        "n_settled": step.n_settled,
        "n_tests": step.n_tests,
        "n_passes": step.n_passes,
    }


def _edge_row(graph: Graph, test: Decision) -> dict[str, Any]:
    return {
        "order": test.order,
        "edge": test.name(graph),
        "kind": "gate" if test.writer is None else "edge",
        "effect": test.effect,
        "metric": test.after,
        "kept": test.kept,
        "tie": test.tie,
    }


# --- after the search


def _result(
    settings: Settings, run: RunFolder, found: Found, scores: Mapping[str, Any], clock: _Clock,
    forward_seconds: float,
) -> dict[str, Any]:  # fmt: skip
    method, circuit = settings.method, found.circuit
    gates = [t for t in found.tests if t.writer is None]
    return {
        "model": getattr(settings.model, "name", settings.model.kind),
        "task": settings.task.name,
        "method": method.name,
        "metric": method.metric,
        "ablation": method.ablation,
        "threshold": method.threshold,
        "seed": settings.seed,
        "n_edges_total": circuit.graph.n_edges,
        "n_edges": circuit.n_edges,
        "n_edges_on_paths": circuit.pruned().n_edges,
        "n_nodes": len(circuit.nodes()),
        **{
            k: scores[k]
            for k in ("metric_clean", "metric_corrupt", "metric_circuit", "faithfulness")
        },
        "scores": {"model": scores["model"], "circuit": scores["circuit"]},
        "n_tests": found.last.n_tests,
        "n_gates": len(gates),
        "n_gates_kept": sum(t.kept for t in gates),
        "n_ties": sum(t.tie for t in found.tests),
        "n_passes": found.last.n_passes,
        "seconds": clock.seconds,
        "forward_seconds": forward_seconds,
        "search_in_forwards": found.seconds / forward_seconds,
        "peak_memory_gib": _peak_memory(),
        "config_hash": run.config_hash,
        "versions": _versions(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {settings.device}",
    }


def _peak_memory() -> float:
    """Largest resident size of this process so far, in GiB (Linux counts KiB, macOS bytes)."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 3)


def _versions() -> dict[str, str]:
    names = ("circuit-discovery", "torch", "transformer-lens", "transformers", "numpy")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def _write(
    run: RunFolder, tracker: Tracker, found: Found, metric: Metric, result: dict[str, Any],
    heads: dict[str, Any],
) -> None:  # fmt: skip
    circuit, graph = found.circuit, found.circuit.graph
    about = {
        "score": f"effect of the edge's removal when it was tested, in {metric.unit} of"
        f" {metric.name}, positive = the removal hurts; 0 = not tested"
    }
    run.write("circuit.json", circuit.to_json(about=about))
    run.write("heads.json", heads)
    layout = Layout(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.has_mlp)
    drawn = [
        DrawnEdge(graph.writers[w], graph.readers[r].name, float(circuit.scores[w, r]))
        for w, r in np.argwhere(circuit.mask).tolist()
    ]
    faith = result["faithfulness"]
    picture, _ = draw_circuit(
        run.folder, layout, drawn,
        title=f"Circuit for {result['task']} in {result['model']}",
        subtitle=f"{result['method']}, threshold {result['threshold']:g} {metric.unit}:"
        f" {result['n_edges']} of {result['n_edges_total']:,} edges, {metric.name}"
        f" {result['metric_circuit']:.3g}, faithfulness "
        + ("undefined" if faith is None else f"{faith:.1%}"),
    )  # fmt: skip
    run.write("result.json", result)
    edges = [
        TestedEdge(t.name(graph), t.order, t.effect, t.kept)
        for t in found.tests
        if t.writer is not None
    ]
    flat = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
    tracker.finish(Outcome(flat, edges, picture, run.path("circuit.json")))


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
