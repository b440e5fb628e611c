"""Files of circuits and scores, in the two forms of EAP-IG and MIB: JSON, and tensors (.pt).

JSON is what `Circuit.to_json` says. The other is a `torch.save` of a dictionary of

    cfg                                  n_layers, n_heads, parallel_attn_mlp, d_model
    src_nodes, dst_nodes                 names of the rows and columns
    edges_scores, edges_in_graph         [writers, readers], readers as a graph without groups
    nodes_in_graph                       [writers]

in the order of `Graph`'s writers and readers; what lies at no edge is not looked at. Only tensors
and plain containers are read, never objects. Both forms come as the JSON's dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from acdc.circuit import Circuit, read_json
from acdc.errors import InputError, first_line
from acdc.graph import Graph
from acdc.spans import positions_of

TENSORS = ".pt"


def read(path: Path | str) -> Any:
    """What a circuit file holds, in the JSON's form; InputError if it cannot be read."""
    path = Path(path)
    if path.suffix == TENSORS:
        return _from_tensors(path, _loaded(path))
    return read_json(path)


def load(path: Path | str, graph: Graph | None = None) -> Circuit:
    """The circuit of a file in either form; see `Circuit.from_json`.

    InputError also if its edges are of other spans than the graph's.
    """
    found = Circuit.from_json(read(path), graph)
    if graph is not None and found.graph.spans.names != graph.spans.names:
        own, wanted = found.graph.spans, graph.spans
        raise InputError(
            f"circuit file {path}: its edges are of the spans {' '.join(own.names) or 'none'}, the"
            f" graph's of {' '.join(wanted.names) or 'none'}; give"
            f" graph.positions={positions_of(own)}, and prompts with the same marks"
        )
    return found


def tensors(data: Mapping[str, Any]) -> bytes:
    """The JSON's dictionary as a file of tensors; InputError where a member is missing.

    Further members, ours among them, have no place there.
    """
    graph = _plain(data.get("cfg"))
    edges = data["edges"]
    scores, inside = np.zeros(graph.legal.shape), np.zeros_like(graph.legal)
    for name, entry in edges.items():
        edge = graph.edge(name)
        scores[edge], inside[edge] = entry["score"], entry["in_graph"]
    nodes = [bool(data["nodes"].get(name, {}).get("in_graph")) for name in graph.writers]
    out = BytesIO()
    torch.save(
        {
            "cfg": dict(data["cfg"]),
            "src_nodes": list(graph.writers),
            "dst_nodes": [reader.name for reader in graph.readers],
            "edges_scores": torch.from_numpy(scores),
            "edges_in_graph": torch.from_numpy(inside),
            "nodes_in_graph": torch.tensor(nodes),
        },
        out,
    )
    return out.getvalue()


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"circuit file {path}: holds something else than tensors and plain containers, which"
            " may run code when it is read, so it is not read"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"circuit file {path}: {first_line(error)}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"circuit file {path}: holds a {type(found).__name__}, not a dictionary")
    return found


def _from_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    try:
        graph = _plain(found["cfg"])
        scores, inside, nodes = (
            found[name].numpy() for name in ("edges_scores", "edges_in_graph", "nodes_in_graph")
        )
    except (KeyError, AttributeError) as error:
        raise InputError(f"circuit file {path}: missing or malformed member ({error})") from error
    readers = [reader.name for reader in graph.readers]
    own = {"src_nodes": list(graph.writers), "dst_nodes": readers}
    shape = (len(graph.writers), len(readers))
    for name, names in own.items():
        if list(found.get(name, names)) != names:
            raise InputError(
                f"circuit file {path}: {name} are not the {len(names)} of {graph.describe()}"
            )
    if scores.shape != shape or inside.shape != shape or nodes.shape != shape[:1]:
        raise InputError(
            f"circuit file {path}: edges_scores {scores.shape}, edges_in_graph {inside.shape} and"
            f" nodes_in_graph {nodes.shape} must be [writers, readers] = {shape} and {shape[:1]}"
        )
    edges = {
        graph.edge_name(w, r): {"score": float(scores[w, r]), "in_graph": bool(inside[w, r])}
        for w, r in np.argwhere(graph.legal).tolist()
    }
    kept = {name: {"in_graph": bool(on)} for name, on in zip(graph.writers, nodes, strict=True)}
    return {"cfg": dict(found["cfg"]), "nodes": {**kept, "logits": {"in_graph": True}},
            "edges": edges}  # fmt: skip


def _plain(cfg: Any) -> Graph:
    """The graph of these sizes in which every query head has a key and a value of its own."""
    try:
        heads = cfg["n_heads"]
        return Graph(
            cfg["n_layers"], heads, heads, cfg["d_model"], parallel=cfg["parallel_attn_mlp"]
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"circuit file: missing or malformed member of cfg ({error})") from error
