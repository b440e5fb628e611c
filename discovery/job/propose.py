"""A method at work: its steps written down as they come, from where an earlier attempt left off.

    edges.jsonl, metrics.jsonl   as they become known
    checkpoint.safetensors       where the method can go on from, every few seconds; gone at the end
    search.json, scores.npz, circuit.json    what it ended with; circuit.json comes last

A run that was killed goes on: from its circuit, from its checkpoint, or from the beginning, and
ends with the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save

from acdc.circuit import SCORES, Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.metrics import Metric
from discovery.methods import Done, Found, Method, Step, shown
from discovery.methods.found import Resume
from discovery.runs.folder import RunFolder, TestedEdge
from discovery.runs.json_files import read_json, read_lines, write_bytes
from discovery.runs.tracking import Tracker

CHECKPOINT = "checkpoint.safetensors"
LINES = ("edges.jsonl", "metrics.jsonl")
EVERY_SECONDS = 5.0  # the least between two checkpoints
OVERHEAD = 0.05  # of the time that they may take


@dataclass(frozen=True)
class Proposed:
    """What a method ended with, and how long it took, all attempts together."""

    found: Found
    circuit: Circuit
    seconds: float


def propose(
    method: Method, data: Data, metric: Metric, seed: int, run: RunFolder, tracker: Tracker,
    aim: tuple[float, Data] | None = None, done: Done | None = None,
) -> Proposed:  # fmt: skip
    """Run the method into the folder, or what is left; `aim` is a target and where it holds.

    `done` is what it did, if it did its work before.
    """
    before = _read_back(run, data.graph)
    if before is not None:
        return before
    work = _Work(run, tracker, data.graph, metric)
    resume = work.come_back()
    if done is None:
        steps = asked(method, data, metric, seed, aim, resume)
    else:
        steps, work.before = iter(done.steps), done.seconds
    found: Step | Found | None = None
    for found in shown(_named(method, steps), data.graph.n_edges):
        if isinstance(found, Found):
            break
        work.write(found)
    if not isinstance(found, Found):
        raise TypeError(f"method={method.name}: it must end in a Found, and ended in {found!r}")
    return work.end(found)


def asked(
    method: Method, data: Data, metric: Metric, seed: int, aim: tuple[float, Data] | None,
    resume: Resume | None = None,
) -> Iterator[Step | Found]:  # fmt: skip
    """The method's steps: to the size that it is given, or on its way to a target."""
    if aim is None:
        return method.find(data, metric, seed, resume)
    return method.reach(data, metric, seed, *aim, resume)


def _named(method: Method, steps: Iterator[Step | Found]) -> Iterator[Step | Found]:
    """The steps; a refusal of one of the method's fields names it as the user does."""
    try:
        yield from steps
    except InputError as error:
        field = str(error).partition("=")[0]
        prefix = "method." if field in type(method).model_fields else ""
        raise InputError(f"{prefix}{error}") from error


class _Work:
    """The files of a method that is running."""

    def __init__(self, run: RunFolder, tracker: Tracker, graph: Graph, metric: Metric) -> None:
        self.run, self.tracker, self.graph, self.metric = run, tracker, graph, metric
        self.start, self.before = time.perf_counter(), 0.0  # seconds of earlier attempts
        self.number = 0  # of the next step
        self.saved, self.cost = self.start, 0.0

    @property
    def seconds(self) -> float:
        """So far, all attempts together."""
        return self.before + time.perf_counter() - self.start

    def come_back(self) -> Resume | None:
        """Where the last attempt's checkpoint is; lines that came after it are cut off."""
        path = self.run.path(CHECKPOINT)
        sizes, resume = dict.fromkeys(LINES, 0), None
        if path.exists():
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sizes, self.number, self.before = about["sizes"], about["number"], about["seconds"]
        for name, size in sizes.items():
            self.run.truncate(name, size)
        if path.exists():
            edges = read_lines(self.run.path("edges.jsonl"))
            resume = Resume(about["method"], tensors, edges)
        return resume

    def write(self, step: Step) -> None:
        """Record one step."""
        self.run.append_edges(step.edges)
        if step.row:
            row = {**step.row, "seconds": round(self.seconds, 3)}
            self.run.append_metrics(row)
            self.tracker.log(row, step=self.number)
        self.number += 1
        wait = max(EVERY_SECONDS, self.cost / OVERHEAD)
        if step.checkpoint is not None and time.perf_counter() - self.saved > wait:
            self._save(step)

    def _save(self, step: Step) -> None:
        assert step.checkpoint is not None  # asked for only then
        began = time.perf_counter()
        method, tensors = step.checkpoint()
        about = {
            "method": method,
            "sizes": {name: self.run.size(name) for name in LINES},
            "number": self.number,
            "seconds": self.seconds,
        }
        own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        write_bytes(self.run.path(CHECKPOINT), save(own, {"about": json.dumps(about)}))
        self.saved = time.perf_counter()
        self.cost = self.saved - began

    def end(self, found: Found) -> Proposed:
        """Record what it came to; circuit.json says that the method is done."""
        circuit, seconds = Circuit(self.graph, found.mask, found.scores), self.seconds
        names = ("score", "ranks", "counts", "metric")
        about = {name: getattr(found, name) for name in names}
        self.run.write("search.json", {**about, "seconds": seconds})
        data, scores = circuit.split_json(about={"score": found.score})
        self.run.write_bytes(SCORES, scores)
        self.run.write("circuit.json", data)
        self.run.path(CHECKPOINT).unlink(missing_ok=True)
        return Proposed(found, circuit, seconds)


def _read_back(run: RunFolder, graph: Graph) -> Proposed | None:
    """What an earlier attempt ended with, if it came so far."""
    about, path = read_json(run.path("search.json")), run.path("circuit.json")
    if about is None or not run.size(path.name):
        return None
    read = Circuit.load(path, graph)
    rows = [r for r in read_lines(run.path("edges.jsonl")) if r["kind"] != "gate"]
    own: Mapping[str, Any] = {k: about[k] for k in ("score", "ranks", "counts", "metric")}
    edges = tuple(TestedEdge(r["edge"], r["order"], r["effect"], r["kept"]) for r in rows)
    found = Found(mask=np.array(read.mask), scores=np.array(read.scores), edges=edges, **own)
    return Proposed(found, read, float(about["seconds"]))
