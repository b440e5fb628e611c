"""The computational graph as index arithmetic, and circuits as masks over it.

Writers add a vector to the residual stream: `input`, every head `a{l}.h{h}`, every MLP `m{l}`.
Readers read a sum of writers before a norm: `a{l}.h{h}<q|k|v>`, `m{l}`, `logits`. An edge joins a
writer to every later reader (Conmy et al. 2023, section 2; names and index order as in EAP-IG,
Hanna et al. 2024). A circuit is a graph and a boolean [writers, readers] array, nothing more, so
counting, comparing and ablating are array expressions. Knows no model, no tensor, no prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError

KV = Literal["per_query_head", "per_group"]
Part = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Reader:
    """One reader: where it sits and which writers it belongs to."""

    name: str
    layer: int  # n_layers for `logits`
    part: Literal["q", "k", "v", "mlp", "logits"]
    group: int  # head for q, head or key/value group for k and v, 0 otherwise
    nodes: tuple[int, ...]  # writers whose output it shapes; a shared k or v has several


@dataclass(frozen=True)
class Graph:
    """Writers, readers and legal edges of one architecture.

    Order of writers: `input`, then per layer the heads and the MLP. Order of readers: per layer all
    q, all k, all v, then the MLP; `logits` last.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    has_mlp: bool = True
    parallel: bool = False  # attention and MLP of a layer read the same stream (Pythia)
    kv: KV = "per_query_head"

    def __post_init__(self) -> None:
        if self.kv not in ("per_query_head", "per_group"):
            raise InputError(f"graph.kv={self.kv!r}: allowed are per_query_head, per_group")
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
    def readers(self) -> tuple[Reader, ...]:
        """The readers, in index order."""
        out: list[Reader] = []
        for layer in range(self.n_layers):
            for part in ("q", "k", "v"):
                count = self.n_heads if part == "q" else self.n_kv_readers
                out += [self._head_reader(layer, part, group) for group in range(count)]
            if self.has_mlp:
                out.append(Reader(f"m{layer}", layer, "mlp", 0, (self.mlp(layer),)))
        out.append(Reader("logits", self.n_layers, "logits", 0, ()))
        return tuple(out)

    def _head_reader(self, layer: int, part: Literal["q", "k", "v"], group: int) -> Reader:
        shared = part != "q" and self.kv == "per_group"
        size = self.n_heads // self.n_kv_heads if shared else 1
        nodes = tuple(self.head(layer, group * size + i) for i in range(size))
        stem = f"a{layer}.kv{group}" if shared else f"a{layer}.h{group}"
        return Reader(f"{stem}<{part}>", layer, part, group, nodes)

    def reader(self, layer: int, part: str, group: int = 0) -> int:
        """Reader index of a part of a layer (`group` as in Reader.group)."""
        if part == "logits":
            return len(self.readers) - 1
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

    # ---- edges ---------------------------------------------------------------------------------

    @cached_property
    def senders(self) -> NDArray[np.int64]:
        """[readers]: how many writers each reader sees (writers 0..n-1)."""
        return np.array([self.writers_before(r.layer, r.part) for r in self.readers])

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """[writers, readers]: which edges exist."""
        return _frozen(np.arange(len(self.writers))[:, None] < self.senders[None, :])

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
        mlp = "no MLPs" if not self.has_mlp else "parallel MLPs" if self.parallel else "MLPs"
        return (
            f"{self.n_layers} layers x {self.n_heads} heads, {self.n_kv_heads} key/value heads,"
            f" {mlp}, kv {self.kv}: {self.n_edges} edges"
        )


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Circuit:
    """A graph, the edges that are kept, and optionally one number an edge. Immutable."""

    graph: Graph
    mask: NDArray[np.bool_]  # [writers, readers]
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # same shape

    def __post_init__(self) -> None:
        shape = self.graph.legal.shape
        if self.mask.shape != shape or (self.mask & ~self.graph.legal).any():
            raise InputError(f"circuit: mask {self.mask.shape} must lie within the legal {shape}")
        scores = self.scores if self.scores.size else np.zeros(shape)
        if scores.shape != shape or not np.isfinite(scores).all():
            raise InputError(f"circuit: scores {scores.shape} must be finite and of shape {shape}")
        object.__setattr__(self, "mask", _frozen(self.mask.astype(bool)))
        object.__setattr__(self, "scores", _frozen(scores.astype(float)))

    @property
    def n_edges(self) -> int:
        """Number of kept edges."""
        return int(self.mask.sum())

    def edges(self) -> list[str]:
        """Names of the kept edges, by writer, then reader."""
        return [self.graph.edge_name(w, r) for w, r in np.argwhere(self.mask).tolist()]

    def nodes(self) -> list[str]:
        """Names of the nodes that a kept edge touches, `logits` last."""
        touched = np.flatnonzero(self.graph.touched(self.mask)).tolist()
        names = [self.graph.writers[w] for w in touched]
        return names + ["logits"] * bool(self.mask[:, -1].any())

    def pruned(self) -> Circuit:
        """Without dangling edges: only those on a path from `input` to `logits`.

        Under resample ablation the output does not change: a writer none of whose inputs is kept
        has its corrupted value. Under zero or mean ablation it may.
        """
        walk = nx.DiGraph()
        walk.add_nodes_from(["input", "logits"])
        ends = []
        for w, r in np.argwhere(self.mask).tolist():
            reader = self.graph.readers[r]
            heads = [self.graph.writers[n] for n in reader.nodes] or ["logits"]
            walk.add_edges_from((self.graph.writers[w], node) for node in heads)
            ends.append((w, r, self.graph.writers[w], heads))
        alive = nx.descendants(walk, "input") | {"input"}
        alive &= nx.ancestors(walk, "logits") | {"logits"}
        mask = np.zeros_like(self.mask)
        for w, r, writer, heads in ends:
            mask[w, r] = writer in alive and any(node in alive for node in heads)
        return Circuit(self.graph, mask, self.scores)

    # ---- EAP-IG's JSON -------------------------------------------------------------------------

    def to_json(self, **about: Any) -> dict[str, Any]:
        """EAP-IG's graph format (also MIB's), with `about` as further top-level members.

        Lists every edge that is in the graph or has a score; an edge not listed has score 0 and
        is out, as that format's readers take it. A shared k or v edge is written once for each of
        its query heads, since the format knows no groups.
        """
        g = self.graph
        names = set(self.nodes())
        nodes = {n: {"in_graph": n in names or n == "logits"} for n in (*g.writers, "logits")}
        edges = {}
        for r, reader in enumerate(g.readers):
            for w in np.flatnonzero(self.mask[:, r] | (self.scores[:, r] != 0)).tolist():
                entry = {"score": float(self.scores[w, r]), "in_graph": bool(self.mask[w, r])}
                for name in self._ungrouped(reader):
                    edges[f"{g.writers[w]}->{name}"] = entry
        cfg = {
            "n_layers": g.n_layers,
            "n_heads": g.n_heads,
            "parallel_attn_mlp": g.parallel,
            "d_model": g.d_model,
        }
        own = {"n_kv_heads": g.n_kv_heads, "has_mlp": g.has_mlp, "kv": g.kv}
        return {"cfg": cfg, "nodes": nodes, "edges": edges, "graph": own, **about}

    def _ungrouped(self, reader: Reader) -> list[str]:
        if reader.part not in ("q", "k", "v"):
            return [reader.name]
        return [f"{self.graph.writers[n]}<{reader.part}>" for n in reader.nodes]

    @staticmethod
    def from_json(data: Mapping[str, Any], graph: Graph | None = None) -> Circuit:
        """Read EAP-IG's format; edges are looked up by name, missing ones are out with score 0.

        `graph` gives what the format does not say (key/value groups, no MLPs); without it the
        file's own `graph` member is used, or plain multi-head attention with MLPs. InputError on
        missing members, unknown edges, and groups whose copies disagree.
        """
        try:
            cfg, edges = data["cfg"], data["edges"]
            own = data.get("graph", {})
            sizes = cfg["n_layers"], cfg["n_heads"], own.get("n_kv_heads", cfg["n_heads"])
            graph = graph or Graph(
                *sizes, cfg["d_model"], own.get("has_mlp", True), cfg["parallel_attn_mlp"],
                own.get("kv", "per_query_head"),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise InputError(f"circuit file: missing or malformed member ({error})") from error
        if (cfg["n_layers"], cfg["n_heads"]) != (graph.n_layers, graph.n_heads):
            raise InputError(
                f"circuit file: {cfg['n_layers']} layers x {cfg['n_heads']} heads, but the graph"
                f" has {graph.describe()}"
            )
        return _from_entries(graph, edges)

    @staticmethod
    def load(path: Path | str, graph: Graph | None = None) -> Circuit:
        """Read a circuit file; see `from_json`."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"circuit file {path}: {error}") from error
        return Circuit.from_json(data, graph)


def _from_entries(graph: Graph, edges: Mapping[str, Mapping[str, Any]]) -> Circuit:
    """A circuit from `edges` members; every copy of a grouped edge must agree."""
    plain = Circuit(graph, np.zeros_like(graph.legal))
    index = {}
    for r, reader in enumerate(graph.readers):
        for name in plain._ungrouped(reader):
            index[name] = r
    mask, scores = np.zeros_like(graph.legal), np.zeros(graph.legal.shape)
    copies = np.zeros(graph.legal.shape, dtype=int)
    for name, entry in edges.items():
        writer, _, reader = name.partition("->")
        w, r = graph.writer_index.get(writer), index.get(reader)
        if w is None or r is None or not graph.legal[w, r]:
            raise InputError(f"circuit file: unknown edge {name!r} ({graph.describe()})")
        mask[w, r] |= bool(entry["in_graph"])
        copies[w, r] += bool(entry["in_graph"])
        scores[w, r] = float(entry.get("score", 0.0))
    wanted = np.array([max(1, len(r.nodes)) for r in graph.readers])
    mixed = np.argwhere(mask & (copies != wanted[None, :])).tolist()
    if len(mixed):
        raise InputError(
            f"circuit file: {graph.edge_name(*mixed[0])} holds only some of its group's query"
            " heads; a shared edge must be in for all or none (use graph.kv=per_query_head)"
        )
    return Circuit(graph, mask, scores)
