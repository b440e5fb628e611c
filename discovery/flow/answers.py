"""The information flow route of one prompt: what is asked, what is found, and that as plain values.

The route itself is that of discovery/flow/routes.py (Ferrando & Voita 2024); it knows no
intervention, so it proposes and proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from acdc.bridge import LoadedModel
from discovery.flow.routes import THRESHOLD, Kind, Route, find_route
from discovery.flow.shares import flow_graph


@dataclass(frozen=True)
class Question:
    """One prompt, and the state or the logit that its route starts from."""

    ids: tuple[int, ...]
    position: int  # from 0
    target: tuple[int, ...]  # tokens whose mean logit is the start; empty: the state itself
    contrast: tuple[int, ...]  # tokens whose mean logit is subtracted


@dataclass(frozen=True)
class Answer:
    """A route, and the logit that it starts from."""

    question: Question
    route: Route
    logit: float | None  # of the target, less that of the contrast; None from a state


def find_answer(
    question: Question,
    loaded: LoadedModel,
    threshold: float = THRESHOLD,
    renormalise: bool = True,
) -> Answer:
    """Decompose every state of the prompt and walk down.

    InputError as in flow_graph and find_route.
    """
    graph = flow_graph(
        loaded.model, torch.tensor([question.ids]), position=question.position,
        right=(question.target,) if question.target else None,
        wrong=(question.contrast,) if question.contrast else None,
    )  # fmt: skip
    start = None if question.target else question.position
    route = find_route(graph, position=start, threshold=threshold, renormalise=renormalise)
    return Answer(question, route, None if graph.logit is None else graph.logit.value.item())


def texts(loaded: LoadedModel, ids: tuple[int, ...]) -> list[str]:
    """One text a token; its id where the model has no tokenizer."""
    if loaded.tokenizer is None:
        return [str(token) for token in ids]
    return [loaded.tokenizer.decode([token]) for token in ids]


def to_json(answer: Answer, loaded: LoadedModel) -> dict[str, Any]:
    """The whole route as plain values.

    `nodes` are residual states by TransformerLens' names with the flow through them, `edges` go
    from the token `source` to the token `target` (head null: no head; direct: into the logit), with
    their share of the state above and the flow through them. Constants (b_O, and into the logit the
    final norm's bias and b_U) are edges of kind "constant", from nowhere: their source is null.
    """
    question, route = answer.question, answer.route
    named = lambda ids: [  # noqa: E731
        {"id": i, "text": t} for i, t in zip(ids, texts(loaded, ids), strict=True)
    ]
    return {
        "model": loaded.model.name,
        "tokens": named(question.ids),
        "start": {
            "kind": "logit" if question.target else "state",
            "position": question.position,
            "target": named(question.target),
            "contrast": named(question.contrast),
            "logit": answer.logit,
        },
        "threshold": route.threshold,
        "renormalised": route.renormalised,
        "flow": {
            "input": route.input.tolist(),
            "constants": route.constant,
            "dropped": route.lost,
        },
        "dead_ends": route.dead_ends,
        "shared_by_size": route.undefined,
        "nodes": _nodes(route),
        "edges": [_edge(row) for row in rows(route)],
    }


def _nodes(route: Route) -> list[dict[str, Any]]:
    """States that are reached, from the top down."""
    flow, n_layers = route.states.numpy(), (len(route.states) - 1) // 2
    out = []
    for level, position in np.argwhere(flow > 0)[::-1].tolist():
        layer, after_attention = divmod(level, 2)
        name = "resid_mid" if after_attention else "resid_pre"
        if layer == n_layers:
            layer, name = layer - 1, "resid_post"
        node = {"state": name, "layer": layer, "position": position}
        out.append({**node, "flow": float(flow[level, position])})
    return out


def rows(route: Route) -> list[dict[str, Any]]:
    """Its edges, a mapping each; see discovery/flow/routes.py."""
    names = route.edges.dtype.names or ()
    return [dict(zip(names, row, strict=True)) for row in route.edges.tolist()]


def _edge(row: dict[str, Any]) -> dict[str, Any]:
    kind = Kind(row["kind"])
    final = kind is Kind.CONSTANT and row["direct"]
    return {
        "kind": kind.name.lower(),
        "layer": None if kind is Kind.INPUT or final else row["layer"],
        "head": row["head"] if kind is Kind.HEAD else None,
        "source": None if kind is Kind.CONSTANT else row["source"],
        "target": row["target"],
        "direct": row["direct"],
        "share": row["share"],
        "flow": row["flow"],
    }
