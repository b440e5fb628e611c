"""Methods on truth sets: what each ranks or finds on every case, and how well that agrees.

A method that gives scores is a ranking by their size (`ranking` of its settings: absolute or
signed). A search by threshold is the circuits that it finds over a grid of thresholds, shares of
what cutting all edges does; it searches by the metric's error, which counts what overshoots too.
Nodes are heads and MLPs: of a ranking a node counts as its best edge does, in or out, of a circuit
if an edge touches it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import two_sided
from discovery.choices import registry
from discovery.methods import Method, Scoring, last
from discovery.methods.given import Given
from discovery.truth.case import Case
from discovery.truth.measures import (
    ROC,
    Items,
    Scores,
    median_over,
    precision_at_size,
    roc_of_circuits,
    roc_of_scores,
)

SHARES = tuple(float(s) for s in np.logspace(-6, 0, 13))  # of the metric's whole range: thresholds
ROUNDING = 1e-12  # of the largest score: smaller ones are nothing but it

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """How well one kind of items agrees with the truth; see discovery/truth/measures.py."""

    auroc: float
    pessimistic: float
    precision: float  # at the true size


@dataclass(frozen=True)
class Judged:
    """One method on one case."""

    set: str
    case: str
    ablation: str
    seed: int
    method: str
    seconds: float
    n_true: int  # edges
    n_edges: int  # of the model
    edges: Agreement | None  # None: the method does not work here
    nodes: Agreement | None  # None: nor does it, or every node is true
    why_not: str = ""


@dataclass(frozen=True)
class Answer:
    """What a method says of a model: a score for every edge, and circuits if it searches."""

    scores: NDArray[np.float64]  # [writers, readers]
    circuits: tuple[Mask, ...] = ()  # [writers, readers] each, of falling threshold


def data_of(case: Case, seed: int) -> Data:
    """The prompts that methods see, cut edges carrying what its truth is of."""
    choice = registry.load("ablation", registry.check("ablation", case.ablation))()
    prompts = choice.pair(case.searched, seed)
    return Data(case.model, case.graph, prompts, choice.make(no_references, seed))


def no_references(path: str | None, n: int | None) -> Any:
    """A truth set has none: InputError."""
    raise InputError("ablations: a truth set has no other prompts to take a mean over")


def answer(method: Method, case: Case, seed: int) -> Answer:
    """What a method says. InputError if it does not work with this ablation or metric, and of one
    that neither scores nor takes a threshold.
    """
    data = data_of(case, seed)
    metric = registry.load("metric", registry.check("metric", case.metric))
    if isinstance(method, Scoring):
        scores = method.scores(data, metric, seed)
        return Answer(np.abs(scores) if method.ranking == "absolute" else scores)
    if isinstance(method, Given):
        mask = last(method.find(data, metric, seed)).mask
        return Answer(mask.astype(float), (mask,))
    if "threshold" not in type(method).model_fields:
        raise InputError(f"methods: {method.name} neither scores edges nor takes a threshold")
    metric = two_sided(metric)  # an edge whose cut overshoots is true as well
    model, empty = data.circuits(metric, [case.graph.legal, np.zeros_like(case.graph.legal)])
    whole = abs(float(model.mean() - empty.mean()))
    own = getattr(method, "threshold", None)
    thresholds = [share * whole for share in SHARES] if own is None else [own]
    circuits = tuple(
        last(method.model_copy(update={"threshold": t}).find(data, metric, seed)).mask
        for t in thresholds
    )
    return Answer(np.sum(circuits, axis=0, dtype=float), circuits)


def agreements(said: Answer, case: Case) -> tuple[Agreement, Agreement | None]:
    """Of edges and of nodes; None where every node is true, as of a model of one head."""
    legal, graph = case.graph.legal, case.graph
    scores = np.where(np.abs(said.scores) > ROUNDING * np.abs(said.scores).max(), said.scores, 0.0)
    edges = _agreement(scores[legal], [m[legal] for m in said.circuits], case.edges[legal])

    def nodes(mask: Mask) -> Items:
        return graph.touched(mask)[1:]  # less `input`, which is in every circuit

    best = np.where(legal, scores, -np.inf)
    of_nodes = best.max(axis=1)
    for reader, into in zip(graph.readers, best.max(axis=0), strict=True):
        own = list(reader.nodes)
        of_nodes[own] = np.maximum(of_nodes[own], into)
    true = nodes(case.edges)
    if true.all():
        return edges, None
    return edges, _agreement(of_nodes[1:], [nodes(m) for m in said.circuits], true)


def _agreement(scores: Scores, circuits: Sequence[Items], true: Items) -> Agreement:
    roc: ROC = roc_of_circuits(circuits, true) if circuits else roc_of_scores(scores, true)
    return Agreement(roc.auroc, roc.pessimistic, precision_at_size(scores, true))


def judged(name: str, case: Case, method: Method, seed: int) -> Judged:
    """One method on one case of a set; a refusal is kept as its reason."""
    start = time.perf_counter()
    edges = nodes = None
    why_not = ""
    try:
        edges, nodes = agreements(answer(method, case, seed), case)
    except InputError as error:
        why_not = str(error)
    return Judged(
        name, case.name, case.ablation, seed, method.label, time.perf_counter() - start,
        int(case.edges.sum()), case.graph.n_edges, edges, nodes, why_not,
    )  # fmt: skip


def every_case(
    sets: Sequence[str], ablations: Sequence[str], seeds: int, circuits: Sequence[str] | None = None
) -> tuple[list[tuple[str, int, Case]], list[str]]:
    """(set, seed, case) of all that is asked for, `circuits` None being every one; and why whole
    sets cannot be had here, such as one whose model is not on this machine.

    InputError if nothing is left.
    """
    some, known, missing = list[tuple[str, int, Case]](), list[str](), list[str]()
    for name in sets:
        make = registry.load("truth", registry.check("truth", name))
        try:
            own = [(name, seed, case) for seed in range(seeds) for case in make(seed)]
        except InputError as error:
            missing.append(str(error))
            continue
        known += [f"{case.name} under {case.ablation}" for _, _, case in own]
        some += [
            one
            for one in own
            if one[2].ablation in ablations and (circuits is None or one[2].name in circuits)
        ]
    if not some and missing:
        raise InputError("; ".join(missing))
    if not some:
        wanted = "" if circuits is None else f"circuits={list(circuits)}, "
        raise InputError(
            f"{wanted}ablations={list(ablations)}: nothing of sets={list(sets)} is such; there are"
            f" {', '.join(dict.fromkeys(known))}"
        )
    return some, missing


# ---- the table -----------------------------------------------------------------------------------


def rows(found: Sequence[Judged], seed: int) -> list[dict[str, Any]]:
    """A row for each set, ablation and method: medians over circuits and draws, with intervals."""
    groups = dict[tuple[str, str, str], list[Judged]]()
    for one in found:
        groups.setdefault((one.set, one.ablation, one.method), []).append(one)
    return [_row(*key, own, seed) for key, own in groups.items()]


COLUMNS = {  # of the table: which items, which measure
    "edge AUROC": ("edges", "auroc"), "pessimistic": ("edges", "pessimistic"),
    "precision": ("edges", "precision"), "node AUROC": ("nodes", "auroc"),
}  # fmt: skip


def _row(name: str, ablation: str, method: str, own: Sequence[Judged], seed: int) -> dict[str, Any]:
    done = [one for one in own if one.edges is not None]
    cells = dict[str, str | None].fromkeys(COLUMNS)
    for i, (column, (kind, measure)) in enumerate(COLUMNS.items()):
        if any(getattr(one, kind) is not None for one in done):
            cells[column] = _told(_by_case(done, kind, measure), np.random.default_rng([seed, i]))
    seconds = float(np.median([one.seconds for one in own]))
    return {
        "set": name, "ablation": ablation, "method": method, "cases": len(done), **cells,
        "seconds": f"{seconds:.2f}",
    }  # fmt: skip


def _by_case(done: Sequence[Judged], kind: str, measure: str) -> Mapping[str, list[float]]:
    out = dict[str, list[float]]()
    for one in done:
        if getattr(one, kind) is not None:
            out.setdefault(one.case, []).append(getattr(getattr(one, kind), measure))
    return out


def _told(values: Mapping[str, Sequence[float]], rng: np.random.Generator) -> str:
    found = median_over(values, rng)
    return f"{found.median:.3f} [{found.low:.3f}, {found.high:.3f}]"


def by_circuit(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each circuit and ablation: each method's median AUROC of edges over the draws."""
    groups = dict[tuple[str, str, str], dict[str, list[float]]]()
    methods = list(dict.fromkeys(one.method for one in found))  # one may not know every circuit
    for one in found:
        own = groups.setdefault((one.set, one.ablation, one.case), {m: [] for m in methods})
        own[one.method].extend([] if one.edges is None else [one.edges.auroc])
    return [
        {"set": name, "ablation": ablation, "circuit": case}
        | {m: f"{np.median(values):.3f}" if values else None for m, values in own.items()}
        for (name, ablation, case), own in groups.items()
    ]


def refused(found: Sequence[Judged]) -> list[str]:
    """A sentence for each method that does not work under an ablation, once."""
    told = {f"{one.method} ({one.ablation}): {one.why_not}" for one in found if one.why_not}
    return sorted(told)


def as_json(
    found: Sequence[Judged], why: Mapping[tuple[str, str, str], str], seed: int
) -> dict[str, Any]:
    """truth.json: both tables, why each truth is true, and every method on every case.

    `why` holds that by set, ablation and circuit.
    """
    names = ("set", "ablation", "circuit")
    return {
        "table": rows(found, seed),
        "circuits": by_circuit(found),
        "why": [{**dict(zip(names, key, strict=True)), "why": says} for key, says in why.items()],
        "cases": [asdict(one) for one in found],
    }
