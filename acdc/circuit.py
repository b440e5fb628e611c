"""Circuits: a graph and a boolean [writers, readers] array over it, nothing more.

So counting, comparing and ablating are array expressions. Files are EAP-IG's (and MIB's) JSON.
Knows no model, no tensor, no prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError
from acdc.graph import Graph, Reader, frozen
from acdc.schema import ALL, read_spans

Own = TypeVar("Own", bound="Circuit")
SCORES = "scores.npz"  # beside a circuit.json that lists the kept edges only
START, END = "input", "logits"  # of a walk through a circuit
LARGEST = 2**30  # bytes that the scores of a file may unpack to


@dataclass(frozen=True, eq=False)
class Circuit:
    """A graph, the edges that are kept, and optionally one number an edge. Immutable.

    Circuits of one graph are sets of edges: `a & b`, `a | b`, `a - b`, `a ^ b`, `len(a)`,
    `"a1.h0->logits" in a`, `a <= b`. Scores of an edge are the left one's where it has the edge.
    """

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
        object.__setattr__(self, "mask", frozen(self.mask.astype(bool)))
        object.__setattr__(self, "scores", frozen(scores.astype(float)))

    @property
    def n_edges(self) -> int:
        """Number of kept edges."""
        return int(self.mask.sum())

    @property
    def edges(self) -> list[str]:
        """Names of the kept edges, by writer, then reader."""
        return [self.graph.edge_name(w, r) for w, r in np.argwhere(self.mask).tolist()]

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes that a kept edge touches, `logits` last."""
        touched = np.flatnonzero(self.graph.touched(self.mask)).tolist()
        names = [self.graph.writers[w] for w in touched]
        return names + ["logits"] * bool(self.mask[:, -1].any())

    # ---- as sets -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.n_edges

    def __iter__(self) -> Iterator[str]:
        return iter(self.edges)

    def __contains__(self, name: object) -> bool:
        """An edge by its name, or a node that an edge touches."""
        if not isinstance(name, str):
            return False
        return bool(self.mask[self.graph.edge(name)]) if "->" in name else name in self.nodes

    def __and__(self: Own, other: Circuit) -> Own:
        return self._with(self.mask & self._same_graph(other).mask, other)

    def __or__(self: Own, other: Circuit) -> Own:
        return self._with(self.mask | self._same_graph(other).mask, other)

    def __sub__(self: Own, other: Circuit) -> Own:
        return self._with(self.mask & ~self._same_graph(other).mask, other)

    def __xor__(self: Own, other: Circuit) -> Own:
        return self._with(self.mask ^ self._same_graph(other).mask, other)

    def __le__(self, other: Circuit) -> bool:
        return not (self.mask & ~self._same_graph(other).mask).any()

    def __ge__(self, other: Circuit) -> bool:
        return other <= self

    @property
    def strength(self) -> NDArray[np.float64]:
        """[writers]: the largest |score| of a kept edge out of or into each node; 0 without any."""
        size = np.abs(self.scores) * self.mask
        out = size.max(axis=1)
        for reader, into in zip(self.graph.readers, size.max(axis=0), strict=True):
            nodes = list(reader.nodes)
            out[nodes] = np.maximum(out[nodes], into)
        return out

    def jaccard(self, other: Circuit) -> float:
        """Shared edges over all edges of the two; 1 for two empty circuits."""
        return jaccard(self.mask, self._same_graph(other).mask)

    def without(self: Own, *nodes: str) -> Own:
        """Less every edge that leaves or enters these nodes, such as "a3.h1" or "m2".

        A key or value that a group of heads shares goes with any of them. InputError for a node
        that the graph does not have.
        """
        mask = self.mask.copy()
        for name in nodes:
            writer = self.graph.writer_index.get(name)
            if writer is None:
                raise InputError(f"node {name!r} does not exist in this graph"
                                 f" ({self.graph.describe()})")  # fmt: skip
            mask[writer] = False
            mask[:, [writer in reader.nodes for reader in self.graph.readers]] = False
        return replace(self, mask=mask)

    def _with(self: Own, mask: NDArray[np.bool_], other: Circuit) -> Own:
        return replace(self, mask=mask, scores=np.where(self.mask, self.scores, other.scores))

    def _same_graph(self, other: Circuit) -> Circuit:
        if self.graph != other.graph:
            raise InputError(
                f"circuits of two graphs: {self.graph.describe()}, and {other.graph.describe()}"
            )
        return other

    def without_spans(self) -> Circuit:
        """The circuit over all positions: edges that are in at any span, scores summed over them.

        It does more than this one: a kept edge is kept everywhere.
        """
        g = self.graph
        if g.spans == ALL:
            return self
        inner = g.by_span(self.scores)[..., :-1].sum(0)
        scores = np.column_stack([inner, self.scores[:, -1]])
        return Circuit(g.plain, np.any(g.by_span(self.mask), axis=0), scores)

    # ---- as a graph ----------------------------------------------------------------------------

    def to_networkx(self) -> nx.MultiDiGraph:
        """Nodes as writers are named, and "logits"; an edge for each query, key or value.

        Edges have `reader` (its name) as key and attribute, and `score`. A shared key or value
        enters each head of its group.
        """
        out = nx.MultiDiGraph()
        out.add_nodes_from(self.nodes)
        for w, r in np.argwhere(self.mask).tolist():
            for node in self._ends(r):
                about = {"reader": self.graph.readers[r].name, "score": float(self.scores[w, r])}
                out.add_edge(self.graph.writers[w], node, key=about["reader"], **about)
        return out

    def _ends(self, reader: int) -> list[str]:
        """The nodes that a reader feeds."""
        nodes = self.graph.readers[reader].nodes
        return [self.graph.writers[n] for n in nodes] or ["logits"]

    def pruned(self: Own) -> Own:
        """Without dangling edges: only those on a path from `input` to `logits`.

        Under resample ablation the output does not change: a writer none of whose inputs is kept
        has its corrupted value. Under zero or mean ablation it may. With spans a path goes from
        token to token: through a head from a key's or value's span to those that see it.
        """
        mask = np.zeros_like(self.mask)
        for edge in self.steps():
            mask[edge] = True
        return replace(self, mask=mask)

    def steps(self) -> dict[tuple[int, int], list[tuple[Any, Any]]]:
        """Edges on a path from `input` to `logits`, (writer, reader), and their steps on paths.

        A step is from a (writer, span) to a (writer, span) that the reader shapes, or to "logits".
        """
        walk = nx.DiGraph()
        walk.add_nodes_from([START, END])
        walk.add_edges_from((START, (0, s)) for s in range(len(self.graph.spans)))
        edges = {(w, r): self._joined(w, r) for w, r in np.argwhere(self.mask).tolist()}
        walk.add_edges_from(step for steps in edges.values() for step in steps)
        alive = nx.descendants(walk, START) & nx.ancestors(walk, END) | {START, END}
        found = {e: [s for s in steps if alive.issuperset(s)] for e, steps in edges.items()}
        return {edge: steps for edge, steps in found.items() if steps}

    def _joined(self, writer: int, reader: int) -> list[tuple[Any, Any]]:
        """What an edge joins: a (writer, span) and those (writer, span) that its reader shapes."""
        g = self.graph
        shaped = [(n, s) for n in g.readers[reader].shapes for s in g.shaped_at(reader)] or [END]
        return [((writer, s), to) for s in g.read_at(reader) for to in shaped]

    # ---- EAP-IG's JSON -------------------------------------------------------------------------

    def to_json(self, **about: Any) -> dict[str, Any]:
        """EAP-IG's graph format (also MIB's), with `about` as further top-level members.

        Lists every edge that is in the graph or has a score; an edge not listed has score 0 and
        is out, as that format's readers take it. A shared k or v edge is written once for each of
        its query heads, since the format knows no groups. It knows no spans either: other programs
        read `without_spans()`.
        """
        g = self.graph
        names = set(self.nodes)
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
        own = {"n_kv_heads": g.n_kv_heads, "has_mlp": g.has_mlp, "kv": g.kv, "joint": g.joint}
        own |= {} if g.spans == ALL else {"spans": asdict(g.spans)}
        return {"cfg": cfg, "nodes": nodes, "edges": edges, "graph": own, **about}

    def split_json(self, **about: Any) -> tuple[dict[str, Any], bytes]:
        """The kept edges alone as `to_json`, whose member `scores` names the file for the rest.

        That file, SCORES, is to lie beside it: scores [writers, readers], the names of both axes.
        """
        kept = replace(self, scores=np.where(self.mask, self.scores, 0.0))
        out, readers = BytesIO(), [reader.name for reader in self.graph.readers]
        np.savez_compressed(
            out, scores=self.scores, writers=np.array(self.graph.writers), readers=np.array(readers)
        )
        return kept.to_json(scores=SCORES, **about), out.getvalue()

    def _ungrouped(self, reader: Reader) -> list[str]:
        if reader.part not in ("q", "k", "v"):
            return [reader.name]
        at = "" if self.graph.spans == ALL else f"@{self.graph.spans.names[reader.span]}"
        return [f"{self.graph.writers[n]}<{reader.part}>{at}" for n in reader.nodes]

    @staticmethod
    def from_json(data: Mapping[str, Any], graph: Graph | None = None) -> Circuit:
        """Read EAP-IG's format; edges are looked up by name, missing ones are out with score 0.

        `graph` gives what the format does not say (key/value groups, no MLPs); without it the
        file's own `graph` member is used, or plain multi-head attention with MLPs. Spans are the
        file's. InputError on missing members, unknown edges, and groups whose copies disagree.
        """
        try:
            cfg, edges = data["cfg"], data["edges"]
            own = data.get("graph", {})
            sizes = cfg["n_layers"], cfg["n_heads"], own.get("n_kv_heads", cfg["n_heads"])
            graph = graph or Graph(
                *sizes, cfg["d_model"], own.get("has_mlp", True), cfg["parallel_attn_mlp"],
                own.get("kv", "per_query_head"), own.get("joint", False),
            )  # fmt: skip
            if "spans" in own and (spans := read_spans(own["spans"])).names != graph.spans.names:
                graph = replace(graph, spans=spans)
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
        """Read a JSON file, and its scores beside it; see `from_json`.

        acdc.circuit_files.load takes tensors too.
        """
        return Circuit.from_json(read_json(path), graph)


def jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Members of both masks over members of either; 1 for two empty ones."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def read_json(path: Path | str) -> Any:
    """What a circuit file holds, all its scores among the edges; InputError if it cannot be read.

    See `Circuit.split_json` for scores that lie in a file of their own.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"circuit file {path}: {error}") from error
    if not isinstance(data, dict) or "scores" not in data:
        return data
    if data["scores"] != SCORES:
        raise InputError(
            f"circuit file {path}: scores={str(data['scores'])[:80]!r}; allowed is {SCORES!r}"
        )
    kept = Circuit.from_json(data)
    scores = _read_scores(Path(path).with_name(SCORES), path, kept.graph)
    whole = replace(kept, scores=np.where(kept.mask, kept.scores, scores)).to_json()
    return {**{k: v for k, v in data.items() if k != "scores"}, "edges": whole["edges"]}


def _read_scores(file: Path, named_by: Path | str, graph: Graph) -> NDArray[np.float64]:
    """[writers, readers] of the file beside a circuit; InputError if there is none that fits."""
    if not file.is_file():
        raise InputError(
            f"circuit file {named_by}: its scores are in {SCORES} beside it, which is missing; take"
            " both along, or make one file of them: circuits export FOLDER --out circuit.json"
        )
    try:
        with np.load(file, allow_pickle=False) as found:
            size = sum(entry.file_size for entry in found.zip.infolist())
            if size > LARGEST:
                raise InputError(f"{file}: unpacks to {size >> 20} MiB; at most {LARGEST >> 20}")
            scores = np.asarray(found["scores"], dtype=float)
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise InputError(f"{file}: no scores that can be read ({error})") from error
    if scores.shape != graph.legal.shape:
        raise InputError(
            f"{file}: scores {scores.shape} must be [writers, readers] = {graph.legal.shape} of"
            f" {named_by}"
        )
    return np.where(graph.legal, scores, 0.0)


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
            " heads; a shared edge must be in for all or none (kv=per_query_head keeps them apart)"
        )
    return Circuit(graph, mask, scores)
