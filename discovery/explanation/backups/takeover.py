"""Who takes over when nodes are knocked out, told from chance, and how much of it that explains.

A head takes over (a backup) if its direct effect on the answer rises once the nodes are out, and
does so by what it writes, not by the final norm's scale alone, and by more than after random nodes.
Picked on `choose`, confirmed on `test`; one-sided paired t-tests, Benjamini and Hochberg over all
knock-outs and heads. All effects are in logits (see discovery/explanation/backups/knocked.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from acdc.graph import Graph
from discovery.explanation.backups.knocked import Effects, KnockOuts, heads_after
from discovery.explanation.figures import adjusted
from discovery.statistics.intervals import Interval, mean_interval
from discovery.statistics.result import Floats

Nodes = tuple[int, ...]  # writers, in order


@dataclass(frozen=True)
class TakeOver:
    """One head's answer to one knock-out, on prompts that it was not picked on. Logits."""

    out: str  # what is knocked out
    head: str
    rise: Interval  # of its direct effect
    written: Interval  # that part of it which comes of what the head writes, at the clean scale
    control: Interval | None  # the same after random nodes; None: there were none to draw
    before: Interval
    after: Interval
    looks: Interval | None  # change of its attention from the answer position to right answers
    p_value: float  # the largest of those that make it a backup
    confirmed: bool  # a backup
    eases: bool  # its effect is against the answer before: it takes over by writing less


@dataclass(frozen=True)
class Account:
    """Where the answer's logits go when nodes are out: lost = fall + made_up. Logits."""

    lost: Interval  # direct effect of the nodes themselves, gone
    fall: Interval  # of the reading
    made_up: Interval  # what others add: lost - fall
    found: Interval  # of it by the backups that were found
    scale: Interval  # of it by the final norm's scale alone, of all but the found
    unexplained: Interval  # the rest of it: what others write anew, the next two
    other_heads: Interval
    mlps: Interval


def rises(clean: Effects, out: Effects, heads: Sequence[int]) -> tuple[Floats, Floats]:
    """([heads, prompts], the same): change of direct effects, and of it what is written anew.

    Logits, positive: more for the answer. What is written is read at the clean run's scale, as it
    is after any other knock-out; the rest of the change is the final norm's scale.
    """
    rows = list(heads)
    return out.direct[rows] - clean.direct[rows], out.held[rows] - clean.direct[rows]


def p_rises(values: Floats) -> Floats:
    """[...]: one-sided p-values (t-test) of means over the last axis being above 0.

    1 where the mean is 0, and where there are fewer than two values.
    """
    n = values.shape[-1]
    if n < 2 or not values.size:
        return np.ones(values.shape[:-1])
    error = values.std(-1, ddof=1) / np.sqrt(n)
    with np.errstate(all="ignore"):  # no variance: by the sign
        return np.where(values.mean(-1) == 0, 1.0, t.sf(values.mean(-1) / error, n - 1))


# ---- control -------------------------------------------------------------------------------------


def random_like(
    graph: Graph, nodes: Sequence[int], taboo: Sequence[int], rng: np.random.Generator
) -> Nodes | None:
    """As many other nodes of the same kinds, from the nearest layers in which any are left.

    None of `taboo` or `nodes`. None if too few are left.
    """
    barred = frozenset([0, *taboo, *nodes])
    pool = [w for w in range(len(graph.writers)) if w not in barred]
    drawn = list[int]()
    for node in nodes:
        layer, part = graph.place(node)
        like = [
            (abs(at - layer), w)
            for w in pool
            for at, p in [graph.place(w)]
            if (p == graph.n_heads) == (part == graph.n_heads) and w not in drawn
        ]
        if not like:
            return None
        nearest = min(distance for distance, _ in like)
        drawn.append(int(rng.choice([w for distance, w in like if distance == nearest])))
    return tuple(sorted(drawn))


def controls_for(
    graph: Graph, nodes: Nodes, taboo: Sequence[int], count: int, rng: np.random.Generator
) -> list[Nodes]:
    """Different random sets; fewer than `count` where chance gives no more."""
    drawn = [random_like(graph, nodes, taboo, rng) for _ in range(2 * count)]
    return list(dict.fromkeys(d for d in drawn if d is not None))[:count]


# ---- finding -------------------------------------------------------------------------------------


def candidates(
    choose: KnockOuts, outs: Mapping[str, Nodes], least: float, level: float
) -> list[tuple[str, int]]:
    """(knock-out, head) whose direct effect seems to rise by `least` logits or more."""
    pairs, p, size = list[tuple[str, int]](), [np.zeros(0)], [np.zeros(0)]
    for name, out in outs.items():
        heads = heads_after(choose.graph, out)
        change, written = rises(choose.clean, choose.of(out), heads)
        pairs += [(name, head) for head in heads]
        p.append(np.maximum(p_rises(change), p_rises(written)))
        size.append(change.mean(-1))
    keep = (adjusted(np.concatenate(p)) <= level) & (np.concatenate(size) >= least)
    return [pair for pair, kept in zip(pairs, keep.tolist(), strict=True) if kept]


def take_overs(
    test: KnockOuts, outs: Mapping[str, Nodes], picked: Sequence[tuple[str, int]],
    controls: Mapping[str, Sequence[Nodes]], negative: Sequence[int], least: float, level: float,
    rng: np.random.Generator,
) -> list[TakeOver]:  # fmt: skip
    """Try the picked ones on new prompts, strongest first; unconfirmed ones are among them."""
    p, columns = list[float](), list[tuple[Floats, Floats, Floats | None]]()
    for name, head in picked:
        change, written = (x[0] for x in rises(test.clean, test.of(outs[name]), [head]))
        chance = by_chance(test, controls[name], head)
        above = written if chance is None else written - chance
        p.append(max(float(p_rises(x)) for x in (change, written, above)))
        columns.append((change, written, chance))
    fair, found = adjusted(np.array(p)), list[TakeOver]()
    for (name, head), p_, (change, written, chance) in zip(picked, fair, columns, strict=True):
        at, own = test.graph.place(head), test.of(outs[name])

        def interval(values: Floats) -> Interval:
            return mean_interval(values, rng, level=1 - level)

        found.append(TakeOver(
            name, test.graph.writers[head], interval(change), interval(written),
            None if chance is None else interval(chance),
            interval(test.clean.direct[head]), interval(own.direct[head]),
            interval(own.looks[at] - test.clean.looks[at]) if test.has_looks else None,
            float(p_), bool(p_ <= level and change.mean() >= least), head in negative,
        ))  # fmt: skip
    return sorted(found, key=lambda x: -(x.rise.estimate or 0))


def by_chance(test: KnockOuts, sets: Sequence[Nodes], head: int) -> Floats | None:
    """[prompts]: what a head writes anew after random nodes, mean over sets; None without any."""
    if not sets:
        return None
    each = [rises(test.clean, test.of(nodes), [head])[1][0] for nodes in sets]
    return np.mean(each, axis=0)


def negative_movers(
    choose: KnockOuts, test: KnockOuts, heads: Sequence[int], least: float, level: float
) -> list[int]:
    """Heads whose direct effect is against the answer, by `least` logits and beyond doubt twice."""
    left = list(heads)
    for runs in (choose, test):
        own = -runs.clean.direct[left]
        keep = (adjusted(p_rises(own)) <= level) & (own.mean(-1) >= least)
        left = [head for head, kept in zip(left, keep.tolist(), strict=True) if kept]
    return left


def account(
    runs: KnockOuts, out: Nodes, found: Sequence[int], level: float, rng: np.random.Generator
) -> Account:
    """Where the direct effect goes that is lost with `out`; `found` are its backups (writers)."""
    clean, now, graph = runs.clean, runs.of(out), runs.graph
    kinds = kinds_of(graph, out, found)
    change, anew = now.direct - clean.direct, now.held - clean.direct

    def of(values: Floats) -> Interval:
        return mean_interval(values, rng, level=1 - level)

    made_up = change[kinds != "out"].sum(0)
    by_found = change[kinds == "found"].sum(0)
    scale = (change - anew)[(kinds != "out") & (kinds != "found")].sum(0)
    return Account(
        lost=of(-change[kinds == "out"].sum(0)),
        fall=of(clean.reading - now.reading),
        made_up=of(made_up),
        found=of(by_found),
        scale=of(scale),
        unexplained=of(made_up - by_found - scale),
        other_heads=of(anew[kinds == "head"].sum(0)),
        mlps=of(anew[kinds == "mlp"].sum(0)),
    )


def kinds_of(graph: Graph, out: Nodes, found: Sequence[int]) -> NDArray[Any]:
    """[writers + 1]: out, found, head, mlp or rest (`input` and, last, the biases)."""
    block = ["head"] * graph.n_heads + ["mlp"] * graph.has_mlp
    kinds = np.array(["rest", *(block * graph.n_layers), "rest"], dtype="<U5")
    kinds[list(found)] = "found"
    kinds[list(out)] = "out"
    return kinds
