"""One circuit's run, from its live part alone: what no kept path joins to the logits is not run.

The same function as the dense patched forward (its twin in tests/): reader v receives

    x_v = biases + sum over kept u->v of cur(u) + sum over cut u->v of what the edge carries

but only live writers are computed, only at positions that the answer can see, and readers with
equal inputs share them. Sums are taken over whichever is fewer, the terms or those that are missing
from the whole. So a sparse circuit costs a fraction of a forward pass and a model with a
few cuts about one. What cut edges carry is a `Cuts` object: this module does not know whether that
is a corrupted run, a mean, or resampled prompts (discovery/scrubbing does the last).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from acdc.graph import Graph, Part
from acdc.model import Model
from acdc.spans import Layout
from acdc.writers import Writers

Mask = NDArray[np.bool_]  # [writers, readers]


@runtime_checkable
class Cuts(Protocol):
    """What a circuit's readers receive over edges that are not in it."""

    @property
    def offset(self) -> Writers | None:
        """What kept edges replace, if it is the same for all readers: they add cur - it.

        Then `base` does not depend on what is kept.
        """
        ...

    def key(self, reader: int) -> Hashable:
        """Readers of one place with equal kept edges and equal keys receive the same."""
        ...

    def base(self, reader: int, kept: Sequence[int], span: int) -> Float[Tensor, "batch span d"]:
        """All but the kept edges, at the last `span` positions: biases, cut edges, offsets."""
        ...


SPARSE = 3  # times fewer writers that are read than there are, from which they are copied


@dataclass(frozen=True)
class Plan:
    """How many last positions of each node a circuit needs; 0 = not at all.

    Readers are those of the plain graph: what any span of one needs, all of it does.
    """

    writers: NDArray[np.int64]
    readers: NDArray[np.int64]


def plan(graph: Graph, mask: Mask, n_pos: int, given: NDArray[np.bool_] | None = None) -> Plan:
    """Demand, from the logits down: k and v are needed at all positions, the rest as it is read.

    Writers that are `given` [writers] need nothing.
    """
    mask, graph = np.any(graph.by_span(mask), axis=0), graph.plain
    writers = np.zeros(len(graph.writers), dtype=np.int64)
    readers = np.zeros(len(graph.readers), dtype=np.int64)
    needs = np.ones(len(graph.writers), bool) if given is None else ~given
    for r in reversed(range(len(graph.readers))):
        info = graph.readers[r]
        wanted = max((int(writers[n]) for n in info.shapes if needs[n]), default=0)
        wanted = wanted if info.nodes else 1
        span = n_pos if wanted and info.part in ("k", "v") else wanted
        readers[r] = span
        if graph.joint:
            writers[list(info.shapes)] = max((int(writers[n]) for n in info.shapes), default=0)
        if span:
            kept = mask[:, r]
            writers[kept] = np.maximum(writers[kept], span)
    return Plan(writers, readers)


@dataclass(frozen=True)
class Known:
    """What a circuit's writers put out, for runs of others that are alike below some edge."""

    mask: Mask  # of the circuit
    spans: NDArray[np.int64]  # [writers]: how many last positions of each are known
    writers: Writers

    @classmethod
    def of_model(cls, graph: Graph, writers: Writers) -> Known:
        """Of a run of the model itself."""
        n_pos = writers.rest.shape[2]
        return cls(graph.legal, np.full(len(graph.writers), n_pos), writers)


def unchanged(graph: Graph, mask: Mask, other: Mask) -> NDArray[np.bool_]:
    """[writers]: which put out the same in both circuits, as the same edges lead to them."""
    same = np.all(graph.by_span(mask == other), axis=(0, 1))
    mask = np.any(graph.by_span(mask), axis=0)
    out = np.ones(len(graph.writers), bool)
    for r, info in enumerate(graph.plain.readers):
        if not (same[r] and out[mask[:, r]].all()):
            out[list(info.shapes)] = False
    return out


def run_live(
    model: Model,
    graph: Graph,
    tokens: Int[Tensor, "batch pos"],
    mask: Mask,
    cuts: Cuts,
    before: Float[Tensor, "stream batch pos d_model"] | None = None,
    known: Known | None = None,
    record: Writers | None = None,
    layout: Layout | None = None,
) -> Float[Tensor, "batch d_model"]:
    """What the final norm sees at the last position in the circuit `mask` on these tokens.

    With `before`, a full run's streams (Trace.streams), only the last position is the circuit's;
    keys and values of the positions before it are that run's. What is `known` of a run on the same
    tokens with the same cuts is not run again. Outputs go into `record`, where there is one. A
    graph with spans needs the tokens' `layout`.
    """
    layout = layout or Layout(torch.zeros_like(tokens), 1)
    return _Run(model, graph, tokens, mask, cuts, before, known, record, layout).final()


class _Run:
    """Outputs so far, of writers wanted at all positions (`full`) and at the last one (`last`)."""

    def __init__(
        self, model: Model, graph: Graph, tokens: Tensor, mask: Mask, cuts: Cuts,
        before: Tensor | None, known: Known | None, record: Writers | None, layout: Layout,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.cuts = model, graph.plain, cuts
        self.mask = graph.by_span(mask)  # [span, writers, readers of the plain graph]
        self.known, self.record = known, record
        self.tokens, self.n_pos, self.before = tokens, tokens.shape[1], before
        self.widest = self.n_pos if before is None else 1
        self.given = np.zeros(len(graph.writers), bool)
        if known is not None:
            wanted = plan(graph, mask, self.widest).writers
            self.given = unchanged(graph, mask, known.mask) & (wanted <= known.spans)
        self.plan = plan(graph, mask, self.widest, self.given)
        widths = dict.fromkeys((self.widest, 1))
        self.stores = {
            n: _Store(self.graph, self.mask, self.plan, n, layout.suffix(n), model) for n in widths
        }

    def final(self) -> Tensor:
        """Run the live part, layer by layer."""
        graph, model = self.graph, self.model
        if self.plan.writers[0]:
            self._write(0, model.embed(self.tokens))
        for layer in range(graph.n_layers):
            mlp = graph.mlp(layer)
            live = graph.has_mlp and bool(self.plan.writers[mlp])
            early = self._mlp_output(layer) if live and graph.parallel else None
            self._heads(layer)
            if live:
                self._write(mlp, self._mlp_output(layer) if early is None else early)
        return self._read([len(graph.readers) - 1], 1)[0][0][:, -1]

    def _mlp_output(self, layer: int) -> Tensor:
        graph, span = self.graph, int(self.plan.writers[self.graph.mlp(layer)])
        if self.known is not None and self.given[graph.mlp(layer)]:
            return self.known.writers.rest[1 + layer, :, -span:]
        return self.model.mlp_out(layer, self._read([graph.reader(layer, "mlp")], span)[0][0])

    def _heads(self, layer: int) -> None:
        """Outputs of a layer's live heads, those wanted at one position apart from the others."""
        graph, first = self.graph, self.graph.head(layer, 0)
        every = slice(first, first + graph.n_heads)
        spans, given = self.plan.writers[every], self.given[every]
        groups = {s: np.flatnonzero((spans == s) & ~given).tolist() for s in self.stores}
        inputs = self._head_inputs(layer, groups)
        for heads in groups.values():
            if heads:
                self._write_heads(layer, heads, self._head_group(layer, heads, inputs))
        for span in self.stores:
            heads = np.flatnonzero((spans == span) & given).tolist()
            if heads and self.known is not None:
                self._write_heads(layer, heads, self.known.writers.z[layer, heads][:, :, -span:])

    def _head_inputs(self, layer: int, groups: Mapping[int, list[int]]) -> _Inputs:
        """What these heads read: q at their span, k and v at the widest; one sum a span."""
        graph, found = self.graph, _Inputs()
        for span, heads in groups.items():
            readers = [graph.head_readers(layer, h)[0] for h in heads]
            if span == self.widest:
                live = (h for own in groups.values() for h in own)
                readers += [reader for h in live for reader in graph.head_readers(layer, h)[1:]]
            if readers := list(dict.fromkeys(readers)):
                found.add(readers, *self._read(readers, span))
        return found

    def _head_group(self, layer: int, heads: list[int], inputs: _Inputs) -> Tensor:
        """[head, batch, span, d_head]: z of some heads of one layer, as it is written."""
        model, readers = self.model, [self.graph.head_readers(layer, h) for h in heads]
        x, slots = inputs.of([q for q, _, _ in readers])
        q = model.project(layer, "q", heads, x[slots] if len(x) > 1 else x, self.n_pos)
        k = self._keys_or_values(layer, "k", heads, *inputs.of([k for _, k, _ in readers]))
        v = self._keys_or_values(layer, "v", heads, *inputs.of([v for _, _, v in readers]))
        return model.shared_out(layer, model.pattern(layer, heads, q, k) @ v)

    def _keys_or_values(
        self, layer: int, part: Part, heads: list[int], x: Tensor, slots: list[int]
    ) -> Tensor:
        """k or v of each head; heads of a group that read the same share one projection."""
        if self.before is not None:  # q, k and v of a layer read stream number 2 layer
            earlier = self.before[2 * layer, :, :-1].expand(len(x), -1, -1, -1)
            x = torch.cat([earlier, x], dim=2)
        wanted = [(self.model.kv_head(h), s) for h, s in zip(heads, slots, strict=True)]
        unique = list(dict.fromkeys(wanted))
        inputs = x[[s for _, s in unique]] if len(x) > 1 else x
        groups = [g for g, _ in unique]
        out = self.model.project(layer, part, groups, inputs, self.n_pos)
        return out if unique == wanted else out[[unique.index(w) for w in wanted]]

    def _write(self, writer: int, out: Tensor) -> None:
        """Of `input` or an MLP: [batch, its span, d_model]."""
        offset, place, span = self.cuts.offset, self.graph.place(writer)[0] + 1, out.shape[1]
        if self.record is not None:
            self.record.rest[place, :, -span:] = out
        if offset is not None:
            out = out - offset.rest[place, :, -span:]
        for store in self.stores.values():
            store.write(writer, out)

    def _write_heads(self, layer: int, heads: list[int], z: Tensor) -> None:
        """[head, batch, their span, d_head], before W_O."""
        offset = self.cuts.offset
        if self.record is not None:
            self.record.z[layer, heads, :, -z.shape[2] :] = z
        if offset is not None:
            z = z - offset.z[layer, heads][:, :, -z.shape[2] :]
        weight, first = self.model.blocks[layer].attn.W_O, self.graph.head(layer, 0)
        weight = weight if len(heads) == len(weight) else weight[heads]
        for store in self.stores.values():
            store.write_heads([first + head for head in heads], z, weight)

    def _read(self, readers: list[int], span: int) -> tuple[Tensor, list[int]]:
        """Distinct inputs [n, batch, span, d_model] of some readers, and which one each has."""
        keys = [(self.mask[:, :, r].tobytes(), self.cuts.key(r)) for r in readers]
        first = dict[tuple[bytes, Hashable], int]()
        for key, reader in zip(keys, readers, strict=True):
            first.setdefault(key, reader)
        base = [self._base(r, span) for r in first.values()]
        x = torch.stack(base) + self.stores[span].sums(list(first.values()))
        places = {key: i for i, key in enumerate(first)}
        return x, [places[key] for key in keys]

    def _base(self, reader: int, span: int) -> Tensor:
        """All but the kept edges; each token as if all kept what is kept at its span."""
        kept = [np.flatnonzero(own).tolist() for own in self.mask[:, :, reader]]
        if len(kept) == 1 or self.cuts.offset is not None:  # then it does not depend on them
            return self.cuts.base(reader, kept[0], span)
        of = self.stores[span].layout.of
        base = self.cuts.base(reader, kept[0], span)
        for s, own in enumerate(kept[1:], 1):
            if bool((of == s).any()):
                base = torch.where((of == s)[..., None], self.cuts.base(reader, own, span), base)
        return base


class _Inputs:
    """Inputs of a layer's readers [batch, span, d_model], equal ones held once."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[Tensor, int]] = {}

    def add(self, readers: Sequence[int], x: Tensor, slots: Sequence[int]) -> None:
        """Readers, distinct inputs [n, ...] and which one each has."""
        self.places |= {r: (x, slot) for r, slot in zip(readers, slots, strict=True)}

    def of(self, readers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Distinct inputs of some readers of one span, and which one each has."""
        x, slots = self.places[readers[0]][0], [self.places[r][1] for r in readers]
        distinct = list(dict.fromkeys(slots))
        if len(distinct) == 1:
            return x[distinct[0] : distinct[0] + 1], [0] * len(slots)
        return x[distinct], [distinct.index(slot) for slot in slots]


class _Store:
    """What live writers add at the last `span` positions: the sum of all, and some one by one.

    A reader gets the fewer terms: those that it reads, or the sum less those that it does not.
    """

    def __init__(
        self, graph: Graph, mask: NDArray[np.bool_], wanted: Plan, span: int, layout: Layout,
        model: Model,
    ) -> None:  # fmt: skip
        """`mask` is [span of positions, writers, readers], `layout` of the last `span` tokens."""
        self.live, readers = wanted.writers >= span, np.flatnonzero(wanted.readers == span)
        known, kept = self.live[:, None] & graph.legal[:, readers], mask[:, :, readers]
        nearly = 2 * kept.sum(1) > known.sum(0)
        terms = np.where(nearly[:, None], -1 * (known & ~kept), kept)
        single = np.flatnonzero(terms.any((0, 2)))
        self.rows = {w: i for i, w in enumerate(single.tolist())}
        self.columns = {r: i for i, r in enumerate(readers.tolist())}
        self.terms, self.nearly = terms[:, single], nearly
        self.layout, self.span, self.n = layout, span, 0
        tokens, width = layout.of.numel(), graph.d_model
        like = torch.zeros(0, dtype=model.dtype, device=model.device)
        self.out = like.new_zeros(len(single), tokens, width)  # tokens span by span, as the layout
        self.total = like.new_zeros(tokens, width)

    def write(self, writer: int, out: Tensor) -> None:
        """Add a writer [batch, its span, d_model]; no layer comes before an earlier one."""
        if self.live[writer]:
            out = self.layout.sort(out[:, -self.span :])
            if self.nearly.any():
                self.total += out
            self._keep(writer, out)

    def write_heads(self, writers: Sequence[int], z: Tensor, weight: Tensor) -> None:
        """Add heads of a layer from z [head, batch, their span, d_head] and W_O of each."""
        if not self.live[writers[0]]:
            return
        z = self.layout.sort(z[:, :, -self.span :])
        if self.nearly.any():
            self.total += z.transpose(0, 1).flatten(1) @ weight.flatten(0, 1)
        for own, head, writer in zip(z, weight, writers, strict=True):
            if writer in self.rows:
                self._keep(writer, own @ head)

    def _keep(self, writer: int, out: Tensor) -> None:
        if writer in self.rows:
            self.out[self.rows[writer]] = out
            self.n = max(self.n, self.rows[writer] + 1)

    def sums(self, readers: Sequence[int]) -> Tensor:
        """Sums of the writers so far that each reader reads: [n, batch, span, d_model]."""
        columns = [self.columns[r] for r in readers]
        terms, nearly = self.terms[:, : self.n, columns], self.nearly[:, columns]
        needed = np.flatnonzero(np.any(terms, axis=(0, 2))).tolist()
        if SPARSE * len(needed) > self.n:  # reading all is quicker than copying these first
            needed = list(range(self.n))
        out = self.out[: self.n] if len(needed) == self.n else self.out[needed]
        sums = self.layout.mixed(self.total.new_tensor(terms[:, needed]), out)
        if nearly.all():
            sums = sums + self.total
        elif nearly.any():
            for at, own in zip(self.layout.slices, nearly.tolist(), strict=True):
                whole = torch.tensor(own, device=sums.device)[:, None, None]
                sums[:, at] += torch.where(whole, self.total[at], 0.0)
        return self.layout.unsort(sums)
