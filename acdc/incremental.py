"""The state of a greedy search, and many trial cuts evaluated in one batch. Exact, not approximate.

Readers are visited from the output back, so above the current one nothing has been cut: every
writer it can read is as at the start (clean, or that of the circuit which the search began with),
and cutting s->r moves r's input by the constant -(start_s - abl_s).
Only r's descendants along kept edges change after that, and only at positions that the answer can
see. So the state holds, for every *live* node (one with a kept edge out of it), its current input
and activations; a trial pushes deltas from the reader up through kept edges in topological order,
for many cumulative variants ("first edge cut", "first two cut", ...) in one batch. Accepting the
first k cuts is reading row k off that batch. The slow twin, one dense run an edge, is in tests/.

With spans a cut changes its reader's input at the tokens of one span, and what a node needs is a
set of spans: those at which anything kept still reads it. Tensors are held by reader of the plain
graph, edges by reader at a span.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import Data, floats
from acdc.forward import PatchedForward, stream_of
from acdc.intervals import Reference, Split
from acdc.masked import Record, masked_run
from acdc.metrics import Metric
from acdc.readout import UNKNOWN, Interval, Reading, Readout, Worth
from acdc.writers import Writers


@dataclass(frozen=True)
class Cut:
    """One trial removal: these writers' edges into one reader (at one span), all at once."""

    reader: int
    writers: tuple[int, ...]
    gate: bool = False  # all of the reader's edges at once


@dataclass
class Trial:
    """A batch of variants: number k has the first k+1 cuts applied. Axis 0 is the variant.

    If `single`, number k has cut k alone, and none of them can be committed. Where a reader is cut
    in only some variants its rows are shared: `rows[reader]` tells which row of `x` and `act` a
    variant has (row 0 is the state before).
    """

    cuts: Sequence[Cut]
    single: bool = False
    rows: dict[int, list[int]] = field(default_factory=dict)
    x: dict[int, Tensor] = field(default_factory=dict)  # of the readers that are cut
    act: dict[int, Tensor] = field(default_factory=dict)  # q, k or v
    pattern: dict[int, Tensor] = field(default_factory=dict)  # by head
    raw: dict[int, Tensor] = field(default_factory=dict)  # z before a norm after the heads, if any
    out: dict[int, Tensor] = field(default_factory=dict)  # z as it is written, output by MLP
    delta: dict[int, Tensor] = field(default_factory=dict)  # change of a writer's output
    incoming: dict[int, list[int]] = field(
        default_factory=dict
    )  # reader -> changed writers it reads
    final: Tensor | None = None  # input of the logits reader, [variant, batch, d_model]

    def row(self, reader: int, variant: int) -> int:
        """Row of a reader's tensors that a variant has."""
        return self.rows[reader][variant] if reader in self.rows else variant


class Start:
    """The run that a search begins with, of one part: the model's own, or that of a circuit.

    Below the current reader it stays as it is: what writers put out, and what readers see.
    """

    def __init__(self, forward: PatchedForward, mask: NDArray[np.bool_]) -> None:
        self.forward, graph = forward, forward.graph
        self.whole = bool((mask == graph.legal).all())
        self.writers, self.inputs = forward.clean.writers, dict[int, Tensor]()
        if not self.whole:
            readers = graph.plain.readers
            live = [not r.nodes or bool(mask[list(r.shapes)].any()) for r in readers]
            record = Record(frozenset(np.flatnonzero(live).tolist()))
            masked_run(forward, mask, record)
            own = self.writers
            self.writers = Writers(graph, own.W_O, torch.stack(record.z), torch.stack(record.rest))
            self.inputs = record.inputs

    def seen_by(self, reader: int) -> Float[Tensor, "batch pos d_model"]:
        """What a reader (of the plain graph) of a node with an edge out of it sees."""
        if not self.whole:
            return self.inputs[reader]
        info = self.forward.graph.plain.readers[reader]
        return self.forward.clean.streams[stream_of(self.forward.graph, info.layer, info.part)]


class State:
    """What the part of the graph above the current reader needs, for one circuit and one part."""

    def __init__(self, forward: PatchedForward, mask: NDArray[np.bool_]) -> None:
        self.forward, self.model = forward, forward.model
        self.edges, self.graph = forward.graph, forward.graph.plain
        self.several = len(self.edges.spans) > 1
        self.start = Start(forward, mask)
        self.mask = mask.copy()  # edges of readers not yet visited are those of the start
        self.span: dict[int, int] = {}  # reader -> how many last positions of it matter
        self.x: dict[int, Tensor] = {}
        self.act: dict[int, Tensor] = {}
        self.pattern: dict[int, Tensor] = {}
        self.raw: dict[int, Tensor] = {}
        self.out: dict[int, Tensor] = {}
        # live reader at a span -> writers it still reads; and the live ones of each plain reader
        self.kept: dict[int, list[int]] = {}
        self.opened: dict[int, list[int]] = {}
        self.places = dict[tuple[tuple[int, ...], int], Tensor]()  # see _at
        self.first = dict[tuple[int, int], int]()  # see _width
        # (writers, span) -> what cutting all of them takes away, as far as this stage asked
        self.sums: dict[tuple[tuple[int, ...], int], Tensor] = {}
        # layer -> live heads (their writer indices)
        self.live: dict[int, list[int]] = {layer: [] for layer in range(self.graph.n_layers)}
        self.enter(self.graph.n_layers, "logits")

    @property
    def final(self) -> Float[Tensor, "1 batch d_model"]:
        """What the final norm sees in the circuit so far, as of one variant."""
        return self.x[self._logits][None, :, 0]

    @property
    def _logits(self) -> int:
        return len(self.graph.readers) - 1

    # ---- arriving at a layer -----------------------------------------------------------------

    def enter(self, layer: int, part: str) -> None:
        """Arrive at `logits`, an MLP ("mlp") or all heads of a layer ("attn"), all as at the start.

        Readers of nodes without a kept edge out are dead: their edges are dropped here.
        """
        graph = self.graph
        self.sums.clear()
        if part == "logits":
            self._open(self._logits, 1, [0])
        elif part == "mlp":
            writer, reader = graph.mlp(layer), graph.reader(layer, "mlp")
            width, spans = self._demand(writer)
            if spans:
                self._open(reader, width, spans)
                self.out[writer] = self.start.writers.take([writer], width)[0]
            self._drop_dead(range(reader, reader + 1))
        else:
            self._enter_heads(layer)

    def _enter_heads(self, layer: int) -> None:
        graph, n, sees = self.graph, self.forward.n_pos, self.edges.spans.sees
        demand = {h: self._demand(graph.head(layer, h)) for h in range(graph.n_heads)}
        if graph.joint:
            spans = sorted({s for _, own in demand.values() for s in own})
            demand = dict.fromkeys(demand, (max(width for width, _ in demand.values()), spans))
        self.live[layer] = [graph.head(layer, h) for h, (_, spans) in demand.items() if spans]
        wanted: dict[int, tuple[int, list[int]]] = {}
        for head, (width, spans) in demand.items():
            if spans:
                q, k, v = graph.head_readers(layer, head)
                seen = [s for s in range(len(sees)) if any(sees[at][s] for at in spans)]
                _, others = wanted.get(k, (n, []))
                both = n, sorted({*seen, *others})
                wanted |= {q: (width, spans), k: both, v: both}
        readers = range(graph.reader(layer, "q"), graph.reader(layer, "v", graph.n_kv_readers))
        for reader in readers:
            if reader in wanted:
                self._open(reader, *wanted[reader])
                self.act[reader] = self._project(reader, self.x[reader])
        self._drop_dead(readers)
        z = dict[int, Tensor]()
        for writer in self.live[layer]:
            q, k, v = self._readers(layer, writer)
            head = writer - graph.head(layer, 0)
            self.pattern[writer] = self.model.pattern(layer, head, self.act[q], self.act[k])
            z[writer] = self.pattern[writer] @ self.act[v]
        self.raw |= z if graph.joint else {}
        self.out |= self._shared_out(layer, z)

    def _shared_out(self, layer: int, raw: dict[int, Tensor]) -> dict[int, Tensor]:
        """z as it is written, of heads whose z is new; where a norm follows them, of all heads."""
        if not self.graph.joint or not raw:
            return raw
        every = [raw.get(writer, self.raw[writer]) for writer in self.live[layer]]
        z = self.model.shared_out(layer, torch.stack(torch.broadcast_tensors(*every)))
        return dict(zip(self.live[layer], z, strict=True))

    def _open(self, reader: int, width: int, spans: Sequence[int]) -> None:
        """A reader of the plain graph becomes live: its last positions, at some spans."""
        self.span[reader], self.x[reader] = width, self.start.seen_by(reader)[:, -width:]
        self.opened[reader] = [int(self.edges.columns[s, reader]) for s in spans]
        for column in self.opened[reader]:
            self.kept[column] = np.flatnonzero(self.mask[:, column]).tolist()

    def _drop_dead(self, readers: Sequence[int]) -> None:
        """Cut the edges of all that is not live of some readers of the plain graph."""
        for column in self.edges.columns[:, list(readers)].flat:
            if int(column) not in self.kept:
                self.mask[:, column] = False

    def _demand(self, writer: int) -> tuple[int, list[int]]:
        """How many last positions of a writer anything kept still reads, and spans of them."""
        columns = [c for c in np.flatnonzero(self.mask[writer]).tolist() if c in self.kept]
        at = {c: self.edges.read_at(c) for c in columns}
        widths = [self._width(s, self.span[self.edges.plain_reader(c)]) for c in at for s in at[c]]
        return max(widths, default=0), sorted({s for spans in at.values() for s in spans})

    def _width(self, span: int, width: int) -> int:
        """Of the last positions, how many there are from the first of a span on; at least 1."""
        if not self.several:
            return width
        if (span, width) not in self.first:
            at = (self.forward.layout.of[:, -width:] == span).any(0).nonzero()
            self.first[span, width] = width - int(at[0]) if len(at) else 1
        return self.first[span, width]

    def _at(self, spans: tuple[int, ...], width: int) -> Tensor:
        """[batch, width, 1]: 1 at the tokens of some spans, of the last positions."""
        if (spans, width) not in self.places:
            of = self.forward.layout.of[:, -width:]
            here = torch.isin(of, torch.tensor(spans, device=of.device))
            self.places[spans, width] = here[..., None].to(self.model.dtype)
        return self.places[spans, width]

    def _readers(self, layer: int, writer: int) -> tuple[int, int, int]:
        return self.graph.head_readers(layer, writer - self.graph.head(layer, 0))

    def _project(self, reader: int, x: Tensor) -> Tensor:
        info = self.graph.readers[reader]
        slot = info.group
        if info.part != "q" and self.graph.kv == "per_query_head":
            slot = self.model.kv_head(info.group)
        return self.model.project(info.layer, info.part, slot, x, self.forward.n_pos)  # type: ignore[arg-type]

    def bytes_per_variant(self) -> int:
        """Upper estimate of what one variant of a trial holds in memory.

        Of every live reader its input or activations, of an MLP its change beside its output, and
        what one MLP makes on its way: five times its neurons were seen.
        """
        d_model = self.model.d_model
        widths = [d_model, *(4 * act.shape[-1] for act in self.act.values())]
        numbers, working = sum(self.span.values()) * max(widths), 0
        for reader, span in self.span.items():
            info = self.graph.readers[reader]
            mlp = None if info.part != "mlp" else self.model.blocks[info.layer].mlp
            if mlp is not None:
                numbers += span * d_model
                working = max(working, span * (5 * mlp.d_mlp + 4 * d_model))
        rows = (numbers + working) * len(self.forward.prompts)
        return rows * self.model.W_E.element_size()

    # ---- trying cuts -----------------------------------------------------------------------------

    def trial(self, cuts: Sequence[Cut], single: bool = False) -> Trial:
        """Evaluate cumulative (or `single`) cuts within `logits`, one MLP, or a layer's heads."""
        trial = Trial(cuts, single)
        first = self.edges.plain_reader(cuts[0].reader)
        info = self.graph.readers[first]
        self._cut_inputs(trial)
        if info.part == "logits":
            trial.final = trial.x[first][1:, :, 0]
            return trial
        if info.part == "mlp":
            writer = self.graph.mlp(info.layer)
            x = trial.x[first][1:]
            trial.out[writer] = self.model.mlp_out(info.layer, x)
            trial.delta[writer] = trial.out[writer] - self.out[writer]
        else:
            self._heads(trial, info.layer)
            if not self.graph.parallel:
                self._push_mlp(trial, info.layer)
        for layer in range(info.layer + 1, self.graph.n_layers):
            self._push_heads(trial, layer)
            self._push_mlp(trial, layer)
        change = self._incoming(trial, self._logits)
        current = self.x[self._logits][:, 0]
        if change is None:
            trial.final = current.expand(len(cuts), *current.shape)
        else:
            trial.final = current + change[:, :, 0]
        return trial

    def _cut_inputs(self, trial: Trial) -> None:
        """Inputs (and q, k, v) of the cut readers: one row for each number of own cuts."""
        readers = [self.edges.plain_reader(cut.reader) for cut in trial.cuts]
        for reader in dict.fromkeys(readers):
            own = [one == reader for one in readers]
            trial.rows[reader] = (np.cumsum(own) * (own if trial.single else 1)).tolist()
            lost = self._lost(reader, [c for c, its in zip(trial.cuts, own, strict=True) if its])
            x = trial.x[reader] = lost.new_empty(len(lost) + 1, *lost.shape[1:])
            x[0] = self.x[reader]
            rows = x.unbind()
            for row, off in enumerate(lost.unbind()):
                torch.sub(rows[0 if trial.single else row], off, out=rows[row + 1])
            if reader in self.act:
                new = self._project(reader, x[1:])
                trial.act[reader] = torch.cat([self.act[reader][None], new])

    def _lost(self, reader: int, cuts: Sequence[Cut]) -> Float[Tensor, "cut batch span d_model"]:
        """What each cut takes out of the input of a reader of the plain graph."""
        current, ablated, width = self.start.writers, self.forward.ablated, self.span[reader]
        if cuts[0].gate:
            for cut in cuts:  # gates of a layer share their writers
                if (cut.writers, width) not in self.sums:
                    self.sums[cut.writers, width] = current.total(cut.writers, width, less=ablated)
            lost = torch.stack([self.sums[cut.writers, width] for cut in cuts])
        else:
            lost = current.take([w for cut in cuts for w in cut.writers], width, less=ablated)
        if self.several:
            spans = [tuple(self.edges.read_at(cut.reader)) for cut in cuts]
            lost *= torch.stack([self._at(own, width) for own in spans])
        return lost

    def _push_heads(self, trial: Trial, layer: int) -> None:
        """Recompute the readers that see a changed writer, then their heads."""
        for reader in dict.fromkeys(
            r for writer in self.live[layer] for r in self._readers(layer, writer)
        ):
            change = self._incoming(trial, reader)
            if change is not None:
                trial.act[reader] = self._project(reader, self.x[reader] + change)
        self._heads(trial, layer)

    def _heads(self, trial: Trial, layer: int) -> None:
        """Outputs of the heads of a layer one of whose q, k, v changed, or the norm after them."""
        changed = dict[int, Tensor]()
        for writer in self.live[layer]:
            q, k, v = self._readers(layer, writer)
            if not any(r in trial.act for r in (q, k, v)):
                continue
            pattern, head = self.pattern[writer], writer - self.graph.head(layer, 0)
            if q in trial.act or k in trial.act:
                pattern = self.model.pattern(layer, head, self._act(trial, q), self._act(trial, k))
                trial.pattern[writer] = pattern
            changed[writer] = pattern @ self._act(trial, v)
        trial.raw |= changed if self.graph.joint else {}
        for writer, z in self._shared_out(layer, changed).items():
            weight = self.model.blocks[layer].attn.W_O[writer - self.graph.head(layer, 0)]
            trial.out[writer] = z
            trial.delta[writer] = (z - self.out[writer]) @ weight

    def _act(self, trial: Trial, reader: int) -> Tensor:
        """q, k or v of every variant; the current one (no variant axis) if it did not change."""
        if reader not in trial.act:
            return self.act[reader]
        if reader not in trial.rows:
            return trial.act[reader]
        return trial.act[reader][trial.rows[reader]]

    def _push_mlp(self, trial: Trial, layer: int) -> None:
        if not self.graph.has_mlp:
            return
        writer, reader = self.graph.mlp(layer), self.graph.reader(layer, "mlp")
        if writer not in self.out:
            return
        change = self._incoming(trial, reader)
        if change is not None:
            trial.out[writer] = self.model.mlp_out(layer, self.x[reader] + change)
            trial.delta[writer] = trial.out[writer] - self.out[writer]

    def _incoming(self, trial: Trial, reader: int) -> Tensor | None:
        """Change of a plain reader's input: the sum of its changed writers' deltas."""
        kept = [self.kept[column] for column in self.opened[reader]]
        every = kept[0] if len(kept) == 1 else sorted({w for own in kept for w in own})
        writers = [w for w in every if w in trial.delta]
        if not writers:
            return None
        trial.incoming[reader] = writers
        return self._sum(trial, reader, slice(None))

    def _sum(self, trial: Trial, reader: int, variants: slice) -> Tensor:
        changed = trial.incoming[reader]
        parts = (self._arriving(reader, w, trial.delta[w][variants]) for w in changed)
        return sum(parts, next(parts))

    def _arriving(self, reader: int, writer: int, delta: Tensor) -> Tensor:
        """A writer's change at a reader's last positions, 0 at the spans where the edge is cut."""
        width, opened = self.span[reader], self.opened[reader]
        delta = delta[:, :, -width:]
        if not self.several:
            return delta
        missing = width - delta.shape[2]
        if not self.mask[writer, opened].all():
            spans = [s for c in opened if self.mask[writer, c] for s in self.edges.read_at(c)]
            delta = delta * self._at(tuple(spans), delta.shape[2])
        return torch.nn.functional.pad(delta, (0, 0, missing, 0)) if missing else delta

    # ---- accepting -------------------------------------------------------------------------------

    def commit(self, trial: Trial, variant: int) -> None:
        """Move to a variant of a trial: its cuts become part of the circuit."""
        for reader in trial.x:
            self.x[reader] = trial.x[reader][trial.row(reader, variant)].clone()
        for reader in trial.incoming:
            self.x[reader] = (
                self.x[reader] + self._sum(trial, reader, slice(variant, variant + 1))[0]
            )
        for reader, act in trial.act.items():
            self.act[reader] = act[trial.row(reader, variant)].clone()
        stores = ((self.pattern, trial.pattern), (self.raw, trial.raw), (self.out, trial.out))
        for store, new in stores:
            for writer, tensor in new.items():
                store[writer] = tensor[variant].clone()
        for cut in trial.cuts[: variant + 1]:
            self.mask[list(cut.writers), cut.reader] = False
            self.kept[cut.reader] = np.flatnonzero(self.mask[:, cut.reader]).tolist()

    # ---- coming back -----------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """What `restore` needs besides the mask: all that the start does not give again."""
        moved = {r: x for r, x in self.x.items() if not _shared(x, self.start.seen_by(r))}
        stores = {
            "x": moved,
            "act": self.act,
            "pattern": self.pattern,
            "raw": self.raw,
            "out": self.out,
        }
        found = {f"{name}.{i}": t for name, store in stores.items() for i, t in store.items()}
        spans = torch.tensor(list(self.span.items()))  # in the order of opening
        return {**found, "span": spans, "kept": torch.tensor(list(self.kept))}

    def restore(self, mask: NDArray[np.bool_], tensors: Mapping[str, Tensor]) -> None:
        """Be the state that `tensors` was taken of."""
        columns = tensors["kept"].tolist()
        for reader, span in tensors["span"].tolist():
            self._open(reader, span, [])
            self.opened[reader] = [c for c in columns if self.edges.plain_reader(c) == reader]
        self.mask = mask.copy()
        for name, tensor in tensors.items():
            store, _, index = name.partition(".")
            if index:
                getattr(self, store)[int(index)] = tensor.to(self.model.device)
        self.kept = {c: np.flatnonzero(mask[:, c]).tolist() for c in columns}
        for writer in sorted(self.pattern):
            self.live[self.graph.place(writer)[0]].append(writer)


def _shared(x: Tensor, other: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class States:
    """The states of all parts, moved together: a decision is made from the mean of all prompts."""

    def __init__(
        self, data: Data, metric: Metric, mask: NDArray[np.bool_] | None = None,
        bounds: bool = False,
    ) -> None:  # fmt: skip
        """`mask` [writers, readers] is the circuit to begin with; None: all edges.

        With `bounds` values are known as intervals before they are read, where the metric allows
        and reading is not cheaper.
        """
        self.graph, self.metric, self.n = data.graph, metric, len(data)
        self.dtype = data.model.dtype
        start = self.graph.legal if mask is None else mask
        self.parts = [State(forward, start) for forward in data]
        self.readout = Readout(data.model, [forward.bound(metric) for forward in data])
        self.near: Reference | None = None  # what intervals begin with
        self.worth = Worth()  # of intervals
        self.block = 0  # how many variants were read at the last time
        if bounds and self.readout.bounded and not self.readout.at_once:
            value, (own,) = self.readout.with_logits(self._finals)
            likely = [own.q.amax(0), *(_likeliest(f) for f in data)]
            split = Split.of(data.model, torch.stack(likely).amax(0))
            self.near = Reference.of(split, own, self.readout.log_p)
        else:
            value = self.readout(self._finals)
        mean = value.item() / self.n
        self.ends: Interval = mean, mean  # least and most of the value of the circuit so far

    @property
    def value(self) -> float:
        """Metric of the circuit so far, exact."""
        if self.ends[0] != self.ends[1]:
            mean = self.readout(self._finals).item() / self.n
            self.ends = mean, mean
        return self.ends[0]

    @property
    def _finals(self) -> list[Float[Tensor, "1 _ d_model"]]:
        return [part.final for part in self.parts]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[writers, readers]: the circuit so far; every part's is the same."""
        return self.parts[0].mask

    @property
    def kept(self) -> dict[int, list[int]]:
        """Live reader -> writers that it still reads."""
        return self.parts[0].kept

    def enter(self, layer: int, part: str) -> None:
        """See State.enter."""
        for state in self.parts:
            state.enter(layer, part)

    def bytes_per_variant(self) -> int:
        """See State.bytes_per_variant."""
        return sum(state.bytes_per_variant() for state in self.parts)

    def trial(self, cuts: Sequence[Cut], single: bool = False) -> list[Trial]:
        """See State.trial; one a part."""
        return [state.trial(cuts, single) for state in self.parts]

    def read(self, trials: Sequence[Trial]) -> Reading:
        """The metric of each variant of a trial, as far as it is asked for."""
        changed = [trial.final for trial in trials if trial.final is not None]
        finals = [torch.cat(pair) for pair in zip(self._finals, changed, strict=True)]
        near = None if self.worth.rest else self.near
        return Reading(self.readout, finals, self.n, self.ends, near, self.block)

    def values(self, trials: Sequence[Trial]) -> Iterator[float]:
        """Metric of each variant in turn, computed a few at a time, so stopping early saves."""
        reading = self.read(trials)
        yield from (reading.exact(k) for k in range(len(trials[0].cuts)))

    def each(self, trials: Sequence[Trial] | None = None) -> list[NDArray[np.float64]]:
        """[variant, prompts] of each part: the metric; without trials of the circuit so far."""
        finals = self._finals
        if trials is not None:
            finals = [trial.final for trial in trials if trial.final is not None]
        return [floats(own) for own in self.readout.each(finals)]

    def learn(self, reading: Reading, tests: int, failed: bool) -> None:
        """Go on from where a reading of so many tests ended; if one failed, with few at a time."""
        self.block = 0 if failed else reading.block
        if self.near is not None:
            self.near = reading.reference or self.near
            self.worth.learn(tests, reading.n_read)

    def commit(self, trials: Sequence[Trial], variant: int, ends: Interval = UNKNOWN) -> None:
        """See State.commit; `ends` are the least and most of the variant's value."""
        if trials[0].single:
            raise ValueError("a trial of single cuts has no circuit so far to move to")
        for state, trial in zip(self.parts, trials, strict=True):
            state.commit(trial, variant)
        self.ends = ends

    def tensors(self) -> dict[str, Tensor]:
        """See State.tensors; named by part."""
        found = {} if self.near is None else self.near.tensors()
        own = {"near": found, **{str(i): s.tensors() for i, s in enumerate(self.parts)}}
        return {f"{part}/{name}": t for part, all_of in own.items() for name, t in all_of.items()}

    def restore(
        self, mask: NDArray[np.bool_], ends: Interval, tensors: Mapping[str, Tensor]
    ) -> None:
        """See State.restore."""

        def of(part: int | str) -> dict[str, Tensor]:
            prefix = f"{part}/"
            return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}

        for i, state in enumerate(self.parts):
            state.restore(mask, of(i))
        if self.near is not None:
            model = self.near.split.model
            own = {name: t.to(model.device) for name, t in of("near").items()}
            self.near = Reference.from_tensors(model, **own)
        self.ends = ends


def _likeliest(forward: PatchedForward) -> Float[Tensor, " vocab_out"]:
    """How likely each token is on the prompt where it is most, in the clean or corrupt run."""
    runs = forward.clean.logits, forward.corrupt.logits
    return torch.stack([logits.softmax(-1).amax(0) for logits in runs]).amax(0)
