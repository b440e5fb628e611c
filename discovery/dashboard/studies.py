"""What the pages show of a sweep, of a comparison of methods, and of an analysis of components.

As in `contents`: values checked, nothing raised for the form of what JSON holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovery.dashboard.contents import (
    MOST_HEADS,
    MOST_LAYERS,
    Plain,
    inner,
    named,
    number,
    numbers,
    rows,
    text,
)

MOST_METHODS, MOST_SIZES, MOST_COMPONENTS, MOST_POINTS, MOST_TARGETS = 50, 200, 5000, 2000, 20
METHOD_NUMBERS = ("edges", "cpr", "cmd", "shared", "seconds")
POINT_NUMBERS = ("share", "requested", "n_edges", "metric", "faithfulness")
DIFFERENCE_NUMBERS = ("flow", "low", "high", "frequency", "adjusted_p")


def methods(data: Plain) -> Plain | None:
    """Methods of compare.json, the edges that each needs, the points of both rankings if any.

    None if it holds neither.
    """
    curves = list(inner(data, "curves").items())[:MOST_METHODS]
    needed = [
        {"method": text(row.get("method"), 60), "kl_share": number(row.get("KL share"))}
        | numbers(row, ("target", "edges", "accuracy", "seconds"))
        for row in rows(data.get("needed"), MOST_METHODS * MOST_TARGETS)
    ]
    if not curves and not needed:
        return None
    table = {text(row.get("method"), 60): row for row in rows(data.get("table"), MOST_METHODS)}
    first = inner(curves[0][1]) if curves else {}
    found = [
        {"method": text(name, 60)}
        | numbers(inner(table.get(text(name, 60))), METHOD_NUMBERS)
        | {ranking: _points(inner(curve, ranking)) for ranking in ("signed", "absolute")}
        for name, curve in curves
    ]
    return {
        "methods": found,
        "needed": needed,
        "about": {key: text(first.get(key), 60) for key in ("metric", "unit", "rule")}
        | numbers(first, ("model", "empty")),
    }


def _points(curve: Mapping[str, Any]) -> list[Plain]:
    return [numbers(row, POINT_NUMBERS) for row in rows(curve.get("points"), MOST_SIZES)]


def sweep(data: Plain) -> Plain | None:
    """Points of sweep.json: means over seeds with intervals, and whose they are; None without."""
    found = [
        {"series": text(row.get("series"), 200), "metric": text(row.get("metric"), 60)}
        | {"names": _names(row.get("names")), "front": row.get("front") is True}
        | {"threshold": number(row.get("threshold"))}
        | {key: _mean(inner(row, key)) for key in ("edges", "faithfulness", "value")}
        for row in rows(data.get("points"), MOST_POINTS)
    ]
    return {"points": [one for one in found if one["edges"]]} if found else None


def _names(value: object) -> list[str]:
    return [name for name in (value if isinstance(value, list) else []) if isinstance(name, str)]


def _mean(value: Mapping[str, Any]) -> Plain | None:
    found = numbers(value, ("mean", "low", "high"))
    return found if found["mean"] is not None else None


def components(data: Plain) -> Plain | None:
    """Sizes of the grid, flow by component of one data set or two, and how they differ.

    Components that are no head and no MLP (the input) have no place in the grid and are left out.
    None if the file names no head or MLP.
    """
    sets = [_flows(inner(data, name)) for name in ("task", "versus") if inner(data, name)]
    places = {name: at for one in sets for name in one["flow"] if (at := _place(name))}
    if not places:
        return None
    gap = inner(data, "difference")
    return {
        "start": text(data.get("start"), 20),
        "threshold": number(data.get("threshold")),
        "layers": 1 + max(layer for layer, _ in places.values()),
        "heads": 1 + max((head or 0 for _, head in places.values()), default=0),
        "mlp": any(head is None for _, head in places.values()),
        "sets": sets,
        "difference": _difference(gap, list(places)) if gap and len(sets) == 2 else None,
    }


def _flows(data: Mapping[str, Any]) -> Plain:
    given = list(inner(data, "components").items())[:MOST_COMPONENTS]
    flow = {
        name: numbers(inner(row), ("mean", "spread", "on_route"))
        for name, row in given
        if _place(name) and number(inner(row).get("mean")) is not None
    }
    return {"name": text(data.get("name"), 90), "flow": flow} | numbers(data, ("n_prompts",))


def _difference(gap: Mapping[str, Any], names: list[str]) -> Plain:
    named = gap.get("named")
    known = {name for name in named if isinstance(name, str)} if isinstance(named, list) else set()
    found = {name: numbers(inner(gap, "components", name), DIFFERENCE_NUMBERS) for name in names}
    return {
        "flow": {
            name: row | {"named": name in known}
            for name, row in found.items()
            if row["flow"] is not None
        }
    } | numbers(gap, ("confidence", "false_discoveries"))


def _place(name: str) -> tuple[int, int | None] | None:
    """Layer and head of a head, layer and None of an MLP; None for anything else."""
    found = named(name, MOST_LAYERS, MOST_HEADS)
    if found is None or not found.writes or found.kind == "input":
        return None
    return found.layer, found.index if found.kind == "head" else None
