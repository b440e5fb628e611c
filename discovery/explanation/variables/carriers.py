"""The search for the place that carries a variable, and all variables interchanged at once.

Every place is tried whole; a subspace of the best is learnt on one half of the prompts and measured
on the other, beside random subspaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from acdc.live import plan
from discovery.explanation.subject import Subject
from discovery.explanation.variables.alignment import (
    Effort,
    Outcome,
    Site,
    learnt,
    random_basis,
    tried,
)
from discovery.explanation.variables.counterfactual import Pairs, Role, Task, paired, pairs_of
from discovery.explanation.variables.intervene import Runs, place
from discovery.settings.explanation import Variables
from discovery.statistics.intervals import Interval, mean_interval

FLIPS = 10_000  # random signs of a paired test
MANY = 4  # variables that are interchanged together at most


@dataclass(frozen=True, eq=False)
class Half:
    """Runs of the prompts of one bench, and what the task says of them."""

    runs: Runs
    task: Task

    @classmethod
    def of(cls, bench: Any, roles: Mapping[str, Role] | None = None) -> Half:
        """Roles of variables are read off these prompts, unless given."""
        return cls(Runs.of(bench), Task.of(bench.data.prompts, roles))


# ---- looking for places ------------------------------------------------------------------------


def marks_of(task: Task) -> list[str]:
    """Marks of the prompts, those that are the same position in each only once; "end" is one."""
    marks = {**task.prompts.marks, "end": (task.prompts.answer_position,) * len(task.answers)}
    seen = dict[tuple[int, ...], str]()
    for name, at in marks.items():
        seen[at] = name if name == "end" else seen.get(at, name)
    return list(seen.values())


def sites_of(subject: Subject, marks: Sequence[str], streams: int) -> list[Site]:
    """The circuit's nodes and the stream before some of the layers, whole, at each mark.

    A node that the circuit reads at the answer position alone is a site there alone (see
    acdc.live.plan). Layers are spread evenly; the stream before layer 0 is the token itself, and no
    finding.
    """
    graph = subject.graph
    spans = plan(graph, subject.circuit.mask, subject.choose.data.n_pos).writers
    layers = np.linspace(1, graph.n_layers, min(streams, graph.n_layers)).round().astype(int)
    nodes = [
        Site(place(graph, graph.writers[w]), mark)
        for w in subject.nodes
        for mark in marks
        if mark == "end" or spans[w] > 1
    ]
    rest = [Site(place(graph, f"stream {x}"), m) for x in layers.tolist() for m in marks]
    return [*nodes, *rest]


def screened(
    half: Half, sites: Sequence[Site], pairs: Pairs, variable: str
) -> list[tuple[Site, Outcome]]:
    """Every site interchanged whole."""
    return [(site, tried(half.runs, {variable: site}, pairs)) for site in sites]


def best_sites(found: Sequence[tuple[Site, Outcome]], nodes: int) -> list[Site]:
    """The nodes of the largest margin, and the stream's best place; of equal ones the first.

    Not of the largest share: a value that merely spoils the base's answer turns its lead too.
    """
    ordered = sorted(found, key=lambda one: -float(one[1].margin.mean()))
    of = {
        kind: [site for site, _ in ordered if (site.place.kind == "stream") == kind]
        for kind in (False, True)
    }
    return [*of[False][:nodes], *of[True][:1]]


# ---- one variable ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Aligned:
    """A variable, a site whose subspace was learnt, and what that is worth on `test`."""

    variable: str
    site: Site
    chosen: float  # accuracy on `choose`
    outcome: Outcome
    whole: Outcome
    random: list[Outcome]

    @property
    def k(self) -> int:
        """Dimensions."""
        assert self.site.basis is not None
        return self.site.basis.shape[1]

    @property
    def beyond(self) -> np.ndarray:
        """[pair]: right, less how often random subspaces are."""
        return self.outcome.right - np.mean([r.right for r in self.random], axis=0)


def aligned(
    choose: Half, test: Half, variable: str, site: Site, k: int, pairs: tuple[Pairs, Pairs],
    asked: Variables, rng: np.random.Generator,
) -> Aligned:  # fmt: skip
    """Learn on the first of the pairs, measure on the second."""
    effort = Effort(asked.steps, asked.batch, asked.rate)
    found = learnt(choose.runs, site, pairs[0], variable, k, effort, rng)
    width, like = site.place.width(choose.runs.model), choose.runs.model.W_E
    random = [site.within(random_basis(width, k, rng, like)) for _ in range(asked.draws)]

    def on(one: Site) -> Outcome:
        return tried(test.runs, {variable: one}, pairs[1])

    chosen = tried(choose.runs, {variable: found}, pairs[0].take(spread(pairs[0], asked.batch * 4)))
    return Aligned(variable, found, chosen.accuracy, on(found), on(site), [on(r) for r in random])


def spread(pairs: Pairs, most: int) -> np.ndarray:
    """As many of the pairs, spread evenly."""
    n = len(pairs.base)
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def p_value(beyond: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> float:
    """One-sided: right oftener than random subspaces; the signs of prompts' means are drawn."""
    _, prompt = np.unique(base, return_inverse=True)
    means = np.bincount(prompt, beyond) / np.bincount(prompt)
    signs = rng.choice([-1.0, 1.0], (FLIPS, len(means)))
    return float((1 + (signs @ means >= means.sum() - 1e-12).sum()) / (1 + FLIPS))


def interval(values: np.ndarray, base: np.ndarray, rng: Any, level: float) -> Interval:
    """Of the mean over pairs; prompts are drawn."""
    return mean_interval(values, rng, base.tolist(), 1 - level)


# ---- several together --------------------------------------------------------------------------


def together(
    half: Half, sites: Mapping[str, Site], rng: np.random.Generator
) -> tuple[Outcome, Outcome] | None:
    """Random sets of two or more variables, each from a source of its own, interchanged at once.

    One set a prompt. The second outcome has random subspaces in their place; None if no label is
    known.
    """
    names, n = list(sites)[:MANY], len(half.task.answers)
    sets = [c for size in range(2, len(names) + 1) for c in combinations(names, size)]
    which, found = rng.integers(max(1, len(sets)), size=n), list[tuple[Outcome, Outcome]]()
    source = {name: _sources(half.task, name, rng) for name in names}
    random = {
        n: s.within(random_basis(*_shape(s), rng, half.runs.model.W_E)) for n, s in sites.items()
    }
    for i, some in enumerate(sets):
        base = np.flatnonzero((which == i) & np.all([source[v] >= 0 for v in some], axis=0))
        pairs = paired(half.task, base, {v: source[v][base] for v in some})
        if len(pairs.base):
            own, control = ({v: s[v] for v in some} for s in (sites, random))
            found.append((tried(half.runs, own, pairs), tried(half.runs, control, pairs)))
    if not found:
        return None
    first, second = ([one[i] for one in found] for i in (0, 1))
    return _joined(first), _joined(second)


def _sources(task: Task, name: str, rng: np.random.Generator) -> np.ndarray:
    """[prompt]: a source whose label is known, whether it changes anything or not; -1 for none."""
    pairs, out = pairs_of(task, name, rng, 1), np.full(len(task.answers), -1)
    order = rng.permutation(len(pairs.base))
    out[pairs.base[order]] = pairs.sources[name][order]
    return out


def _shape(site: Site) -> tuple[int, int]:
    assert site.basis is not None
    return site.basis.shape[0], site.basis.shape[1]


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(
        np.concatenate([getattr(o, field) for o in outcomes])
        for field in ("right", "lead", "before", "margin", "base")
    ))  # fmt: skip


def one_each(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """At most one pair a prompt that changes the label, and one that does not."""
    order, seen, kept = rng.permutation(len(pairs.base)), dict[tuple[int, bool], int](), list[int]()
    for i in order.tolist():
        seen.setdefault((int(pairs.base[i]), bool(pairs.changes[i])), i)
    kept = sorted(seen.values())
    return pairs.take(np.array(kept))
