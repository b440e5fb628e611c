"""Explain a run's circuit: read what it found, make the parts, write beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.explanation.page import page
from discovery.explanation.parts import Explanation, explain
from discovery.explanation.subject import Subject
from discovery.job.build import build_prompts
from discovery.job.mirror import run_name, tags
from discovery.job.prepare import Cache, load
from discovery.job.splits import split
from discovery.runs.folder import termination_as_exit
from discovery.runs.json_files import read_json, write_bytes, write_json
from discovery.runs.tracking import Outcome, start_tracker
from discovery.settings.explanation import FEWEST, ExplainSettings
from discovery.validation.held_out import bench_of, held_out, run_ablation
from discovery.validation.runs import Found, read_found

Say = Callable[[str], None]


@dataclass(frozen=True)
class Explained:
    """One run's outcome."""

    folder: Path
    explanation: Explanation
    data: Mapping[str, Any]  # explanation.json
    page: Path


def explain_run(
    folder: Path, asked: ExplainSettings, say: Say, cache: Cache | None = None
) -> Explained:
    """Explain; writes explanation.json and explanation.html into the run's folder.

    `cache` holds the model, if it is there already. InputError for a run that is not finished, too
    few prompts, and a part that was named and cannot be asked.
    """
    (one,) = read_found([folder], asked.device, asked.threads)
    tracking = one.settings.tracking
    with torch.inference_mode(False), torch.no_grad():
        subject = _subject(one, asked, cache, say)
        with (
            termination_as_exit(),
            start_tracker(
                tracking.mode, folder=one.folder, project=tracking.project,
                config=asked.model_dump(mode="json"), name=run_name(one.settings, "explain"),
                group=None, job_type="explanation", tags=tags(one.settings),
            ) as tracker,
        ):  # fmt: skip
            explanation = explain(subject, asked, say)
            about = _about(one, subject)
            data = {
                **about, "settings": asked.model_dump(mode="json"),
                "left_out": dict(explanation.left_out), "seconds": dict(explanation.seconds),
                "plain_pass": explanation.plain,
                "sections": {n: _without_svg(s) for n, s in explanation.sections.items()},
            }  # fmt: skip
            write_json(one.folder / "explanation.json", data)
            path, text = one.folder / "explanation.html", page(about, explanation)
            write_bytes(path, text.encode())
            summary = {
                f"{n}: {s.title}": " ".join(s.says[:1]) for n, s in explanation.sections.items()
            }
            tracker.finish(Outcome(
                summary, pages={"explanation": text}, files=[one.folder / "explanation.json"]
            ))  # fmt: skip
    return Explained(one.folder, explanation, data, path)


def _without_svg(section: Any) -> dict[str, Any]:
    """What of a section is data."""
    return {k: v for k, v in asdict(section).items() if k != "pictures"}


def _subject(one: Found, asked: ExplainSettings, cache: Cache | None, say: Say) -> Subject:
    run = one.settings
    if run.graph.positions != "none":
        raise InputError(
            f"run={one.folder}: its edges are of spans (graph.positions={run.graph.positions}), and"
            " what is explained are edges at all positions: search with graph.positions=none"
        )
    loaded = load(run, cache)
    used = build_prompts(run, loaded)
    seen = [used, *(p for part, p in split(run, loaded, used).items() if part == "tune")]
    prompts = held_out(run, loaded, seen, asked.prompts, asked.seed, FEWEST)
    if any(prompts.forced):
        say("of answers of several tokens the first is explained")
        prompts = prompts.reading(0)
    ablation = run_ablation(run.ablation, run, loaded, used)
    graph = loaded.model.graph(run.graph.kv)

    def bench(rows: range) -> Any:
        some: Prompts = prompts.take(rows)
        return bench_of(run, loaded, graph, some, ablation, asked.seed, asked.chunk)

    half = len(prompts) // 2
    say(f"{half} prompts to choose on, {len(prompts) - half} to test on, none of the run's")
    choose, test = bench(range(half)), bench(range(half, len(prompts)))
    circuit = Circuit.from_json(one.circuit, choose.graph)
    heads = (read_json(one.folder / "heads.json") or {}).get("heads", {})
    return Subject(circuit, loaded, choose, test, heads, asked.seed, asked.level, asked)


def _about(one: Found, subject: Subject) -> dict[str, Any]:
    bench = subject.test
    return {
        "model": one.settings.model.label,
        "task": one.settings.task.label,
        "method": one.settings.method.name,
        "n_edges": subject.circuit.n_edges,
        "n_nodes": len(subject.circuit.nodes),
        "n_choose": subject.choose.n,
        "n_test": bench.n,
        "score": bench.score,
        "unit": bench.unit,
        "zero": bench.zero,
        "model_score": float(bench.model.score.mean()),
        "circuit_score": float(bench.circuit(subject.circuit.mask).score.mean()),
        "empty_score": float(bench.empty.score.mean()),
        "command": f"circuits explain run={one.folder}",
    }


def says(one: Explained) -> str:
    """What each part found, a line a sentence."""
    lines = list[str]()
    for section in one.explanation.sections.values():
        lines += [section.title, *(f"  {sentence}" for sentence in section.says)]
    lines += [f"Not asked: {name}: {why}" for name, why in one.explanation.left_out.items()]
    return "\n".join(lines)
