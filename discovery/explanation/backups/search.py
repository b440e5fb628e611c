"""The search: which sets are knocked out, who answers, and what two do for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from discovery.explanation.backups import together
from discovery.explanation.backups.knocked import KnockOuts
from discovery.explanation.backups.takeover import (
    Account,
    Nodes,
    TakeOver,
    account,
    candidates,
    controls_for,
    negative_movers,
    p_rises,
    rises,
    take_overs,
)
from discovery.explanation.figures import adjusted
from discovery.explanation.roles.part import ROLES
from discovery.explanation.section import Section
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Backups
from discovery.statistics.intervals import Interval, mean_interval, ratio_of_means


@dataclass(frozen=True)
class Knocked:
    """One node or class out of the whole model, on the test prompts."""

    name: str
    nodes: Nodes
    is_class: bool
    chosen_by: float  # mean fall of the score on the prompts to choose on: what it is ranked by
    score: Interval
    kept: Interval  # share of the score: 0 at the empty circuit, 1 at the model
    lost: Interval  # the nodes' own direct effect that is gone, logits
    account: Account | None  # of those whose direct effect is for the answer


@dataclass(frozen=True)
class Found:
    """All that was found."""

    knocked: Sequence[Knocked]
    least: float  # logits: smaller changes of direct effects are not spoken of
    least_score: float  # the same of the score, in its unit
    skipped: int  # nodes of the circuit that were not knocked out
    take_overs: Sequence[TakeOver]
    controls: Mapping[str, Sequence[Nodes]]
    negative: Sequence[int]  # heads of the model whose direct effect is against the answer
    pairs: Sequence[together.Pair]
    greedy: Sequence[together.Step]


def find(
    subject: Subject, asked: Backups, classes: Mapping[str, Sequence[str]], choose: KnockOuts,
    test: KnockOuts,
) -> Found:  # fmt: skip
    """Everything that the section says; `classes` are names of heads by class."""
    rng, level = subject.rng("backups"), subject.level
    graph, nodes = subject.graph, subject.strongest(subject.nodes, asked.most)
    classes_out = merged(subject, classes)
    outs = {**classes_out, **{graph.writers[n]: (n,) for n in nodes}}
    for out in tqdm(outs.values(), "knock-outs", unit="set", dynamic_ncols=True):
        for runs in (choose, test):
            runs.of(out)
    least = asked.least * span(choose)
    direct = {name: out for name, out in outs.items() if name in adders(choose, outs, least, level)}
    picked = candidates(choose, direct, least, level)
    taboo = sorted({*subject.nodes, *(head for _, head in picked)})
    controls = {
        name: controls_for(graph, outs[name], taboo, asked.controls, rng)
        for name in dict.fromkeys(name for name, _ in picked)
    }
    every = [graph.head(layer, h) for layer in range(graph.n_layers) for h in range(graph.n_heads)]
    negative = negative_movers(choose, test, every, least, level)
    found = take_overs(test, direct, picked, controls, negative, least, level, rng)
    knocked = [
        _worth(subject, choose, test, name, out, name in classes_out, name in direct, found, rng)
        for name, out in outs.items()
    ]
    away = abs(float((subject.choose.model.score - subject.choose.empty.score).mean()))
    both = _pairs(choose, nodes, outs, picked, asked)
    for pair in tqdm(both, "pairs", unit="pair", dynamic_ncols=True):
        for runs in (choose, test):
            runs.of(pair)
    return Found(
        knocked, least, asked.least * away, len(subject.nodes) - len(nodes), found, controls,
        negative, together.pairs(test, both, level, rng),
        together.greedy(choose, test, both, asked.largest, asked.least * away, level, rng),
    )  # fmt: skip


def _pairs(
    choose: KnockOuts, nodes: Sequence[int], outs: Mapping[str, Nodes],
    picked: Sequence[tuple[str, int]], asked: Backups,
) -> list[tuple[int, int]]:  # fmt: skip
    """Pairs of the strongest nodes, and of single nodes with those who seem to take over."""
    answers = [(outs[name], head) for name, head in picked if len(outs[name]) == 1]
    size = {
        (out[0], head): float(rises(choose.clean, choose.of(out), [head])[0].mean())
        for out, head in answers
    }
    primaries = sorted(size, key=lambda pair: (-size[pair], pair))
    strong = together.strongest(choose, nodes, asked.strongest)
    return together.pairs_to_try(strong, primaries, asked.strongest)


def classes_of(subject: Subject, told: Mapping[str, Section]) -> dict[str, list[str]]:
    """Heads by role: as the section on roles has it, else by their scores anew."""
    if "roles" in told:
        return dict(told["roles"].found["classes"])
    found = {role: subject.having(role) for role in ROLES}
    return {role: heads for role, heads in found.items() if heads}


def merged(subject: Subject, classes: Mapping[str, Sequence[str]]) -> dict[str, Nodes]:
    """Classes of two heads and more; those of the same heads are one, its name made of both."""
    names: dict[Nodes, list[str]] = {}
    for role, heads in classes.items():
        nodes = tuple(sorted(subject.graph.writer_index[h] for h in heads))
        nodes = tuple(n for n in nodes if n in subject.nodes)
        if len(nodes) > 1:
            names.setdefault(nodes, []).append(role)
    return {" and ".join(roles): nodes for nodes, roles in names.items()}


def span(runs: KnockOuts) -> float:
    """How far the model's reading is from the empty circuit's on average, logits, unsigned."""
    empty = runs.of(range(len(runs.graph.writers)))
    return abs(float((runs.clean.reading - empty.reading).mean()))


def adders(choose: KnockOuts, outs: Mapping[str, Nodes], least: float, level: float) -> list[str]:
    """Knock-outs that take away direct effect for the answer, beyond doubt: it may be made up."""
    if not outs:
        return []
    lost = np.array([
        (choose.clean.direct - choose.of(out).direct)[list(out)].sum(0) for out in outs.values()
    ])  # fmt: skip
    keep = (adjusted(p_rises(lost)) <= level) & (lost.mean(-1) >= least)
    return [name for name, kept in zip(outs, keep.tolist(), strict=True) if kept]


def _worth(
    subject: Subject, choose: KnockOuts, test: KnockOuts, name: str, out: Nodes, is_class: bool,
    adds: bool, found: Sequence[TakeOver], rng: np.random.Generator,
) -> Knocked:  # fmt: skip
    level, empty, own = 1 - subject.level, subject.test.empty.score, test.of(out)
    heads = [test.graph.writer_index[t.head] for t in found if t.out == name and t.confirmed]
    return Knocked(
        name, out, is_class, float(choose.loss(out).mean()),
        mean_interval(own.score, rng, level=level),
        ratio_of_means(own.score - empty, test.clean.score - empty, rng, level=level),
        mean_interval((test.clean.direct - own.direct)[list(out)].sum(0), rng, level=level),
        account(test, out, heads, subject.level, rng) if adds else None,
    )  # fmt: skip


def plain(found: Found, graph_writers: Sequence[str]) -> dict[str, Any]:
    """As JSON."""
    return {
        "knocked": [
            {**asdict(k), "nodes": [graph_writers[n] for n in k.nodes]} for k in found.knocked
        ],
        "take_overs": [asdict(t) for t in found.take_overs],
        "controls": {
            name: [[graph_writers[n] for n in nodes] for nodes in sets]
            for name, sets in found.controls.items()
        },
        "negative_movers": [graph_writers[n] for n in found.negative],
        "pairs": [asdict(p) for p in found.pairs],
        "greedy": [asdict(s) for s in found.greedy],
        "least": found.least,
        "not_knocked_out": found.skipped,
    }
