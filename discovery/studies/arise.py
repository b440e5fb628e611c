"""How a circuit comes about: the same question asked at every checkpoint of a training.

At each one, on the same held-out prompts: how well the model does the task; how much of it the
final circuit carries; and how much of the circuit that is found there is the final one's. Beside
them the largest role scores of all heads on random repeated tokens, which need no task: induction
heads come about within a short window, in which the task is learnt as well (Olsson et al. 2022,
section "Argument 1"). That two curves rise together is no proof that one makes the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.circuit_files import load as load_circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import Metric
from discovery.heads.describe import on_repeated_tokens
from discovery.heads.roles import LEAST
from discovery.job.faithfulness import task_values
from discovery.job.prepare import Job, prepare
from discovery.job.propose import asked
from discovery.methods import last
from discovery.models.choices import ModelChoice
from discovery.settings.run import AriseSettings, Settings
from discovery.statistics.intervals import Interval, mean_interval, ratio_of_means

ROLES = ("previous token", "induction")
Say = Callable[[str], None]


# ---- checkpoints -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """One state of the training."""

    name: str
    step: int  # the last number of its name, or its place
    model: ModelChoice


def checkpoints(settings: AriseSettings) -> list[Checkpoint]:
    """All of them, looked at before any is run.

    InputError for one without weights or of another shape than the first, for fewer than two, and
    for two of one name.
    """
    if settings.revisions:
        names = list(settings.revisions)
        models = [settings.model.at_revision(name) for name in names]
    else:
        names = _folders(settings.checkpoints)
        models = [settings.model.at(name) for name in names]
        _check_shapes(names)
    if len(names) < 2:
        raise InputError(f"checkpoints={names}: at least two, in the order of the training")
    if twice := sorted(name for name in dict.fromkeys(names) if names.count(name) > 1):
        raise InputError(f"checkpoints: {twice[0]} is named twice")
    return [Checkpoint(*one) for one in zip(names, steps_of(names), models, strict=True)]


def _folders(named: Sequence[str]) -> list[str]:
    """Those named, or those within the one that is named, by number."""
    if len(named) > 1 or (Path(named[0]) / "config.json").is_file() and not _within(named[0]):
        return list(named)
    found = _within(named[0])
    if not found:
        raise InputError(f"checkpoints={named[0]}: holds no folder with a number in its name")
    return found


def _within(folder: str) -> list[str]:
    """Folders with a config.json and a number in their name, by it."""
    there = [p for p in Path(folder).glob("*") if (p / "config.json").is_file()]
    numbered = [p for p in there if re.search(r"\d", p.name)]
    return [str(p) for p in sorted(numbered, key=lambda p: (_number(p.name), p.name))]


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])


def steps_of(names: Sequence[str]) -> list[int]:
    """The last number of each name where these rise; else places, from 0."""
    last = [re.findall(r"\d+", Path(name).name) for name in names]
    if all(last):
        numbers = [int(found[-1]) for found in last]
        if all(a < b for a, b in zip(numbers, numbers[1:], strict=False)):
            return numbers
    return list(range(len(names)))


def _check_shapes(folders: Sequence[str]) -> None:
    first = _shapes(folders[0])
    for folder in folders[1:]:
        own = _shapes(folder)
        if own is None or first is None:  # of .bin files nothing is known before they are loaded
            continue
        if missing := sorted(first.keys() ^ own.keys()):
            raise InputError(
                f"checkpoints: {folder} and {folders[0]} do not hold the same tensors:"
                f" {missing[0]} is in one only"
            )
        for name, shape in first.items():
            if own[name] != shape:
                raise InputError(
                    f"checkpoints: {folder} has {name} of shape {own[name]}, {folders[0]} of"
                    f" {shape}"
                )


def _shapes(folder: str) -> dict[str, list[int]] | None:
    """Of every tensor, from the files' heads; None for weights in .bin. InputError if none."""
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"checkpoints: {folder} has no config.json")
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files and not any(Path(folder).glob("*.bin")):
        raise InputError(f"checkpoints: {folder} has no weights (*.safetensors or *.bin)")
    shapes = dict[str, list[int]]()
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                shapes |= {name: list(file.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"checkpoints: {path} cannot be read: {error}") from None
    return shapes if files else None


# ---- one checkpoint ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Point:
    """One checkpoint's figures, means over the test prompts with their intervals."""

    name: str
    step: int
    scores: Mapping[str, Interval]  # accuracy, top1, logit_diff, as far as the task has them
    heads: Mapping[str, NDArray[np.float64]]  # role -> [layer, head]
    faithfulness: Interval  # of the final circuit: 1 = the model at this checkpoint, 0 = empty
    overlap: float  # of the circuit found here with the final one: shared edges / all edges
    by_chance: float  # of a random circuit of its size
    found: Circuit
    seconds: float

    def largest(self, role: str) -> float:
        """The largest score of a role over all heads."""
        return float(self.heads[role].max())

    def holder(self, role: str) -> str:
        """The head that has it."""
        layer, head = divmod(int(self.heads[role].argmax()), self.heads[role].shape[1])
        return f"a{layer}.h{head}"


def role_scores(loaded: LoadedModel, seed: int) -> dict[str, NDArray[np.float64]]:
    """[layer, head] of each of ROLES on random repeated tokens (discovery/heads/describe.py).

    Mean attention, 0 to 1. InputError where the context is too short for them.
    """
    model = loaded.model
    every = [(layer, h) for layer in range(len(model.blocks)) for h in range(model.n_heads)]
    found = on_repeated_tokens(every, loaded, seed)
    if not all(found.values()):
        raise InputError(f"{model.name}: its context has no room for {LEAST} tokens twice")
    shape = (len(model.blocks), model.n_heads)
    means = {role: [found[head][role].mean() for head in every] for role in ROLES}
    return {role: np.array(values).reshape(shape) for role, values in means.items()}


def point(
    checkpoint: Checkpoint, job: Job, found: Circuit, final: Circuit, seconds: float = 0.0
) -> Point:
    """Measure one checkpoint on the job's test prompts; `found` is the circuit of this one."""
    rng, began = np.random.default_rng(job.settings.seed), time.perf_counter()
    with torch.no_grad():
        test = job.held_out["test"]
        values = task_values(test, lambda forward: forward.clean.logits)
        faithfulness = faithful(test, job.metric, final.mask, rng)
        heads = role_scores(job.loaded, job.settings.seed)
    scores = {name: mean_interval(own, rng) for name, own in values.items()}
    took = seconds + time.perf_counter() - began
    return Point(checkpoint.name, checkpoint.step, scores, heads, faithfulness,
                 found.jaccard(final), chance_overlap(found, final), found, took)  # fmt: skip


def faithful(
    data: Data, metric: Metric, mask: NDArray[np.bool_], rng: np.random.Generator
) -> Interval:
    """(circuit - empty) / (model - empty) of the metric's means, with an interval over prompts.

    Undefined where the model cannot be told from the empty circuit: at the beginning of a training.
    """
    model = data.values(metric, lambda forward: forward.clean.logits)
    circuit, empty = data.circuits(metric, [mask, np.zeros_like(mask)])
    return ratio_of_means(circuit - empty, model - empty, rng)


# ---- all of them -------------------------------------------------------------------------------


def arise(settings: AriseSettings, states: Sequence[Checkpoint], say: Say) -> Iterator[Point]:
    """The points in order. The last checkpoint is asked first: the final circuit is its own."""
    last_job, last_found, seconds = _asked(settings, states[-1])
    if "test" not in last_job.held_out:
        raise InputError("test: the task has too few prompts to hold any out; give it more")
    graph = last_job.data.graph
    final = last_found if settings.circuit is None else load_circuit(settings.circuit, graph)
    if not final.n_edges:
        raise InputError("circuit: the final circuit has no edges; nothing could overlap with it")
    say(last_job.describe())
    say(f"final circuit: {final.n_edges} of {graph.n_edges} edges")
    end = point(states[-1], last_job, last_found, final, seconds)
    prompts = last_job.held_out["test"].prompts.rows()
    del last_job
    for state in tqdm(states[:-1], unit="checkpoint", dynamic_ncols=True):
        job, found, seconds = _asked(settings, state)
        if job.held_out["test"].prompts.rows() != prompts:
            raise InputError(f"checkpoints: {state.name} makes other prompts of the task")
        yield point(state, job, found, final, seconds)
    yield end


def _asked(settings: AriseSettings, state: Checkpoint) -> tuple[Job, Circuit, float]:
    """The checkpoint's job, and the circuit that the run's method finds there."""
    began = time.perf_counter()
    fields = {name: getattr(settings, name) for name in Settings.model_fields}
    job = prepare(Settings(**{**fields, "model": state.model}))
    own = job.settings
    if own.aim is not None and "tune" not in job.held_out:
        raise InputError("tune: the task has too few prompts to reach a target on; give it more")
    aim = None if own.aim is None else (own.aim, job.held_out["tune"])
    found = last(asked(own.method, job.data, job.metric, own.seed, aim))
    circuit = Circuit(job.data.graph, found.mask, found.scores)
    return job, circuit, time.perf_counter() - began


# ---- what is told ------------------------------------------------------------------------------


def curves(points: Sequence[Point]) -> dict[str, list[float | None]]:
    """Every curve by name, a value a point; None where it is undefined."""
    names = points[-1].scores
    return {
        **{name: [p.scores[name].estimate for p in points] for name in names},
        **{role: [p.largest(role) for p in points] for role in ROLES},
        "faithfulness": [p.faithfulness.estimate for p in points],
        "overlap": [p.overlap for p in points],
    }


def halfway(steps: Sequence[int], values: Sequence[float | None]) -> int | None:
    """The first step from which on a curve stays past half of the way from its first to its last.

    None where an end is undefined, or the last is no higher than the first.
    """
    told = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
    if len(told) < 2 or told[-1][1] <= told[0][1]:
        return None
    half = (told[0][1] + told[-1][1]) / 2
    below = [i for i, (_, v) in enumerate(told) if v < half]
    return told[below[-1] + 1][0]


def chance_overlap(circuit: Circuit, final: Circuit) -> float:
    """What a random circuit of the first one's size would share with the final one, about."""
    a, b, n = circuit.n_edges, final.n_edges, final.graph.n_edges
    shared = a * b / n
    return shared / (a + b - shared) if a + b else 1.0


def rows(points: Sequence[Point]) -> list[dict[str, object]]:
    """A row a checkpoint, for the table."""
    return [
        {
            "step": p.step,
            **{name: _rounded(i.estimate) for name, i in p.scores.items() if name != "top1"},
            **{f"{role} (head)": f"{p.largest(role):.2f} ({p.holder(role)})" for role in ROLES},
            "faithfulness": _rounded(p.faithfulness.estimate),
            "overlap": _rounded(p.overlap),
            "edges": p.found.n_edges,
        }
        for p in points
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def as_json(points: Sequence[Point]) -> dict[str, Any]:
    """arise.json: every point with intervals, all heads and the edges found; and the half ways."""
    steps = [p.step for p in points]
    return {
        "points": [
            {
                "name": p.name, "step": p.step,
                "scores": {name: asdict(i) for name, i in p.scores.items()},
                "heads": {role: own.tolist() for role, own in p.heads.items()},
                "faithfulness": asdict(p.faithfulness), "overlap": p.overlap,
                "overlap_by_chance": p.by_chance, "edges": p.found.edges,
                "seconds": round(p.seconds, 2),
            }
            for p in points
        ],
        "halfway": {name: halfway(steps, own) for name, own in curves(points).items()},
    }  # fmt: skip


def says(points: Sequence[Point]) -> list[str]:
    """When each curve is half way up, in that order; what never rises, last."""
    steps = [p.step for p in points]
    names = {"overlap": "overlap with the final circuit",
             "faithfulness": "faithfulness of the final circuit"}  # fmt: skip
    found = {
        names.get(name, name): halfway(steps, own)
        for name, own in curves(points).items()
        if name != "top1"
    }
    risen = sorted(((s, n) for n, s in found.items() if s is not None), key=lambda pair: pair[0])
    flat = [name for name, step in found.items() if step is None]
    told = [f"half way up, and there to stay: {', '.join(f'{n} at step {s}' for s, n in risen)}"]
    return [*(told if risen else []), *([f"no rise: {', '.join(flat)}"] if flat else [])]
