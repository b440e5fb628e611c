"""One route: what the settings of conf/route.yaml ask of a model, and how it is shown."""

from __future__ import annotations

from pathlib import Path

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from discovery.flow.answers import Answer, Question, rows, texts
from discovery.flow.drawing import draw_route
from discovery.flow.routes import Kind
from discovery.flow.shares import checked_position
from discovery.job.build import task_prompts
from discovery.settings.run import RouteSettings
from discovery.tasks.tokens import bos_id, encode, require_single_token, with_bos

LARGEST = 12  # edges in the printed table


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


def table(answer: Answer, loaded: LoadedModel) -> str:
    """The heads' and MLPs' largest edges, and where the flow ends."""
    question, route = answer.question, answer.route
    names = [f"{text!r} ({i})" for i, text in enumerate(texts(loaded, question.ids))]
    found = [row for row in rows(route) if row["kind"] in (Kind.HEAD, Kind.MLP)]
    found.sort(key=lambda row: -row["flow"])
    lines = [f"{'flow':>7}  {'edge':10}{len(found)} of heads and MLPs, the largest:"]
    for row in found[:LARGEST]:
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
