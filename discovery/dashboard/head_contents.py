"""From heads.json to what the Heads view shows; as distrustful as contents.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovery.dashboard.contents import Plain, inner, number, numbers, rows, text, whole
from discovery.heads import rules

MOST_HEADS, MOST_PROMPTS, MOST_TOKENS, MOST_CELLS = 2000, 64, 2000, 600_000
MOST_SCORES = 40
SCORE_NUMBERS = ("value", "low", "high")


def heads(data: Plain) -> Plain | None:
    """What the scores mean, the shown prompts, and each head's roles, scores, attention and
    writing; None if no head is.

    A pattern is the rows of attention, a query each, one entry for every token up to it; one that
    does not fit its prompt is left out.
    """
    prompts = [_prompt(row) for row in rows(data.get("prompts"), MOST_PROMPTS)]
    found, room = [], MOST_CELLS
    for name, entry in list(inner(data, "heads").items())[:MOST_HEADS]:
        head = _head(name, inner(entry), prompts)
        room -= sum(len(p["tokens"]) ** 2 // 2 for p in prompts[: len(head["patterns"])])
        found.append(head if room >= 0 else head | {"patterns": []})
    return {"about": _about(data), "prompts": prompts, "heads": found} if found else None


def _about(data: Mapping[str, Any]) -> Plain:
    """The file's own words and threshold; before 2026-12 files had none, and ours were the same."""
    ours = rules.about()
    said = inner(data, "about") or ours
    scores = list(inner(said, "scores").items())[:MOST_SCORES]
    return {
        "attends": number(said.get("attends")),
        "scores": [
            {"name": text(name, 60)}
            | {k: text(inner(of).get(k), 200) for k in ("unit", "means")}
            | {"on": text(inner(of).get("on", inner(ours, "scores", name).get("on")), 40)}
            for name, of in scores
        ],
    }


def _prompt(row: Mapping[str, Any]) -> Plain:
    tokens = row.get("tokens")
    texts = [_token(t) for t in (tokens if isinstance(tokens, list) else [])[:MOST_TOKENS]]
    marks = {text(k, 40): whole(v, len(texts) - 1) for k, v in inner(row, "marks").items()}
    return {
        "tokens": texts,
        "answers": _tokens(row.get("answers")),
        "wrong": _tokens(row.get("wrong")),
        "marks": {name: at for name, at in marks.items() if at is not None},
    }


def _tokens(value: object) -> list[str]:
    return [_token(t) for t in (value if isinstance(value, list) else [])[:20]]


def _token(value: object) -> str:
    return text(value, 40) or "?"


def _head(name: str, entry: Mapping[str, Any], prompts: list[Plain]) -> Plain:
    scores = {
        text(key, 60): numbers(inner(score), SCORE_NUMBERS)
        for key, score in list(inner(entry, "scores").items())[:MOST_SCORES]
    }
    attention = {text(k, 80): number(v) for k, v in list(inner(entry, "attention").items())[:400]}
    patterns, writes = (_beside(entry.get(key), prompts) for key in ("patterns", "writes"))
    return {
        "name": name[:40],
        "candidates": _tokens(entry.get("candidates")),
        "scores": {name: score for name, score in scores.items() if score["value"] is not None},
        "attention": {k: v for k, v in attention.items() if v is not None},
        "patterns": [_pattern(p, n) for p, n in patterns],
        "writes": [[_write(place, n) for place in rows(places, 200)] for places, n in writes],
    }


def _beside(value: object, prompts: list[Plain]) -> list[tuple[Any, int]]:
    """What a list holds for each shown prompt, with the prompt's number of tokens."""
    lengths = [len(prompt["tokens"]) for prompt in prompts]
    return list(zip(value if isinstance(value, list) else [], lengths, strict=False))


def _pattern(value: object, n: int) -> list[list[float | int | None]] | None:
    """Its rows, if they are a triangle over the prompt's tokens."""
    lines = value if isinstance(value, list) else []
    if len(lines) != n:
        return None
    if any(not isinstance(line, list) or len(line) != i for i, line in enumerate(lines, 1)):
        return None
    return [[number(v) for v in line] for line in lines]


def _write(place: Mapping[str, Any], n: int) -> Plain:
    return {
        "position": whole(place.get("position"), n - 1),
        "for": _logits(place.get("for")),
        "against": _logits(place.get("against")),
    }


def _logits(value: object) -> list[list[Any]]:
    pairs = [p for p in (value if isinstance(value, list) else [])[:20] if isinstance(p, list)]
    return [[_token(p[0]), number(p[1])] for p in pairs if len(p) == 2]
