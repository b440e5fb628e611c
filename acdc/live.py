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

Mask = NDArray[np.bool_]  # [writers, readers]


@runtime_checkable
class Cuts(Protocol):
    """What a circuit's readers receive over edges that are not in it."""

    def key(self, reader: int) -> Hashable:
        """Readers of one place with equal kept edges and equal keys receive the same."""
        ...

    def offset(self, writer: int) -> Float[Tensor, "batch pos d_model"] | None:
        """What a kept edge replaces, if it is the same for all readers: kept edges add cur - it."""
        ...

    def base(self, reader: int, kept: Sequence[int], span: int) -> Float[Tensor, "batch span d"]:
        """All but the kept edges, at the last `span` positions: biases, cut edges, offsets."""
        ...


SPARSE = 3  # times fewer writers that are read than there are, from which they are copied


@dataclass(frozen=True)
class Plan:
    """How many last positions of each node a circuit needs; 0 = not at all."""

    writers: NDArray[np.int64]
    readers: NDArray[np.int64]


def plan(graph: Graph, mask: Mask, n_pos: int) -> Plan:
    """Demand, from the logits down: k and v are needed at all positions, the rest as it is read."""
    writers = np.zeros(len(graph.writers), dtype=np.int64)
    readers = np.zeros(len(graph.readers), dtype=np.int64)
    for r in reversed(range(len(graph.readers))):
        info = graph.readers[r]
        wanted = max((int(writers[n]) for n in info.shapes), default=1)
        span = n_pos if wanted and info.part in ("k", "v") else wanted
        readers[r] = span
        if graph.joint:
            writers[list(info.shapes)] = wanted
        if span:
            kept = mask[:, r]
            writers[kept] = np.maximum(writers[kept], span)
    return Plan(writers, readers)


def run_live(
    model: Model,
    graph: Graph,
    tokens: Int[Tensor, "batch pos"],
    mask: Mask,
    cuts: Cuts,
    before: Float[Tensor, "stream batch pos d_model"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position of the circuit `mask` on these tokens.

    With `before`, a full run's streams (Trace.streams), only the last position is the circuit's;
    keys and values of the positions before it are that run's.
    """
    return _Run(model, graph, tokens, mask, cuts, before).logits()


class _Run:
    """Outputs so far, of writers wanted at all positions (`full`) and at the last one (`last`)."""

    def __init__(
        self, model: Model, graph: Graph, tokens: Tensor, mask: Mask, cuts: Cuts,
        before: Tensor | None,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.mask, self.cuts = model, graph, mask, cuts
        self.tokens, self.n_pos, self.before = tokens, tokens.shape[1], before
        self.widest = self.n_pos if before is None else 1
        self.plan = plan(graph, mask, self.widest)
        self.stores = {s: _Store(graph, self.plan, s, tokens, model) for s in (self.widest, 1)}

    def logits(self) -> Tensor:
        """Run the live part, layer by layer."""
        graph, model = self.graph, self.model
        if self.plan.writers[0]:
            self._write(0, model.embed(self.tokens))
        for layer in range(graph.n_layers):
            mlp = graph.mlp(layer)
            live = graph.has_mlp and bool(self.plan.writers[mlp])
            early = self._mlp_input(layer) if live and graph.parallel else None
            self._heads(layer)
            if live:
                x = self._mlp_input(layer) if early is None else early
                self._write(mlp, model.mlp_out(layer, x))
        return model.unembed(self._read([len(graph.readers) - 1], 1)[0][0][:, -1])

    def _mlp_input(self, layer: int) -> Tensor:
        reader = self.graph.reader(layer, "mlp")
        return self._read([reader], int(self.plan.readers[reader]))[0][0]

    def _heads(self, layer: int) -> None:
        """Outputs of a layer's live heads, those wanted at one position apart from the others."""
        graph, first = self.graph, self.graph.head(layer, 0)
        spans = self.plan.writers[first : first + graph.n_heads]
        groups = {span: np.flatnonzero(spans == span).tolist() for span in self.stores}
        inputs = self._head_inputs(layer, groups)
        outputs: dict[int, Tensor] = {}
        for heads in groups.values():
            if heads:
                outputs |= zip(heads, self._head_group(layer, heads, inputs), strict=True)
        for head in sorted(outputs):
            self._write(first + head, outputs[head])

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
        """[head, batch, span, d_model] of some heads of one layer."""
        model, readers = self.model, [self.graph.head_readers(layer, h) for h in heads]
        x, slots = inputs.of([q for q, _, _ in readers])
        q = model.project(layer, "q", heads, x[slots] if len(x) > 1 else x, self.n_pos)
        k = self._keys_or_values(layer, "k", heads, *inputs.of([k for _, k, _ in readers]))
        v = self._keys_or_values(layer, "v", heads, *inputs.of([v for _, _, v in readers]))
        z = model.shared_out(layer, model.pattern(layer, heads, q, k) @ v)
        weight = model.blocks[layer].attn.W_O
        out = z.flatten(1, 2) @ (weight if len(heads) == len(weight) else weight[heads])
        return out.unflatten(1, z.shape[1:3])

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
        offset = self.cuts.offset(writer)
        change = out if offset is None else out - offset[:, -out.shape[1] :]
        for store in self.stores.values():
            store.write(writer, change)

    def _read(self, readers: list[int], span: int) -> tuple[Tensor, list[int]]:
        """Distinct inputs [n, batch, span, d_model] of some readers, and which one each has."""
        keys = [(self.mask[:, r].tobytes(), self.cuts.key(r)) for r in readers]
        first = dict[tuple[bytes, Hashable], int]()
        for key, reader in zip(keys, readers, strict=True):
            first.setdefault(key, reader)
        kept = [np.flatnonzero(self.mask[:, r]).tolist() for r in first.values()]
        base = [self.cuts.base(r, k, span) for r, k in zip(first.values(), kept, strict=True)]
        x = torch.stack(base) + self.stores[span].sums(kept)
        places = {key: i for i, key in enumerate(first)}
        return x, [places[key] for key in keys]


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
    """What live writers add at the last `span` positions, and the running sum of it."""

    def __init__(self, graph: Graph, wanted: Plan, span: int, tokens: Tensor, model: Model) -> None:
        live = np.flatnonzero(wanted.writers >= span).tolist()
        self.rows, self.span, self.n = {w: i for i, w in enumerate(live)}, span, 0
        shape = len(live), len(tokens), span, graph.d_model
        self.out = torch.empty(shape, dtype=model.dtype, device=model.device)
        self.total = self.out.new_zeros(shape[1:])

    def write(self, writer: int, out: Tensor) -> None:
        """Add a writer [batch, its span, d_model]; writers come in index order."""
        if writer in self.rows:
            self.out[self.n] = out[:, -self.span :]
            self.total = self.total + self.out[self.n]
            self.n += 1

    def sums(self, kept: Sequence[Sequence[int]]) -> Tensor:
        """Sums of kept writers, each over the fewer terms: [n, batch, span, d_model]."""
        coefficients = np.zeros((len(kept), self.n))
        for row, writers in zip(coefficients, kept, strict=True):
            row[[self.rows[w] for w in writers]] = 1
        rest = 2 * coefficients.sum(1) > self.n  # nearly all: the running sum minus the missing
        coefficients[rest] -= 1
        needed = np.flatnonzero(np.any(coefficients, axis=0)).tolist()
        if SPARSE * len(needed) > self.n:  # reading all is quicker than copying these first
            needed = list(range(self.n))
        out = self.out[: self.n] if len(needed) == self.n else self.out[needed]
        weights = self.total.new_tensor(coefficients[:, needed])
        sums = (weights @ out.flatten(1)).view(len(kept), *self.total.shape)
        whole = torch.as_tensor(rest, device=sums.device)[:, None, None, None]
        return sums + torch.where(whole, self.total, self.total.new_zeros(()))
