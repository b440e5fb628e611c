"""A circuit as an attribution graph of Neuronpedia and circuit-tracer (graph-schema 1.0.0).

That format is of one prompt, its nodes at positions. A circuit of heads and MLPs is over all
positions, so every node stands at the answer's, but for the embedding, which is at the first. A
node's `feature` is its place in its layer, heads first; q, k and v of a head are one node, so a
link has the sum of its edges' scores, and says them singly in `parts`. Supernodes are the roles
that scores suggest for a head. What a circuit has not is left out: activation, influence,
probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acdc.circuit import Circuit


def attribution_graph(
    circuit: Circuit, prompt: list[str], roles: Mapping[str, list[str]], scan: str, slug: str
) -> dict[str, Any]:
    """The graph's JSON.

    `prompt` are the texts of one prompt's tokens, `roles` names heads by role, `scan` is the model
    as Neuronpedia calls it. Links add up signed scores, in the circuit's unit.
    """
    end = max(0, len(prompt) - 1)
    nodes = {name: _node(circuit, name, end) for name in circuit.to_networkx().nodes}
    ids = {name: node["node_id"] for name, node in nodes.items()}
    parts = dict[tuple[str, str], dict[str, float]]()
    for source, target, about in circuit.to_networkx().edges(data=True):
        part = about["reader"].partition("<")[2].rstrip(">") or "in"
        parts.setdefault((source, target), {})[part] = about["score"]
    links = [
        {"source": ids[u], "target": ids[v], "weight": sum(own.values()), "parts": own}
        for (u, v), own in parts.items()
    ]
    supernodes = [
        [role, *own]
        for role, heads in roles.items()
        if (own := [ids[head] for head in heads if head in ids])
    ]
    about = "A circuit of heads and MLPs over all positions; nodes stand at the answer's."
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


def _node(circuit: Circuit, name: str, end: int) -> dict[str, Any]:
    graph = circuit.graph
    if name == "input":
        layer, feature, kind, at = "E", 0, "embedding", 0
    elif name == "logits":
        layer, feature, kind, at = str(graph.n_layers + 1), 0, "logit", end
    else:
        number, feature = graph.place(graph.writer_index[name])
        kind = "head" if graph.is_head(graph.writer_index[name]) else "mlp"
        layer, at = str(number), end
    return {
        "node_id": f"{layer}_{feature}_{at}", "jsNodeId": f"{layer}_{feature}-{at}",
        "feature": feature, "layer": layer, "ctx_idx": at, "feature_type": kind, "clerp": name,
    }  # fmt: skip
