"""The state of a greedy search, and many trial cuts evaluated in one batch. Exact, not approximate.

Readers are visited from the output back, so above the current one nothing has been cut: every
writer it can read is clean, and cutting s->r moves r's input by the constant -(clean_s - abl_s).
Only r's descendants along kept edges change after that, and only at positions that the answer can
see. So the state holds, for every *live* node (one with a kept edge out of it), its current input
and activations; a trial pushes deltas from the reader up through kept edges in topological order,
for many cumulative variants ("first edge cut", "first two cut", ...) in one batch. Accepting the
first k cuts is reading row k off that batch. The slow twin, one dense run an edge, is in tests/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.forward import PatchedForward, stream_of
from acdc.metrics import Metric
from acdc.model import Model

VOCAB_BLOCK = 4096  # columns of the unembedding at a time: keeps the logits of a batch in cache
READOUT_ROWS = 256  # rows (variants x prompts) read out at a time, so a failed guess wastes little


@dataclass(frozen=True)
class Cut:
    """One trial removal: these writers' edges into one reader, all at once."""

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
    out: dict[int, Tensor] = field(default_factory=dict)  # z by head, output by MLP
    delta: dict[int, Tensor] = field(default_factory=dict)  # change of a writer's output
    incoming: dict[int, list[int]] = field(
        default_factory=dict
    )  # reader -> changed writers it reads
    final: Tensor | None = None  # input of the logits reader, [variant, batch, d_model]

    def row(self, reader: int, variant: int) -> int:
        """Row of a reader's tensors that a variant has."""
        return self.rows[reader][variant] if reader in self.rows else variant


class Readout:
    """A metric from the input of the final norm, paying for the vocabulary only where needed."""

    def __init__(self, model: Model, metric: Metric) -> None:
        self.model, self.metric = model, metric
        self.weights = self.offset = None
        if metric.direction is not None:
            self.weights = metric.direction @ model.W_U.T
            if model.b_U is not None:
                self.offset = metric.direction @ model.b_U

    def __call__(self, x: Float[Tensor, "n batch d_model"]) -> Float[Tensor, " n"]:
        """Metric of n variants, mean over prompts, in float64."""
        y = self.model.ln_final(x)
        linear = y.new_zeros(y.shape[:-1])
        if self.weights is not None:
            linear = (y * self.weights).sum(-1)
            linear = linear if self.offset is None else linear + self.offset
        total, few = linear, y[..., :0]
        if self.metric.needs_vocabulary:
            total, few = self._vocabulary(y)
        return self.metric.combine(linear, total, few).double().mean(-1)

    def _vocabulary(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """logsumexp over the vocabulary and the named tokens' logits."""
        model, tokens = self.model, self.metric.tokens
        maxima, sums = [], []
        for start in range(0, model.W_U.shape[1], VOCAB_BLOCK):
            part = slice(start, start + VOCAB_BLOCK)
            z = y @ model.W_U[:, part]
            if model.b_U is not None:
                z += model.b_U[part]
            maxima.append(z.amax(-1))
            sums.append(z.sub_(maxima[-1][..., None]).exp_().sum(-1))
        peak, mass = torch.stack(maxima, -1), torch.stack(sums, -1)
        top = peak.amax(-1)
        total = top + (mass * (peak - top[..., None]).exp()).sum(-1).log()
        if tokens is None:
            return total, y[..., :0]
        few = torch.einsum("nbd,dbc->nbc", y, model.W_U[:, tokens])
        return total, few if model.b_U is None else few + model.b_U[tokens]


class State:
    """Everything that the part of the graph above the current reader needs, for one circuit."""

    def __init__(self, forward: PatchedForward, metric: Metric) -> None:
        self.forward, self.model, self.graph = forward, forward.model, forward.graph
        self.metric = metric
        self.readout = Readout(self.model, metric)
        self.mask = self.graph.legal.copy()  # all edges of readers not yet visited are kept
        self.drop = forward.clean.writers - forward.ablated  # what a cut takes away
        self.span: dict[int, int] = {}  # reader -> how many last positions of it matter
        self.x: dict[int, Tensor] = {}
        self.act: dict[int, Tensor] = {}
        self.pattern: dict[int, Tensor] = {}
        self.out: dict[int, Tensor] = {}
        self.kept: dict[int, list[int]] = {}  # live reader -> writers it still reads
        self.live: dict[int, list[int]] = {}  # layer -> live heads (their writer indices)
        self.enter(self.graph.n_layers, "logits")
        self.value = float(self.readout(self.x[self._logits][None, :, 0])[0])

    @property
    def _logits(self) -> int:
        return len(self.graph.readers) - 1

    # ---- arriving at a layer -----------------------------------------------------------------

    def enter(self, layer: int, part: str) -> None:
        """Arrive at `logits`, an MLP ("mlp") or all heads of a layer ("attn"), all still clean.

        Readers of nodes without a kept edge out are dead: their edges are dropped here.
        """
        graph = self.graph
        if part == "logits":
            self._open(self._logits, 1)
        elif part == "mlp":
            writer, reader = graph.mlp(layer), graph.reader(layer, "mlp")
            span = self._demand(writer)
            if span:
                self._open(reader, span)
                self.out[writer] = self.forward.clean.writers[writer][:, -span:]
            else:
                self.mask[:, reader] = False
        else:
            self._enter_heads(layer)

    def _enter_heads(self, layer: int) -> None:
        graph, n = self.graph, self.forward.n_pos
        spans = {h: self._demand(graph.head(layer, h)) for h in range(graph.n_heads)}
        self.live[layer] = [graph.head(layer, h) for h, span in spans.items() if span]
        wanted: dict[int, int] = {}
        for head, span in spans.items():
            if span:
                q, k, v = graph.head_readers(layer, head)
                wanted |= {q: span, k: n, v: n}
        for reader in range(graph.reader(layer, "q"), graph.reader(layer, "v", graph.n_kv_readers)):
            if reader in wanted:
                self._open(reader, wanted[reader])
                self.act[reader] = self._project(reader, self.x[reader])
            else:
                self.mask[:, reader] = False
        for writer in self.live[layer]:
            q, k, v = self._readers(layer, writer)
            self.pattern[writer] = self.model.pattern(layer, self.act[q], self.act[k])
            self.out[writer] = self.pattern[writer] @ self.act[v]

    def _open(self, reader: int, span: int) -> None:
        info = self.graph.readers[reader]
        stream = self.forward.clean.streams[stream_of(self.graph, info.layer, info.part)]
        self.span[reader], self.x[reader] = span, stream[:, -span:]
        self.kept[reader] = np.flatnonzero(self.mask[:, reader]).tolist()

    def _demand(self, writer: int) -> int:
        """How many last positions of a writer anything kept still reads; 0 = dead."""
        readers = np.flatnonzero(self.mask[writer]).tolist()
        spans = [self.span[r] for r in readers if r in self.span]
        return max(spans, default=0)

    def _readers(self, layer: int, writer: int) -> tuple[int, int, int]:
        return self.graph.head_readers(layer, writer - self.graph.head(layer, 0))

    def _project(self, reader: int, x: Tensor) -> Tensor:
        info = self.graph.readers[reader]
        slot = info.group
        if info.part != "q" and self.graph.kv == "per_query_head":
            slot = self.model.kv_head(info.group)
        return self.model.project(info.layer, info.part, slot, x, self.forward.n_pos)  # type: ignore[arg-type]

    def bytes_per_variant(self) -> int:
        """Upper estimate of what one variant of a trial holds in memory."""
        widths = [self.model.d_model, *(4 * act.shape[-1] for act in self.act.values())]
        rows = sum(self.span.values()) * len(self.forward.prompts)
        return rows * max(widths) * self.drop.element_size()

    # ---- trying cuts -----------------------------------------------------------------------------

    def trial(self, cuts: Sequence[Cut], single: bool = False) -> Trial:
        """Evaluate cumulative (or `single`) cuts within `logits`, one MLP, or a layer's heads."""
        trial = Trial(cuts, single)
        info = self.graph.readers[cuts[0].reader]
        self._cut_inputs(trial)
        if info.part == "logits":
            trial.final = trial.x[cuts[0].reader][1:, :, 0]
            return trial
        if info.part == "mlp":
            writer = self.graph.mlp(info.layer)
            x = trial.x[cuts[0].reader][1:]
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
        for reader in dict.fromkeys(cut.reader for cut in trial.cuts):
            own = [cut.reader == reader for cut in trial.cuts]
            trial.rows[reader] = (np.cumsum(own) * (own if trial.single else 1)).tolist()
            span = self.span[reader]
            single = [c.writers for c in trial.cuts if c.reader == reader]
            if trial.cuts[0].gate:
                lost = torch.stack([self.drop[list(w)][:, :, -span:].sum(0) for w in single])
            else:
                lost = self.drop[[w for (w,) in single]][:, :, -span:]
            x = self.x[reader]
            trial.x[reader] = torch.cat([x[None], x - (lost if trial.single else lost.cumsum(0))])
            if reader in self.act:
                new = self._project(reader, trial.x[reader][1:])
                trial.act[reader] = torch.cat([self.act[reader][None], new])

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
        """Outputs of the heads of a layer one of whose q, k, v changed."""
        for writer in self.live[layer]:
            q, k, v = self._readers(layer, writer)
            if not any(r in trial.act for r in (q, k, v)):
                continue
            pattern = self.pattern[writer]
            if q in trial.act or k in trial.act:
                pattern = self.model.pattern(layer, self._act(trial, q), self._act(trial, k))
                trial.pattern[writer] = pattern
            z = pattern @ self._act(trial, v)
            trial.out[writer] = z
            head = writer - self.graph.head(layer, 0)
            trial.delta[writer] = (z - self.out[writer]) @ self.model.blocks[layer].attn.W_O[head]

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
        """Change of a reader's input: the sum of its changed writers' deltas."""
        writers = [w for w in self.kept[reader] if w in trial.delta]
        if not writers:
            return None
        trial.incoming[reader] = writers
        return self._sum(trial, reader, slice(None))

    def _sum(self, trial: Trial, reader: int, variants: slice) -> Tensor:
        span, (first, *rest) = self.span[reader], trial.incoming[reader]
        total = trial.delta[first][variants, :, -span:]
        for writer in rest:
            total = total + trial.delta[writer][variants, :, -span:]
        return total

    def values(self, trial: Trial) -> Iterator[float]:
        """Metric of each variant in turn, computed a few at a time, so stopping early saves."""
        assert trial.final is not None
        step = max(1, READOUT_ROWS // trial.final.shape[1])
        for start in range(0, len(trial.final), step):
            yield from self.readout(trial.final[start : start + step]).tolist()

    # ---- accepting -------------------------------------------------------------------------------

    def commit(self, trial: Trial, variant: int, value: float) -> None:
        """Move to a variant of a trial: its cuts become part of the circuit."""
        if trial.single:
            raise ValueError("a trial of single cuts has no circuit so far to move to")
        for reader in trial.x:
            self.x[reader] = trial.x[reader][trial.row(reader, variant)].clone()
        for reader in trial.incoming:
            self.x[reader] = (
                self.x[reader] + self._sum(trial, reader, slice(variant, variant + 1))[0]
            )
        for reader, act in trial.act.items():
            self.act[reader] = act[trial.row(reader, variant)].clone()
        for store, new in ((self.pattern, trial.pattern), (self.out, trial.out)):
            for writer, tensor in new.items():
                store[writer] = tensor[variant].clone()
        for cut in trial.cuts[: variant + 1]:
            self.mask[list(cut.writers), cut.reader] = False
            self.kept[cut.reader] = np.flatnonzero(self.mask[:, cut.reader]).tolist()
        self.value = value
