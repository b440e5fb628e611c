"""A circuit as an attribution graph of Neuronpedia and circuit-tracer (graph-schema 1.0.0).

That format is of one prompt, its nodes at positions. A circuit over all positions has every node at
the answer's, but for the embedding, which is at the first; one over spans has a node at the last
token of each span at which a path passes through it. A node's `feature` is its place in its layer,
heads first; q, k and v of a head are one node, so a link has the sum of its edges' scores, and says
them singly in `parts`. Supernodes are the roles that scores suggest for a head. What a circuit has
not is left out: activation, influence, probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from acdc.circuit import END, Circuit
from acdc.names import parse
from acdc.schema import ALL

Place = tuple[str, int]  # a node, and the span at which it is; 0 without spans


def attribution_graph(
    circuit: Circuit, prompt: list[str], roles: Mapping[str, list[str]], scan: str, slug: str,
    spans: Mapping[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The graph's JSON.

    `prompt` are the texts of one prompt's tokens, `roles` names heads by role, `scan` is the model
    as Neuronpedia calls it, `spans` has the last token of each span in that prompt. Links add up
    signed scores, in the circuit's unit.
    """
    end = max(0, len(prompt) - 1)
    joined, at = list(_joined(circuit)), spans or {}
    whole = circuit.graph.spans == ALL
    places = [(name, 0) for name in circuit.nodes] if whole else []
    places += [place for edge in joined for place in edge[:2]]
    nodes = dict[Place, dict[str, Any]]()
    for name, span in dict.fromkeys(places):
        here = end if whole or name == END else at.get(span, end)
        nodes[name, span] = _node(circuit, name, 0 if whole and name == "input" else here)
    ids = {place: node["node_id"] for place, node in nodes.items()}
    parts = dict[tuple[Place, Place], dict[str, float]]()
    for source, target, part, score in joined:
        parts.setdefault((source, target), {})[part] = score
    links = [
        {"source": ids[u], "target": ids[v], "weight": sum(own.values()), "parts": own}
        for (u, v), own in parts.items()
    ]
    supernodes = [
        [role, *own]
        for role, heads in roles.items()
        if (own := [ids[place] for head in heads for place in ids if place[0] == head])
    ]
    about = "A circuit of heads and MLPs over all positions; nodes stand at the answer's."
    if not whole:
        about = "A circuit of heads and MLPs over spans; nodes stand at the last token of theirs."
    return {
        "metadata": {
            "slug": slug, "scan": scan, "transcoder_list": [], "prompt_tokens": prompt,
            "prompt": "".join(prompt), "schema_version": 1, "info": {"description": about},
        },
        "qParams": {
            "pinnedIds": list(ids.values()), "supernodes": supernodes, "linkType": "both",
            "clickedId": "", "sg_pos": "",
        },
        "nodes": list(nodes.values()),
        "links": links,
    }  # fmt: skip


def _joined(circuit: Circuit) -> Iterator[tuple[Place, Place, str, float]]:
    """Source, target, what of it is fed, and score: of each edge, with spans of each step."""
    graph = circuit.graph
    if graph.spans == ALL:
        for source, target, about in circuit.to_networkx().edges(data=True):
            name = parse(about["reader"])
            yield (source, 0), (target, 0), (name and name.part) or "in", about["score"]
        return
    for (w, r), steps in circuit.steps().items():
        part = graph.readers[r].part
        for (writer, here), to in steps:
            target = (END, 0) if to == END else (graph.writers[to[0]], to[1])
            fed = part if part in ("q", "k", "v") else "in"
            yield (graph.writers[writer], here), target, fed, float(circuit.scores[w, r])


def _node(circuit: Circuit, name: str, at: int) -> dict[str, Any]:
    graph = circuit.graph
    if name == "input":
        layer, feature, kind = "E", 0, "embedding"
    elif name == "logits":
        layer, feature, kind = str(graph.n_layers + 1), 0, "logit"
    else:
        number, feature = graph.place(graph.writer_index[name])
        kind = "head" if graph.is_head(graph.writer_index[name]) else "mlp"
        layer = str(number)
    return {
        "node_id": f"{layer}_{feature}_{at}", "jsNodeId": f"{layer}_{feature}-{at}",
        "feature": feature, "layer": layer, "ctx_idx": at, "feature_type": kind, "clerp": name,
    }  # fmt: skip
