"""The information flow route of one prompt: what is asked, what is found, how it is written down.

Takes the settings of conf/route.yaml and a loaded model. The route itself is that of
discovery/flow/routes.py (Ferrando & Voita 2024); it knows no intervention, so it proposes and
proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from discovery.flow.drawing import draw_route
from discovery.flow.routes import Kind, Route, find_route
from discovery.flow.shares import checked_position, flow_graph
from discovery.job.build import task_prompts
from discovery.settings.run import RouteSettings
from discovery.tasks.tokens import bos_id, encode, require_single_token, with_bos

LARGEST = 12  # edges in the printed table


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


def read_question(settings: RouteSettings, loaded: LoadedModel) -> Question:
    """What the settings ask of this model; InputError, one sentence, for what cannot be asked."""
    target, contrast = (
        _token(loaded, name, value)
        for name, value in (("target", settings.target), ("contrast", settings.contrast))
    )
    if settings.task is None:
        ids = _encoded(settings, loaded)
        return Question(ids, _position(settings.position, len(ids)), target, contrast)
    prompts = task_prompts(settings.task, loaded, settings.seed).reading(0)
    if settings.prompt >= len(prompts):
        raise InputError(
            f"prompt={settings.prompt}: the task has {len(prompts)} prompts, so allowed are"
            f" 0 to {len(prompts) - 1}; task.n sets their number"
        )
    ids = tuple(prompts.tokens(settings.prompt))
    if not target and not settings.from_state:
        target = prompts.answers[settings.prompt]
    if contrast and not target:
        raise InputError(f"contrast={settings.contrast!r}: the task names no answer, so add target")
    return Question(ids, len(ids) - 1, target, contrast)


def find_answer(
    question: Question, loaded: LoadedModel, threshold: float, renormalise: bool
) -> Answer:
    """Decompose every state of the prompt and walk down. InputError as in flow_graph."""
    graph = flow_graph(
        loaded.model, torch.tensor([question.ids]), position=question.position,
        right=(question.target,) if question.target else None,
        wrong=(question.contrast,) if question.contrast else None,
    )  # fmt: skip
    start = None if question.target else question.position
    route = find_route(graph, position=start, threshold=threshold, renormalise=renormalise)
    return Answer(question, route, None if graph.logit is None else graph.logit.value.item())


def _encoded(settings: RouteSettings, loaded: LoadedModel) -> tuple[int, ...]:
    """Token ids of the text, or the ids themselves."""
    if settings.ids is not None:
        if settings.prepend_bos:
            raise InputError("prepend_bos=true is for text; ids are taken as they are")
        if not settings.ids:
            raise InputError("ids=[]: at least one token is needed")
        for token in settings.ids:
            _check_id(loaded, f"ids holds {token}", token)
        return settings.ids
    assert settings.text is not None  # settings: exactly one of text, ids and task is given
    if loaded.tokenizer is None:
        raise InputError(
            f"text={settings.text!r}: this model has no tokenizer; give ids=[...] instead"
        )
    ids = encode(loaded.tokenizer, settings.text)
    if not ids:
        raise InputError("text is empty: at least one token is needed")
    for token in ids:
        _check_id(loaded, f"text holds {loaded.tokenizer.decode([token])!r}, token {token}", token)
    if not settings.prepend_bos:
        return tuple(ids)
    return tuple(with_bos(ids, bos_id(loaded.tokenizer, "prepend_bos")))


def _position(position: int, n: int) -> int:
    if not -n <= position < n:
        raise InputError(
            f"position={position}: the prompt has {n} tokens, so allowed are {-n} to {n - 1}"
        )
    return checked_position(position, n)


def _token(loaded: LoadedModel, name: str, value: int | str | None) -> tuple[int, ...]:
    """The one id of `target` or `contrast`, or nothing."""
    if value is None:
        return ()
    if isinstance(value, str):
        if loaded.tokenizer is None:
            raise InputError(f"{name}={value!r}: this model has no tokenizer; give the token's id")
        value = require_single_token(loaded.tokenizer, value, f"{name}={value!r}")
    _check_id(loaded, f"{name}={value}", value)
    return (value,)


def _check_id(loaded: LoadedModel, what: str, token: int) -> None:
    if not 0 <= token < loaded.model.d_vocab:
        raise InputError(f"{what}: outside the model's vocabulary 0..{loaded.model.d_vocab - 1}")


# ---- what is written and printed ---------------------------------------------------------------


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
        "edges": [_edge(row) for row in _rows(route)],
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


def _rows(route: Route) -> list[dict[str, Any]]:
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


def table(answer: Answer, loaded: LoadedModel) -> str:
    """The heads' and MLPs' largest edges, and where the flow ends."""
    question, route = answer.question, answer.route
    names = [f"{text!r} ({i})" for i, text in enumerate(texts(loaded, question.ids))]
    rows = [row for row in _rows(route) if row["kind"] in (Kind.HEAD, Kind.MLP)]
    rows.sort(key=lambda row: -row["flow"])
    lines = [f"{'flow':>7}  {'edge':10}{len(rows)} of heads and MLPs, the largest:"]
    for row in rows[:LARGEST]:
        head = f"a{row['layer']}.h{row['head']}"
        name = f"m{row['layer']}" if row["kind"] == Kind.MLP else head
        end = "the logit" if row["direct"] else names[row["target"]]
        start = names[row["source"]]
        lines.append(f"{row['flow']:7.4f}  {name:10}{start} -> {end}")
    ends = sorted(enumerate(route.input.tolist()), key=lambda pair: -pair[1])[:5]
    lines.append("ends in " + ", ".join(f"{names[i]} {flow:.1%}" for i, flow in ends if flow))
    lines.append(f"constants {route.constant:.1%}, dropped {abs(route.lost):.1%}")
    return "\n".join(lines)


def draw(answer: Answer, loaded: LoadedModel, folder: Path) -> Path:
    """route.png and route.svg; returns the former."""
    question = answer.question
    shown = texts(loaded, question.ids)
    top = f"state at {shown[question.position]!r}"
    if question.target:
        top = "logit of " + _listed(loaded, question.target)
    if question.contrast:
        top += " − " + _listed(loaded, question.contrast)
    title = f"Information flow route in {loaded.model.name}"
    return draw_route(
        folder, answer.route, shown, top=top, title=title, subtitle="".join(shown)
        if loaded.tokenizer is not None else " ".join(shown),
    )[0]  # fmt: skip


def _listed(loaded: LoadedModel, ids: tuple[int, ...]) -> str:
    named = [repr(text) for text in texts(loaded, ids[:3])]
    return ", ".join(named) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
