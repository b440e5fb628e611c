"""The greedy search at work: its steps as lines of a record, its checkpoints, its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.metrics import Metric, two_sided
from acdc.regrow import Move, regrow
from acdc.search import Budget, Checkpoint, Decision, Guide, Order, Search
from acdc.search import Step as SearchStep
from acdc.selection import best_edges
from acdc.share import Share
from discovery.methods.found import Found, Resume, Step
from discovery.methods.greedy import ACDC
from discovery.runs.folder import TestedEdge
from discovery.runs.json_files import read_json

Row = Mapping[str, Any]
ATTEMPTS = 6  # searches on the way to a target
LINES = "lines"  # of a checkpoint's tensors: tests so far, as JSON
# Where a circuit falls short on other prompts the next budget is smaller as what it loses there is
# larger than what it may, and by a tenth more; not below this share of it.
CLOSER, TIGHTER = 0.9, 0.4


def find(
    method: ACDC, data: Data, metric: Metric, seed: int, resume: Resume | None = None
) -> Iterator[Step | Found]:
    """The configured search, its guide's scores made first; see acdc.search."""
    method.asked_for()
    guide = _guide(method, data, metric, seed)
    if method.budget is not None:
        rule, metric = Budget(method.budget, method.power), two_sided(metric)
    else:
        assert method.threshold is not None  # it is sized
        rule = method.threshold
    search = _search(method, data, metric, rule, guide, seed)
    rows, skipped, damage = list[Row](), 0, 0.0
    if resume is not None:
        search.restore(Checkpoint(resume.about, resume.tensors))
        rows, skipped, damage = list(resume.edges), *resume.about["skipped"]
    for step in search.steps():
        new = tuple(_edge_row(data.graph, test) for test in step.tests)
        rows += new
        skipped, damage = skipped + step.n_skipped, damage + step.damage
        point = None
        if search.at_rest:
            point = lambda own=(skipped, damage): _checkpoint(search, own)  # noqa: E731
        yield Step(
            new, _metrics_row(data.graph, step), step.n_settled, _says(data.graph, metric, step),
            point,
        )  # fmt: skip
    yield _found(method, metric, search, rows, (skipped, damage))


def _search(
    method: ACDC, data: Data, metric: Metric, rule: float | Budget, guide: Guide, seed: int
) -> Search:
    order = Order(method.reader_order, method.sender_heads, method.gates, seed)
    return Search(data, metric, rule, order, method.chunk, guide, method.effects)


def reach(
    method: ACDC, data: Data, metric: Metric, seed: int, target: float, tune: Data,
    resume: Resume | None = None, start: NDArray[np.bool_] | None = None,
) -> Iterator[Step | Found]:  # fmt: skip
    """Searches within a budget, ever tighter until the target is reached, and the regrowth.

    Edges come back or go as long as the circuit has the target on both sets of prompts. The first
    budget is what it leaves on those of the search; less, where they begin at a circuit that loses
    more on the tuning prompts. Lines of tests are those of the last search. Can be resumed within
    each search. `start` [writers, readers] is where they begin, if not where the method says.
    """
    guide = Guide(start=start) if start is not None else _guide(method, data, metric, seed)
    error, yardstick, own = two_sided(metric), Share(tune, metric), Share(data, metric)
    if resume is None:
        begun = [] if guide.start is None else [guide.start]
        lost = [1 - share.of(mask) for mask in begun for share in (own, yardstick)]
        first, total = 1, (1 - target) * _carried(*lost) * _empty(data, metric)
    else:
        first, total = resume.about["attempt"], resume.about["budget"]
    for attempt in range(first, ATTEMPTS + 1):
        search = _search(method, data, error, Budget(total, method.power), guide, seed)
        rows, skipped, damage = list[Row](), 0, 0.0
        if resume is not None:
            rows, (skipped, damage) = _restore(search, resume), resume.about["skipped"]
            resume = None
        for step in search.steps():
            skipped, damage = skipped + step.n_skipped, damage + step.damage
            rows += [_edge_row(data.graph, test) for test in step.tests]
            row = {**_metrics_row(data.graph, step), "attempt": attempt, "budget": total}
            says = f"search {attempt}, {_says(data.graph, error, step)}"
            point = None
            if search.at_rest:
                now = search, (skipped, damage), attempt, total, list(rows)
                point = lambda now=now: _point(*now)  # noqa: E731
            yield Step((), row, step.n_settled, says, point)
        share = yardstick.of(search.mask)
        yield _ended(search, {"attempt": attempt, "budget": total, "tune_share": share})
        if share >= target or attempt == ATTEMPTS:
            break
        total *= max(TIGHTER, CLOSER * (1 - target) / (1 - share))
    mask, moves = search.mask.copy(), list[Move]()
    for move in regrow(data, error, mask, partial(_enough, [yardstick, own], target)):
        mask, moves = move.mask, [*moves, *([move] if move.kind != "needed" else [])]
        yield _moved(data.graph, move)
    kept = {row["edge"]: row["kept"] for row in rows}
    kept |= {data.graph.edge_name(*e): move.kind == "back" for move in moves for e in move.edges}
    yield Step(tuple({**row, "kept": kept[row["edge"]]} for row in rows), done=data.graph.n_edges)
    found = _found(method, error, search, rows, (skipped, damage))
    more = {
        "budget": total, "n_searches": attempt,
        "n_moves": sum(len(move.edges) for move in moves), "tune_share": yardstick.of(mask),
    }  # fmt: skip
    scores = found.scores.copy()  # of edges that came back, what that was worth
    for move in (m for m in moves if m.kind == "back"):
        scores[move.edges[0]] = -move.effect
    yield replace(
        found, mask=mask, scores=scores, metric=None, counts={**found.counts, **more},
        edges=tuple(replace(e, kept=kept[e.edge]) for e in found.edges),
    )  # fmt: skip


def _enough(shares: Sequence[Share], target: float, mask: NDArray[np.bool_]) -> bool:
    return all(share.of(mask) >= target for share in shares)


def _empty(data: Data, metric: Metric) -> float:
    """The error of the empty circuit."""
    return float(data.errors(metric, [np.zeros_like(data.graph.legal)]).mean())


def _carried(lost: float = 0.0, on_others: float = 0.0) -> float:
    """What to take of a budget so that a circuit keeps to it on other prompts.

    By how much less one loses on the prompts that it was found on: 1 = as much, or more.
    """
    return 1.0 if lost >= on_others else max(TIGHTER, lost / on_others)


def _ended(search: Search, about: Row) -> Step:
    """What a search on the way to a target has come to."""
    n, name = int(search.mask.sum()), f"search {about['attempt']}"
    row = {"reader": name, "kind": "search", "reason": "ended", "n_edges": n, **about}
    says = f"{name} ended with {n} edges, {about['tune_share']:.1%} of the tuning prompts"
    return Step((), row, search.graph.n_edges, says)


def _moved(graph: Graph, move: Move) -> Step:
    """What is said of edges that came back, went, or are needed (no line of metrics.jsonl)."""
    first, n, others = graph.edge_name(*move.edges[0]), int(move.mask.sum()), len(move.edges) - 1
    name = f"{first} and {others} more" if others else first
    row = {"reader": name, "kind": move.kind, "reason": "regrown", "n_edges": n}
    says = f"{name} {move.kind}, {n} kept"
    return Step((), row if move.kind != "needed" else {}, graph.n_edges, says)


def _guide(method: ACDC, data: Data, metric: Metric, seed: int) -> Guide:
    """What steers the search, if anything: a circuit to begin with, an order, a shortlist."""
    graph, sizes = data.graph, {"shortlist": method.shortlist, "best": method.best}
    for field, size in sizes.items():
        if size is not None and size > graph.n_edges:
            raise InputError(f"{field}={size}: the graph has {graph.n_edges} edges")
    start = None if method.start is None else read_mask(method.start, graph)
    scorer = method.guiding()
    if scorer is None:
        return Guide(start=start)
    scores = scorer.scores(data, metric, seed)
    found = {f: None if n is None else best_edges(graph, scores, n) for f, n in sizes.items()}
    return Guide(
        scores if method.weakest_first else None, found["shortlist"],
        start if found["best"] is None else found["best"],
    )  # fmt: skip


def read_mask(path: str, graph: Graph) -> NDArray[np.bool_]:
    """[writers, readers] of a circuit.json, or of the run that is in a folder; InputError else."""
    file = Path(path) / "circuit.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"start={path!r}: there is no such file, or no circuit.json in it")
    found = read_json(file)
    if found is None:
        raise InputError(f"start={path!r}: {file} is no JSON object")
    return Circuit.from_json(found, graph).mask


def _checkpoint(search: Search, skipped: tuple[int, float]) -> tuple[Row, Mapping[str, Any]]:
    point = search.checkpoint()
    return {**point.about, "skipped": list(skipped)}, point.tensors


def _point(
    search: Search, skipped: tuple[int, float], attempt: int, budget: float, rows: list[Row]
) -> tuple[Row, Mapping[str, Any]]:
    """As `_checkpoint`, of a search whose lines are not written yet: they go along."""
    about, tensors = _checkpoint(search, skipped)
    lines = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    about = {**about, "attempt": attempt, "budget": budget}
    return about, {**tensors, LINES: torch.tensor(lines)}


def _restore(search: Search, resume: Resume) -> list[Row]:
    """Take the search to where it was; the lines that it had."""
    tensors = dict(resume.tensors)
    lines = json.loads(tensors.pop(LINES).numpy().tobytes())
    search.restore(Checkpoint(resume.about, tensors))
    return lines


def _found(
    method: ACDC, metric: Metric, search: Search, rows: list[Row], skipped: tuple[int, float]
) -> Found:
    graph, scores = search.graph, np.zeros(search.graph.legal.shape)
    edges = [row for row in rows if row["kind"] == "edge"]
    gates = [row for row in rows if row["kind"] == "gate"]
    for row in edges:
        scores[graph.edge(row["edge"])] = row["effect"]
    counts: dict[str, int | float] = {
        "n_tests": search.n_tests,
        "n_gates": len(gates),
        "n_gates_kept": sum(row["kept"] for row in gates),
        "n_ties": sum(row["tie"] for row in rows),
        "n_passes": search.n_passes,
        "n_read": search.n_read,
    }
    if method.shortlist is not None:
        counts |= dict(zip(("n_skipped", "skipped_damage"), skipped, strict=True))
    return Found(
        mask=search.mask.copy(),
        scores=scores,
        score=f"effect of the edge's removal when it was tested, in {metric.unit} of"
        f" {metric.name}, positive = the removal hurts; 0 = not tested",
        ranks=False,
        counts=counts,
        metric=search.metric,
        edges=tuple(TestedEdge(r["edge"], r["order"], r["effect"], r["kept"]) for r in edges),
    )


def _says(graph: Graph, metric: Metric, step: SearchStep) -> str:
    name = graph.readers[step.visit.reader].name
    counts = f"{step.n_kept} kept, {step.n_tests} tests"
    return f"{name}, {counts}, {metric.name} {step.metric:.4g}"


def _metrics_row(graph: Graph, step: SearchStep) -> Row:
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
        "n_read": step.n_read,
        "n_skipped": step.n_skipped,
        "damage": step.damage,
    }


def _edge_row(graph: Graph, test: Decision) -> Row:
    return {
        "order": test.order,
        "edge": test.name(graph),
        "kind": "gate" if test.writer is None else "edge",
        "effect": test.effect,
        "within": test.within,
        "metric": test.after,
        "kept": test.kept,
        "tie": test.tie,
    }
