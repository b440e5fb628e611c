"""The walk back from the logits by path patching: who moves the answer, who feeds them, and so on.

Which paths are tried, and which heads are followed, is picked by gradient on some prompts
(path_estimates); every figure is a path patched on others, significant after Benjamini and
Hochberg's correction over all paths of the walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from tqdm.auto import tqdm

from acdc.graph import Graph
from discovery.explanation.figures import adjusted
from discovery.explanation.paths.patching import (
    Direction,
    Floats,
    MLPs,
    path_effects,
    path_estimates,
)
from discovery.statistics.intervals import Interval, mean_interval
from discovery.validation.bench import Bench, Mask

ROUNDING = 1e-4  # logits or nats: effects below it are float32's
STEPS = 2  # points of a gradient's path


@dataclass(frozen=True)
class Limits:
    """How far and how wide a walk goes."""

    depth: int  # steps back from the logits
    width: int  # heads followed a step
    edges: int  # paths tried into each head, and into the logits, besides the circuit's own


@dataclass(frozen=True)
class Path:
    """One edge and what patching it alone does."""

    sender: str
    receiver: str
    step: int  # 0: into the logits
    estimate: float  # by gradient, on the prompts that it was picked on
    effect: Interval  # mean change of the score, on others
    p: float  # two-sided t-test over prompts, corrected for all paths of the walk
    significant: bool
    silent: bool  # no effect on any prompt: the same is carried, or nobody uses it
    in_circuit: bool

    @property
    def node(self) -> str:
        """That the receiver belongs to: `a3.h1`, `a3.kv0` where heads share it, `m3`, `logits`."""
        return self.receiver.partition("<")[0]

    @property
    def size(self) -> float:
        """Of the effect, unsigned."""
        return abs(self.effect.estimate or 0.0)


@dataclass(frozen=True)
class Into:
    """All paths into one receiver at once."""

    receiver: str
    step: int
    effect: Interval
    senders: int  # how many there are
    tried: int  # one by one


@dataclass(frozen=True)
class Walk:
    """What was found."""

    steps: tuple[tuple[str, ...], ...]  # nodes whose inputs were patched, from the logits back
    paths: tuple[Path, ...]  # by step, then by receiver, strongest first
    intos: tuple[Into, ...]


def walk(
    choose: Bench, test: Bench, mask: Mask, limits: Limits, rng: np.random.Generator,
    level: float = 0.05, mlps: MLPs = "frozen", direction: Direction = "noising",
) -> Walk:  # fmt: skip
    """Walk back from the logits; `mask` [writers, readers] is the circuit.

    Effects are of the benches' scores and in their unit: see path_effects.
    """
    graph = test.graph
    steps = picked(choose, mask, limits, mlps, direction)
    tried = [(s, r, e) for s, step in enumerate(steps) for r, e in step.items()]
    effects, wholes = list[Floats](), list[Floats]()
    for _, reader, estimates in tqdm(tried, unit="reader", leave=False, dynamic_ncols=True):
        senders = [range(int(graph.senders[reader])), *([w] for w in estimates)]
        whole, *each = path_effects(test, senders, [reader], mlps, direction)
        wholes.append(whole)
        effects += each
    ps = adjusted([p_value(e) for e in effects]).tolist()
    paths, intos, place = list[Path](), list[Into](), 0
    for (step, reader, estimates), whole in zip(tried, wholes, strict=True):
        own = list[Path]()
        for writer, estimate in estimates.items():
            interval = mean_interval(effects[place], rng, level=1 - level)
            own.append(Path(
                graph.writers[writer], graph.readers[reader].name, step, estimate, interval,
                ps[place], ps[place] <= level, bool(np.abs(effects[place]).max() < ROUNDING),
                bool(mask[writer, reader]),
            ))  # fmt: skip
            place += 1
        paths += sorted(own, key=lambda p: (-p.size, p.sender))
        interval = mean_interval(whole, rng, level=1 - level)
        n = int(graph.senders[reader])
        intos.append(Into(graph.readers[reader].name, step, interval, n, len(own)))
    names = [[graph.readers[r].name.partition("<")[0] for r in step] for step in steps]
    nodes = tuple(tuple(dict.fromkeys(step)) for step in names)
    return Walk(nodes, tuple(paths), tuple(intos))


def picked(
    bench: Bench, mask: Mask, limits: Limits, mlps: MLPs, direction: Direction
) -> list[dict[int, dict[int, float]]]:
    """Of each step: receiver -> {sender: estimate} to be tried.

    Into each node the strongest by estimate over its queries, keys and values together, and all
    edges of the circuit; next come the heads that send the strongest of them.
    """
    graph = bench.graph
    nodes, done, steps = [[len(graph.readers) - 1]], set[int](), list[dict[int, dict[int, float]]]()
    walked = set[int]()  # keys and values that heads share are walked with the first of them
    for _ in range(limits.depth):
        readers = list(dict.fromkeys(r for node in nodes for r in node))
        if not readers:
            break
        senders = [[w] for w in range(int(graph.senders[readers].max()))]
        found = path_estimates(bench, senders, readers, mlps, direction, STEPS).mean(-1)
        estimates = dict(zip(readers, found, strict=True))
        tried = {r: dict[int, float]() for r in readers}
        for node in nodes:
            for r, w in _strongest(graph, node, estimates, limits.edges):
                tried[r][w] = float(estimates[r][w])
        for r in readers:
            tried[r] |= {w: float(estimates[r][w]) for w in np.flatnonzero(mask[:, r]).tolist()}
        steps.append(tried)
        walked.update(readers)
        heads = _next_heads(graph, tried, done, limits.width)
        done.update(heads)
        nodes = [[r for r in _readers(graph, w) if r not in walked] for w in heads]
    return steps


def _strongest(
    graph: Graph, node: Sequence[int], estimates: dict[int, Floats], most: int
) -> list[tuple[int, int]]:
    """(reader, writer) of the largest estimates into one node; rounding is none."""
    all_of_it = [(r, w) for r in node for w in range(int(graph.senders[r]))]
    order = sorted(all_of_it, key=lambda e: -abs(estimates[e[0]][e[1]]))
    return [(r, w) for r, w in order[:most] if abs(estimates[r][w]) > ROUNDING]


def _next_heads(
    graph: Graph, tried: dict[int, dict[int, float]], done: set[int], width: int
) -> list[int]:
    """The heads that send the strongest paths and were not followed yet."""
    best = dict[int, float]()
    for estimates in tried.values():
        for w, estimate in estimates.items():
            if graph.is_head(w) and w not in done:
                best[w] = max(best.get(w, 0.0), abs(estimate))
    return sorted(best, key=lambda w: (-best[w], w))[:width]


def _readers(graph: Graph, head: int) -> tuple[int, int, int]:
    return graph.head_readers(*graph.place(head))


def p_value(effects: Floats) -> float:
    """Two-sided t-test that the mean of effects [prompts] is 0; 1 where there is only rounding."""
    if np.abs(effects).max() < ROUNDING:
        return 1.0
    if np.ptp(effects) < ROUNDING:
        return 0.0
    t = effects.mean() / (effects.std(ddof=1) / len(effects) ** 0.5)
    return float(2 * stats.t.sf(abs(t), len(effects) - 1))
