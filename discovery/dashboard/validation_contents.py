"""From validation.json to what the Validation view shows; as distrustful as contents.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovery.dashboard.contents import Plain, inner, number, numbers, rows, text
from discovery.validation.rungs import circuit_input, cut_edges

VERDICT_TEXTS = ("name", "question", "says", "figures")
CELL_TEXTS = ("direction", "ablation", "granularity", "positions")
ALIKE = ("kl_share", "error_share", "correlation", "accuracy")  # two-sided


def validation(data: Plain) -> Plain | None:
    """The verdict with its three figures, prompts, origin; then every test and what it rests on."""
    if not data:
        return None
    complete = inner(data, "completeness")
    worst = inner(complete, "worst")
    return {
        "about": numbers(data, ("n_prompts", "n_edges"))
        | {k: text(data.get(k), 80) for k in ("score", "unit", "zero")},
        "decision": _decision(inner(data, "decision")),
        "next": _texts(data.get("next")),
        "samples": [_sample(row) for row in rows(data.get("samples"), 20)],
        "provenance": _provenance(inner(data, "provenance")),
        "headline": text(data.get("headline")),
        "model": number(inner(data, "model_values").get("score")),
        "empty": number(inner(data, "empty_values").get("score")),
        "circuit": numbers(inner(data, "circuit_values"), ("score", *ALIKE)),
        "verdicts": [_verdict(v) for v in rows(data.get("verdicts"))],
        "ladder": [_rung(row) for row in rows(data.get("scrubbing"))],
        "cells": [_cell(c) for c in rows(inner(data, "faithfulness").get("cells"))],
        "knockouts": [
            {"search": text(t.get("search"), 40), "nodes": _names(t.get("nodes"))}
            | numbers(t, ("model", "circuit"))
            for t in rows(complete.get("tried"))
        ],
        "worst": {"nodes": _names(worst.get("nodes"))} | numbers(worst, ("model", "circuit")),
        "left_out": [
            {k: text(one.get(k), 200) for k in ("part", "ask")} | numbers(one, ("minutes",))
            for one in rows(data.get("left_out"))
        ],
        "tests": [
            {k: text(t.get(k)) for k in ("name", "null", "correction")}
            | numbers(t, ("statistic", "p_value", "n"))
            for t in rows(data.get("tests"))
        ],
    }


def _decision(found: Mapping[str, Any]) -> Plain | None:
    """The verdict and its figures; None in files before 2026-11-27, which have none."""
    figures = [_figure(row) for row in rows(found.get("figures"), 10)]
    if not figures:
        return None
    return {"heading": text(found.get("heading"), 200), "figures": figures}


def _figure(row: Mapping[str, Any]) -> Plain:
    words = {k: text(row.get(k), 400) for k in ("question", "said", "scale")}
    return words | {
        "good": _answer(row.get("good")),
        "share": _interval(row.get("share")),
        "baselines": _numbers(list(inner(row, "baselines").values())),
        "borders": _numbers(row.get("borders")),
    }


def _sample(row: Mapping[str, Any]) -> Plain:
    said = {"prompt": text(row.get("prompt")), "answers": _texts(row.get("answers"))}
    return said | numbers(row, ("model", "circuit", "empty"))


def _provenance(found: Mapping[str, Any]) -> list[list[str]]:
    """Names and values; of an object its members in one text."""
    lines = []
    for name, value in list(found.items())[:40]:
        parts = [f"{k} {text(v, 200)}" for k, v in list(inner(value).items())[:40] if text(v)]
        said = ", ".join(parts) or text(value)
        lines += [[name[:60].replace("_", " "), said]] if said else []
    return lines


def _verdict(row: Mapping[str, Any]) -> Plain:
    words = {k: text(row.get(k)) for k in VERDICT_TEXTS}
    return words | {"holds": _answer(row.get("holds")), "counted": row.get("counted") is not False}


def _rung(row: Mapping[str, Any]) -> Plain:
    return {
        "cut_edges": cut_edges(text(row.get("resampled"), 120) or "?"),
        "input": circuit_input(text(row.get("inputs"), 120) or "?"),
        "recovered": _interval(row.get("recovered"), "value"),
        "zero": text(inner(row, "recovered").get("baseline"), 120),
    }


def _cell(row: Mapping[str, Any]) -> Plain:
    shares = {"share": _interval(row.get("ratio_of_means")), "gap": _interval(row.get("gap"))}
    return {k: text(row.get(k), 40) for k in CELL_TEXTS} | numbers(row, ALIKE) | shares


def _interval(value: object, estimate: str = "estimate") -> Plain | None:
    found = inner(value)
    point = number(found.get(estimate))
    if point is None:
        return None
    return {"value": point, "low": number(found.get("low")), "high": number(found.get("high"))}


def _answer(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _numbers(value: object) -> list[float | int]:
    found = [number(one) for one in (value if isinstance(value, list) else [])[:10]]
    return [one for one in found if one is not None]


def _texts(value: object) -> list[str]:
    found = value if isinstance(value, list) else []
    return [said for said in (text(one) for one in found[:20]) if said]


def _names(value: object) -> list[str]:
    found = value if isinstance(value, (list, tuple)) else []
    return [name for name in (text(v, 40) for v in found[:500]) if name is not None]
