"""The computational graph as index arithmetic.

Writers add a vector to the residual stream: `input`, every head `a{l}.h{h}`, every MLP `m{l}`.
Readers read a sum of writers before a norm: `a{l}.h{h}<q|k|v>`, `m{l}`, `logits`. An edge joins a
writer to every later reader (Conmy et al. 2023, section 2; names and index order as in EAP-IG,
Hanna et al. 2024). With spans a reader is several, one for each span of positions at which it reads
(Haklay et al. 2025, arXiv 2502.04577): `a2.h3<k>@s2`. Knows no model, no tensor, no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError
from acdc.schema import ALL, Spans

KV = Literal["per_query_head", "per_group"]
Part = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Reader:
    """One reader: where it sits and which writers it belongs to."""

    name: str
    layer: int  # n_layers for `logits`
    part: Literal["q", "k", "v", "mlp", "logits"]
    group: int  # head for q, head or key/value group for k and v, 0 otherwise
    nodes: tuple[int, ...]  # writers that it belongs to; a shared k or v has several
    shapes: tuple[int, ...]  # writers whose output it changes: `nodes`, or all heads of its layer
    span: int = 0  # of Graph.spans, at which it reads


@dataclass(frozen=True)
class Graph:
    """Writers, readers and legal edges of one architecture.

    Order of writers: `input`, then per layer the heads and the MLP. Order of readers: per layer all
    q, all k, all v, then the MLP; `logits` last. With spans each reader's are neighbours, but
    `logits` is one, as only the last token's are read.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    has_mlp: bool = True
    parallel: bool = False  # attention and MLP of a layer read the same stream (Pythia)
    kv: KV = "per_query_head"
    joint: bool = False  # a norm follows the sum of a layer's heads: each depends on all (Gemma 2)
    spans: Spans = ALL

    def __post_init__(self) -> None:
        if self.kv not in ("per_query_head", "per_group"):
            raise InputError(f"kv={self.kv!r}: allowed are per_query_head, per_group")
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"{self.n_heads} heads do not split over {self.n_kv_heads} groups")

    # ---- writers -------------------------------------------------------------------------------

    @property
    def block_size(self) -> int:
        """Writers per layer."""
        return self.n_heads + self.has_mlp

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of the writers, in index order."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self.has_mlp
        return tuple(names)

    def head(self, layer: int, head: int) -> int:
        """Writer index of a head."""
        return 1 + layer * self.block_size + head

    def mlp(self, layer: int) -> int:
        """Writer index of an MLP."""
        return 1 + layer * self.block_size + self.n_heads

    def place(self, writer: int) -> tuple[int, int]:
        """(layer, head) of a head, (layer, n_heads) of an MLP; layer -1 for `input`."""
        return divmod(writer - 1, self.block_size)

    def is_head(self, writer: int) -> bool:
        """Whether a writer is a head."""
        return writer > 0 and self.place(writer)[1] < self.n_heads

    def writers_before(self, layer: int, part: str = "q") -> int:
        """Number of writers that a reader of this layer sees: it reads writers 0..n-1."""
        below = 1 + layer * self.block_size
        return below + self.n_heads if part == "mlp" and not self.parallel else below

    # ---- readers -------------------------------------------------------------------------------

    @property
    def n_kv_readers(self) -> int:
        """K readers (and V readers) of one layer."""
        return self.n_heads if self.kv == "per_query_head" else self.n_kv_heads

    @cached_property
    def plain(self) -> Graph:
        """The graph whose edges are at all positions."""
        return self if self.spans == ALL else replace(self, spans=ALL)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The readers, in index order."""
        if self.spans != ALL:
            *inner, logits = self.plain.readers
            names = list(enumerate(self.spans.names))
            split = [replace(r, name=f"{r.name}@{of}", span=s) for r in inner for s, of in names]
            return (*split, logits)
        out: list[Reader] = []
        for layer in range(self.n_layers):
            for part in ("q", "k", "v"):
                count = self.n_heads if part == "q" else self.n_kv_readers
                out += [self._head_reader(layer, part, group) for group in range(count)]
            if self.has_mlp:
                own = (self.mlp(layer),)
                out.append(Reader(f"m{layer}", layer, "mlp", 0, own, own))
        out.append(Reader("logits", self.n_layers, "logits", 0, (), ()))
        return tuple(out)

    def _head_reader(self, layer: int, part: Literal["q", "k", "v"], group: int) -> Reader:
        shared = part != "q" and self.kv == "per_group"
        size = self.n_heads // self.n_kv_heads if shared else 1
        nodes = tuple(self.head(layer, group * size + i) for i in range(size))
        shapes = tuple(self.head(layer, h) for h in range(self.n_heads)) if self.joint else nodes
        stem = f"a{layer}.kv{group}" if shared else f"a{layer}.h{group}"
        return Reader(f"{stem}<{part}>", layer, part, group, nodes, shapes)

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """[span, reader of `plain`]: index of the reader at that span; `logits` is the same in all.

        mask[:, columns[s]] is what of a mask holds at span s.
        """
        n, inner = len(self.spans), len(self.plain.readers) - 1
        split = np.arange(inner * n).reshape(inner, n).T
        return frozen(np.column_stack([split, np.full(n, inner * n)]))

    def plain_reader(self, reader: int) -> int:
        """Index among the readers of `plain`."""
        return min(reader // len(self.spans), len(self.plain.readers) - 1)

    def by_span(self, mask: NDArray[Any]) -> NDArray[Any]:
        """[span, writers, readers of `plain`] of a mask [writers, readers], or of scores."""
        return mask[None] if self.spans == ALL else np.moveaxis(mask[:, self.columns], 1, 0)

    def reader(self, layer: int, part: str, group: int = 0) -> int:
        """Reader index of a part of a layer (`group` as in Reader.group).

        ValueError where there are several, with spans: see `plain` and `columns`.
        """
        if part == "logits":
            return len(self.readers) - 1
        if self.spans != ALL:
            raise ValueError(f"a{layer}.{part}: one reader a span, {len(self.spans)} in all")
        start = layer * (self.n_heads + 2 * self.n_kv_readers + self.has_mlp)
        offset = {
            "q": 0,
            "k": self.n_heads,
            "v": self.n_heads + self.n_kv_readers,
            "mlp": self.n_heads + 2 * self.n_kv_readers,
        }[part]
        return start + offset + group

    def head_readers(self, layer: int, head: int) -> tuple[int, int, int]:
        """Reader indices of q, k and v of one query head."""
        group = head * self.n_kv_readers // self.n_heads
        return (
            self.reader(layer, "q", head),
            self.reader(layer, "k", group),
            self.reader(layer, "v", group),
        )

    def read_at(self, reader: int) -> list[int]:
        """Spans at which a reader reads."""
        if self.readers[reader].part == "logits":
            return [s for s, last in enumerate(self.spans.last) if last]
        return [self.readers[reader].span]

    def shaped_at(self, reader: int) -> list[int]:
        """Spans at which the output of the nodes that a reader shapes depends on it."""
        info, sees = self.readers[reader], self.spans.sees
        if info.part in ("k", "v"):
            return [s for s in range(len(sees)) if sees[s][info.span]]
        return self.read_at(reader)

    # ---- edges ---------------------------------------------------------------------------------

    @cached_property
    def senders(self) -> NDArray[np.int64]:
        """[readers]: how many writers each reader sees (writers 0..n-1)."""
        return frozen(np.array([self.writers_before(r.layer, r.part) for r in self.readers]))

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """[writers, readers]: which edges exist."""
        return frozen(np.arange(len(self.writers))[:, None] < self.senders[None, :])

    @cached_property
    def on_paths(self) -> NDArray[np.bool_]:
        """[writers, readers]: edges on a path; with spans some lead to where nothing reads on."""
        read = np.zeros((len(self.writers), len(self.spans)), dtype=bool)  # by what leads on
        leads = np.zeros(len(self.readers), dtype=bool)
        for index, reader in reversed([*enumerate(self.readers)]):
            shaped = np.ix_(reader.shapes, self.shaped_at(index))
            leads[index] = not reader.shapes or read[shaped].any()
            if leads[index]:
                read[: self.senders[index], self.read_at(index)] = True
        return frozen(self.legal & leads)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.senders.sum())

    def edge_name(self, writer: int, reader: int) -> str:
        """Name of an edge, such as `a0.h1->a2.h3<q>`."""
        return f"{self.writers[writer]}->{self.readers[reader].name}"

    @cached_property
    def writer_index(self) -> dict[str, int]:
        """Name -> writer index."""
        return {name: i for i, name in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        """Name -> reader index."""
        return {r.name: i for i, r in enumerate(self.readers)}

    def edge(self, name: str) -> tuple[int, int]:
        """(writer, reader) of an edge name; InputError if there is no such edge."""
        writer, _, reader = name.partition("->")
        pair = self.writer_index.get(writer), self.reader_index.get(reader)
        if pair[0] is None or pair[1] is None or not self.legal[pair]:
            raise InputError(f"edge {name!r} does not exist in this graph ({self.describe()})")
        return pair[0], pair[1]

    def mask(self, edges: Sequence[str]) -> NDArray[np.bool_]:
        """[writers, readers]: True at the named edges."""
        mask = np.zeros_like(self.legal)
        for name in edges:
            mask[self.edge(name)] = True
        return mask

    def touched(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[writers]: which nodes the edges of `mask` leave or enter."""
        out = np.any(mask, axis=1)
        for reader in np.flatnonzero(np.any(mask, axis=0)).tolist():
            out[list(self.readers[reader].nodes)] = True
        return out

    def describe(self) -> str:
        """One line: sizes and the number of edges."""
        spans = "" if self.spans == ALL else f", {len(self.spans)} spans"
        mlp = "no MLPs" if not self.has_mlp else "parallel MLPs" if self.parallel else "MLPs"
        return (
            f"{self.n_layers} layers x {self.n_heads} heads, {self.n_kv_heads} key/value heads,"
            f" {mlp}, kv {self.kv}{spans}: {self.n_edges} edges"
        )


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The array, not to be written to any more."""
    array.setflags(write=False)
    return array
