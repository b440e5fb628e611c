"""ACDC (Conmy et al. 2023, arXiv 2304.14997): cut every edge whose removal barely matters.

Readers are visited from the logits down (a reader's spans, where there are any, from the last one
on), a reader's senders from the latest on. An edge is cut iff
metric_after - metric_now < threshold, where metric_now is that of the circuit so far and the metric
is signed so that lower is better (KL as it is, logit difference negated). Readers of a node without
a kept edge out go untested. With gates (the original's DIRECT edges) all edges into a head's q, k
or v are first tried at once. The search is the plain greedy one, decision for decision; most tests
pass, so it guesses that they all do, tries cumulative cuts in one batch, and takes the results up
to the first that fails. A Guide, scores of another method, may change the order of the tests and
leave edges out of them; without one this is the exact search. Knows no tasks, files or trackers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, groupby
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.incremental import Cut, States
from acdc.metrics import Metric, two_sided
from acdc.readout import Interval, Reading, Worth

ReaderOrder = Literal["layer", "head"]
SenderHeads = Literal["descending", "ascending", "random"]
TIE = 1e-6  # in the metric's unit
BATCH_COST, CARD_BATCH_COST = 3.0, 50.0  # of a batch beside its variants, in variants, about
FADE = 0.7  # what each batch leaves of the count of tests before it
DOUBT = 0.05  # a test that passed and one that failed, in so far as nothing else is known
Effects = Literal["bounds", "exact"]
Reason = Literal["tested", "disconnected", "gate removed", "skipped"]


@dataclass(frozen=True)
class Order:
    """In which order the search goes. The defaults are the original code's own."""

    reader_order: ReaderOrder = "layer"  # V, K, Q across a layer's heads; "head": V, K, Q a head
    sender_heads: SenderHeads = "descending"
    gates: bool = True
    seed: int = 0  # only for sender_heads="random"


@dataclass(frozen=True)
class Budget:
    """What the error may come to in all: after a share s of the edges, `total` * s ** `power`.

    The final error is at most `total` by construction. A small power allows much early.
    """

    total: float  # in the metric's unit
    power: float = 0.25


@dataclass(frozen=True)
class Guide:
    """What another method tells the search. The result is then not the exact search's."""

    weakest_first: NDArray[np.float64] | None = None  # [writers, readers]: senders by size of these
    shortlist: NDArray[np.bool_] | None = None  # [writers, readers]: all other edges go untested
    start: NDArray[np.bool_] | None = None  # [writers, readers]: the circuit to begin with


@dataclass(frozen=True)
class Visit:
    """One entry of the search's itinerary: a reader's edges off the shortlist, gate, or edges."""

    reader: int
    kind: Literal["skip", "gate", "edges"]


@dataclass(frozen=True)
class Decision:
    """One trial removal."""

    order: int  # place among all tests, from 0
    reader: int
    writer: int | None  # None: the reader's gate
    # metric_after - metric_now, signed so that positive = worse: the middle of where it must lie
    effect: float
    after: float  # metric after the removal, in the metric's own sign; as `effect`
    kept: bool  # effect >= threshold; with a budget, error >= allowance and effect > 0
    tie: bool  # within TIE of that, or a unit of rounding: chance could have decided otherwise
    within: float = 0.0  # how far `effect` may be off at most; 0 where it was computed

    def name(self, graph: Graph) -> str:
        """Name of the edge, or of the reader whose gate it is."""
        if self.writer is None:
            return graph.readers[self.reader].name
        return graph.edge_name(self.writer, self.reader)


@dataclass(frozen=True)
class Step:
    """What became of one visit."""

    visit: Visit
    tests: tuple[Decision, ...]
    reason: Reason
    metric: float  # of the circuit so far, in the metric's own sign; exact after the last visit
    n_edges: int  # edges in the circuit so far, those not visited yet included
    n_kept: int  # edges kept among those that are settled
    n_settled: int  # edges whose fate is decided
    n_tests: int
    n_passes: int  # batched passes so far
    n_read: int  # variants whose metric was computed so far, those past a failed test included
    mask: NDArray[np.bool_]  # [writers, readers] so far
    n_skipped: int = 0  # edges of this visit cut untested, being off the shortlist
    damage: float = 0.0  # what that cost, signed so that positive = worse


def itinerary(graph: Graph, order: Order, shortlist: bool = False) -> list[Visit]:
    """Readers (and gates, and what a shortlist skips) in the order of visit."""
    skip: list[Literal["skip", "gate", "edges"]] = ["skip"] if shortlist else []
    visits: list[Visit] = []

    def visit(readers: list[int], kinds: list[Literal["skip", "gate", "edges"]]) -> None:
        visits.extend(Visit(r, kind) for kind in kinds for r in readers)

    def at_spans(readers: list[int]) -> list[int]:  # the last span first
        return [int(c) for r in readers for c in graph.columns[::-1, r]]

    plain = graph.plain
    visit([graph.reader(graph.n_layers, "logits")], [*skip, "edges"])
    for layer in reversed(range(graph.n_layers)):
        if graph.has_mlp:
            visit(at_spans([plain.reader(layer, "mlp")]), [*skip, "edges"])
        by_head = order.reader_order == "head"
        for readers in _by_head(plain, layer) if by_head else [_by_part(plain, layer)]:
            visit(at_spans(readers), [*skip, "gate", "edges"] if order.gates else [*skip, "edges"])
    return visits


def _by_part(graph: Graph, layer: int) -> list[int]:
    """V of all heads (or groups), then K, then Q, each descending."""
    counts = {"v": graph.n_kv_readers, "k": graph.n_kv_readers, "q": graph.n_heads}
    return [graph.reader(layer, p, i) for p, n in counts.items() for i in reversed(range(n))]


def _by_head(graph: Graph, layer: int) -> list[list[int]]:
    """V, K, Q of each head, last head first; a shared k or v with the first of its heads."""
    seen: dict[int, None] = {}
    batches = []
    for head in reversed(range(graph.n_heads)):
        q, k, v = graph.head_readers(layer, head)
        batches.append([r for r in (v, k, q) if r not in seen])
        seen |= dict.fromkeys((v, k, q))
    return batches


def sender_order(graph: Graph, order: Order) -> list[int]:
    """All writers, latest first: an MLP before the heads of its layer, `input` last."""
    generator = np.random.default_rng(order.seed)
    senders: list[int] = []
    for layer in reversed(range(graph.n_layers)):
        heads = [graph.head(layer, h) for h in range(graph.n_heads)]
        if order.sender_heads == "descending":
            heads.reverse()
        elif order.sender_heads == "random":
            heads = [heads[i] for i in generator.permutation(len(heads))]
        senders += [graph.mlp(layer)] * graph.has_mlp + heads
    return [*senders, 0]


def acdc(
    data: Data,
    metric: Metric,
    threshold: float | Budget,
    order: Order | None = None,
    chunk: int | None = None,
    guide: Guide | None = None,
    effects: Effects = "bounds",
) -> Iterator[Step]:
    """Search; yields one frozen Step a visit, and the mask of the last one is the circuit.

    `threshold` is in the metric's unit; a Budget instead needs a metric that is 0 at the model
    (InputError else; see acdc.metrics.two_sided). `chunk` fixes how many cuts are tried in one
    batch (None: adapts to how often edges are kept, and to memory); it changes the time, not the
    result.
    A `guide` does change the result; what its shortlist skips is cut when its reader is reached.
    With effects="bounds" most tests of a metric of the whole vocabulary are decided by an interval
    that their effect must lie in (acdc/readout.py), and only the rest are computed, those of kept
    edges always; "exact" computes all, and so does a card. The circuit is the same.
    FloatingPointError if the metric becomes NaN or infinite.
    """
    return Search(data, metric, threshold, order, chunk, guide, effects).steps()


def batch_size(failing: float, cost: float) -> int:
    """How many tests to try at once that each fail with this chance, the first failure ending all.

    What decides most for its cost, `cost` variants and its own: one more as long as that is more
    than those before it decide for theirs.
    """
    size, passing = 1, 1 - failing
    while passing**size * (cost + size) > (1 - passing**size) / failing:
        size += 1
    return size


def _stage(graph: Graph, reader: int) -> tuple[int, str]:
    info = graph.readers[reader]
    return info.layer, info.part if info.part in ("mlp", "logits") else "attn"


@dataclass(frozen=True)
class Checkpoint:
    """A search between two groups of visits; one that is restored ends bit for bit the same."""

    about: Mapping[str, Any]  # JSON: counters, values, masks as indices of cut edges
    tensors: Mapping[str, Tensor]  # the parts' states, as far as they have moved


class Search:
    """The greedy search: counters, and the loop of batched trials. See `acdc`."""

    @torch.inference_mode()
    def __init__(
        self,
        data: Data,
        metric: Metric,
        threshold: float | Budget,
        order: Order | None = None,
        chunk: int | None = None,
        guide: Guide | None = None,
        effects: Effects = "bounds",
    ) -> None:
        self.order, self.guide = order or Order(), guide or Guide()
        graph = self.graph = data.graph
        start = graph.legal if self.guide.start is None else self.guide.start & graph.legal
        self.state = States(data, metric, start, bounds=effects == "bounds")
        self.threshold, self.chunk, self.batch_bytes = threshold, chunk, data.batch_bytes
        self.batch_cost = CARD_BATCH_COST if self.state.readout.at_once else BATCH_COST
        self.order_of_senders = sender_order(graph, self.order)
        visits = itinerary(graph, self.order, self.guide.shortlist is not None)
        groups = groupby(visits, lambda v: (_stage(graph, v.reader), v.kind))
        self.groups = [list(group) for _, group in groups]
        self.ends = list(accumulate(map(len, self.groups)))  # visits done after each group
        self.start, self.mask = start, start.copy()  # mask: as of the last step, the state's later
        self.frozen, self.n_frozen = self.mask, -1  # the last step's mask and its edges
        self.allowed = dict[tuple[int, int | None], float]()
        if isinstance(threshold, Budget):
            if not metric.flat_at_clean:
                raise InputError(
                    f"metric={metric.name}: a budget needs one that is 0 at the model, such as kl"
                    f" or {two_sided(metric).name}"
                )
            self.allowed = self._allowances(threshold)
        self.metric, self.sign = self.state.value, metric.sign
        self.passed, self.failed = 4.0, 0.0  # tests of late, each batch fading what was before
        self.n_visits = self.n_tests = self.n_tried = self.n_passes = self.n_read = 0
        self.n_kept = self.n_settled = 0

    @torch.inference_mode()
    def steps(self) -> Iterator[Step]:
        """From where the search is to its end."""
        where = (self.graph.n_layers, "logits")  # the state starts there
        for end, group in zip(self.ends, self.groups, strict=True):
            stage = _stage(self.graph, group[0].reader)
            if end > self.n_visits:
                if stage != where:
                    self.state.enter(*stage)
                visit = {"skip": self.skip, "gate": self.gates, "edges": self.edges}
                yield from visit[group[0].kind](group)
            where = stage

    # ---- coming back -----------------------------------------------------------------------------

    COUNTERS = (
        "metric", "n_visits", "n_tests", "n_tried", "n_passes", "n_read", "n_kept", "n_settled",
    )  # fmt: skip

    @property
    def at_rest(self) -> bool:
        """Whether the last step ended a group of visits, so that a checkpoint can be taken."""
        return self.n_visits in self.ends

    def checkpoint(self) -> Checkpoint:
        """Where the search is; ValueError within a group, where the state is ahead of the steps."""
        if not self.at_rest:
            raise ValueError("a checkpoint is taken between groups of visits")
        cut = [np.flatnonzero(self.graph.legal & ~m).tolist() for m in (self.mask, self.state.mask)]
        about = {name: getattr(self, name) for name in self.COUNTERS}
        about |= {"ends": list(self.state.ends), "block": self.state.block}
        about |= {"last": [self.passed, self.failed], "worth": asdict(self.state.worth)}
        about |= {"cut": cut[0], "cut_ahead": cut[1]}
        return Checkpoint(about, self.state.tensors())

    @torch.inference_mode()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to where an equal search was when the checkpoint was taken."""
        about = checkpoint.about
        for name in self.COUNTERS:
            setattr(self, name, about[name])
        if "last" in about:  # checkpoints of before there were such counts go on as well
            self.passed, self.failed = about["last"]
        self.state.worth = Worth(**about.get("worth", {}))  # likewise
        masks = [self.graph.legal.copy() for _ in range(2)]
        for mask, name in zip(masks, ("cut", "cut_ahead"), strict=True):
            mask.flat[about[name]] = False
        self.mask, self.n_frozen = masks[0], -1
        (low, high), self.state.block = about["ends"], about["block"]
        self.state.restore(masks[1], (low, high), checkpoint.tensors)

    # ---- visits ----------------------------------------------------------------------------------

    def skip(self, visits: list[Visit]) -> Iterator[Step]:
        """Cut what is off the shortlist, without a decision, and measure the damage."""
        assert self.guide.shortlist is not None  # else there are no such visits
        state, shortlist, cuts = self.state, self.guide.shortlist, dict[int, Cut]()
        for reader in (v.reader for v in visits if v.reader in state.kept):
            off = tuple(w for w in state.kept[reader] if not shortlist[w, reader])
            if off:
                cuts[reader] = Cut(reader, off, gate=True)
        damages = self._force(list(cuts.values()))
        for visit in visits:
            if visit.reader not in state.kept:
                yield self._step(visit, (), "disconnected", 0)
            elif visit.reader not in cuts:
                yield self._step(visit, (), "skipped", 0)
            else:
                cut, (damage, self.metric) = cuts[visit.reader], next(damages)
                self.mask[list(cut.writers), visit.reader] = False
                step = self._step(visit, (), "skipped", 0)
                yield replace(step, n_skipped=len(cut.writers), damage=damage)

    def gates(self, visits: list[Visit]) -> Iterator[Step]:
        """Try to cut all edges into each reader at once."""
        state = self.state
        alive = [v.reader for v in visits if state.kept.get(v.reader)]
        results = self._run([Cut(r, tuple(state.kept[r]), gate=True) for r in alive])
        for visit in visits:
            if visit.reader in alive:
                yield self._step(visit, (next(results),), "tested", 0)
            else:
                dead = visit.reader not in state.kept
                yield self._step(visit, (), "disconnected" if dead else "skipped", 0)

    def edges(self, visits: list[Visit]) -> Iterator[Step]:
        """Try each kept edge into each reader."""
        state, graph = self.state, self.state.graph
        cuts = {
            v.reader: [Cut(v.reader, (w,)) for w in self._senders(v.reader)]
            for v in visits
            if v.reader in state.kept
        }
        results = self._run([cut for own in cuts.values() for cut in own])
        for visit in visits:
            reader, size = visit.reader, int(graph.senders[visit.reader])
            if reader not in cuts:
                yield self._step(visit, (), "disconnected", size)
            elif not cuts[reader]:
                yield self._step(visit, (), self._why_empty(reader), size)
            else:
                tests = tuple(next(results) for _ in cuts[reader])
                yield self._step(visit, tests, "tested", size)

    def _senders(self, reader: int) -> list[int]:
        """The reader's kept senders in the order of their tests."""
        return self._ordered(reader, self.state.mask)

    def _ordered(self, reader: int, mask: NDArray[np.bool_]) -> list[int]:
        senders = [w for w in self.order_of_senders if mask[w, reader]]
        scores = self.guide.weakest_first
        return senders if scores is None else sorted(senders, key=lambda w: abs(scores[w, reader]))

    def _allowances(self, budget: Budget) -> dict[tuple[int, int | None], float]:
        """(reader, writer or None for the gate) -> what the error may be after that cut.

        The budget's share for the edges settled by then, of those that the search begins with. A
        gate settles all edges of its reader.
        """
        settled, n_edges = 0, max(1, int(self.start.sum()))
        allowed = dict[tuple[int, int | None], float]()

        def after(edges: int) -> float:
            return budget.total * (edges / n_edges) ** budget.power

        visits = [visit for group in self.groups for visit in group if visit.kind == "edges"]
        for reader in (visit.reader for visit in visits):
            senders = self._ordered(reader, self.start)
            edges = range(settled + 1, settled + len(senders) + 1)
            allowed |= {(reader, w): after(e) for w, e in zip(senders, edges, strict=True)}
            settled += len(senders)
            allowed[reader, None] = after(settled)
        return allowed

    def _why_empty(self, reader: int) -> Reason:
        shortlist = self.guide.shortlist
        tried = self.start if shortlist is None else self.start & shortlist
        return "gate removed" if tried[:, reader].any() else "skipped"

    def _force(self, cuts: list[Cut]) -> Iterator[tuple[float, float]]:
        """Make the cuts, a batch at a time; the damage of each and the metric after it."""
        done = 0
        while done < len(cuts):
            batch, before = cuts[done : done + (self.chunk or self._most())], self.state.value
            trial = self.state.trial(batch)
            values = list(self.state.values(trial))
            self.n_passes += 1
            self.state.commit(trial, len(batch) - 1, (values[-1], values[-1]))
            done += len(batch)
            for cut, after in zip(batch, values, strict=True):
                yield self._effect(cut, before, after), after
                before = after

    def _step(
        self, visit: Visit, tests: tuple[Decision, ...], reason: Reason, settled: int
    ) -> Step:
        self.n_visits += 1
        for test in tests:
            if not test.kept:
                self.mask[slice(None) if test.writer is None else test.writer, test.reader] = False
                self.metric = test.after
        if reason == "disconnected":
            self.mask[:, visit.reader] = False
        self.n_settled += settled
        self.n_kept += int(np.count_nonzero(self.mask[:, visit.reader])) if settled else 0
        self.n_tests += len(tests)
        if self.n_visits == self.ends[-1]:
            self.metric = self.state.value
        n_edges = int(np.count_nonzero(self.mask))
        if n_edges != self.n_frozen:  # edges only go: as many are the same
            self.frozen, self.n_frozen = self.mask.copy(), n_edges
            self.frozen.setflags(write=False)
        return Step(
            visit, tests, reason, self.metric, n_edges, self.n_kept, self.n_settled, self.n_tests,
            self.n_passes, self.n_read, self.frozen,
        )  # fmt: skip

    def _run(self, cuts: Sequence[Cut]) -> Iterator[Decision]:
        """Decide the cuts one after the other, by batches of cumulative variants."""
        done = 0
        while done < len(cuts):
            batch = cuts[done : done + self._size()]
            tests = self._try(batch)
            failed = int(tests[-1].kept)
            self.passed = FADE * self.passed + len(tests) - failed
            self.failed = FADE * self.failed + failed
            done += len(tests)
            yield from tests

    def _size(self) -> int:
        """How many cuts are tried in the next batch."""
        failing = (self.failed + DOUBT) / (self.failed + self.passed + 2 * DOUBT)
        return self.chunk or min(batch_size(failing, self.batch_cost), self._most())

    def _most(self) -> int:
        """How many variants memory has room for; at least 1."""
        return max(1, self.batch_bytes // self.state.bytes_per_variant())

    def _try(self, batch: Sequence[Cut]) -> list[Decision]:
        """Tests up to the first kept edge; what passed before it is committed."""
        trial = self.state.trial(batch)
        reading = self.state.read(trial)
        kept = next((k for k, cut in enumerate(batch) if self._keeps(cut, k, reading)), None)
        accepted = len(batch) if kept is None else kept
        tests = [
            self._decision(cut, reading.between(k - 1), reading.between(k), k == kept)
            for k, cut in enumerate(batch[: accepted + (kept is not None)])
        ]
        if accepted:
            self.state.commit(trial, accepted - 1, reading.between(accepted - 1))
        self.state.learn(reading, len(tests), failed=kept is not None)
        self.n_passes += 1
        self.n_read += reading.n_read
        return tests

    def _keeps(self, cut: Cut, k: int, reading: Reading) -> bool:
        """Whether cut k of a batch fails, all before it being made; for that it is read out."""
        kept = False
        if not self._surely_passes(cut, reading.between(k - 1), reading.between(k)):
            before, after = reading.both(k)
            limit, effect = self._limit(cut), self._effect(cut, before, after)
            kept = effect >= limit
            if isinstance(self.threshold, Budget):
                kept = after >= limit and effect > 0
        if not kept:
            reading.renew(k)
        return kept

    def _surely_passes(self, cut: Cut, before: Interval, after: Interval) -> bool:
        """Whether the cut is made wherever in these intervals the metrics lie; no tie is."""
        limit = self._limit(cut) - self._rounding(before, after)
        worst = _difference(self.sign, before, after)[1]
        if isinstance(self.threshold, Budget):
            return after[1] < limit or worst <= 0
        return worst < limit

    def _limit(self, cut: Cut) -> float:
        """What decides: of the effect, or with a budget of the error after it."""
        if isinstance(self.threshold, Budget):
            return self.allowed[cut.reader, None if cut.gate else cut.writers[0]]
        return self.threshold

    def _rounding(self, before: Interval, after: Interval) -> float:
        """Within which chance could decide otherwise."""
        largest = max(map(abs, (*before, *after)))
        return max(TIE, torch.finfo(self.state.dtype).eps * largest)

    def _effect(self, cut: Cut, before: float, after: float) -> float:
        effect = self.sign * (after - before)
        if not math.isfinite(effect):
            name = self.state.graph.readers[cut.reader].name
            raise FloatingPointError(f"the metric is {after} after a cut into {name}")
        return effect

    def _decision(self, cut: Cut, before: Interval, after: Interval, kept: bool) -> Decision:
        low, high = _difference(self.sign, before, after)
        effect, value = (low + high) / 2, sum(after) / 2
        what = value if isinstance(self.threshold, Budget) else effect
        exact = high == low
        tie = exact and abs(what - self._limit(cut)) < self._rounding(before, after)
        self.n_tried += 1
        writer = None if cut.gate else cut.writers[0]
        return Decision(
            self.n_tried - 1, cut.reader, writer, effect, value, kept, tie, (high - low) / 2
        )


def _difference(sign: int, before: Interval, after: Interval) -> Interval:
    """Least and most of sign * (after - before)."""
    low, high = after[0] - before[1], after[1] - before[0]
    return (low, high) if sign > 0 else (-high, -low)
