"""From a run's files to what the pages show: numbers checked, texts cut, everything plain values.

Takes what JSON holds, whatever that is, and never raises for its form: a value of the wrong type
is None, a row that makes no sense is left out and counted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from acdc.errors import InputError
from acdc.names import Name, parse
from acdc.schema import ALL, Spans, read_spans
from discovery.choices.labels import model_folder, model_label, task_file, task_label
from discovery.dashboard.paths import steps

Plain = dict[str, Any]
LONGEST_TEXT = 4000
MOST_LAYERS, MOST_HEADS, MOST_EDGES, MOST_ROWS = 200, 200, 20_000, 20_000
MOST_DECISIONS, MOST_ROUTES, MOST_SPANS = 20_000, 100, 500
HIGHER = ("logit_diff", "prob_diff")  # is better; results before 2026-12 do not say


def number(value: object) -> float | int | None:
    """The value if it is a number that JSON and a browser can hold: no NaN, no infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e300 else None


def whole(value: object, most: int) -> int | None:
    """The value if it is an integer from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= most else None


def text(value: object, most: int = LONGEST_TEXT) -> str | None:
    """A string, cut; None for anything else but a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(number(value))
    if not isinstance(value, str):
        return None
    return value if len(value) <= most else value[: most - 1] + "…"


def pretty(value: Mapping[str, Any]) -> str | None:
    """The object as indented JSON, cut; None for an empty one."""
    try:
        return text(json.dumps(value, indent=2, ensure_ascii=False), 20_000) if value else None
    except RecursionError:
        return "Nested too deeply to be shown."


def inner(value: Any, *keys: str) -> Mapping[str, Any]:
    """The object below the keys, or an empty one."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def rows(value: Any, most: int = MOST_ROWS) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    found = value if isinstance(value, (list, tuple)) else []
    return [row for row in found[:most] if isinstance(row, Mapping)]


def numbers(row: Mapping[str, Any], names: Iterable[str]) -> Plain:
    """These members of a row as numbers."""
    return {name: number(row.get(name)) for name in names}


# ---- the runs table ----------------------------------------------------------------------------

RESULT_NUMBERS = (
    "n_edges", "n_edges_total", "n_edges_on_paths", "n_nodes", "n_tests", "faithfulness",
    "metric_clean", "metric_empty", "metric_circuit", "peak_memory_gib", "search_in_forwards",
)  # fmt: skip


def summary(config: Plain, result: Plain, last: Plain) -> Plain:
    """A line of the table. `last` is the newest line of the search, for runs without a result."""
    asked = inner(config, "config")
    method, model, task = (inner(asked, name) for name in ("method", "model", "task"))
    names = {
        "model": result.get("model", model_label(model)),
        "task": result.get("task", task_label(task)),
        "method": result.get("method", method.get("name")),
        **{key: result.get(key, _question(asked, method, key)) for key in ("metric", "ablation")},
    }
    if task_file(task):  # earlier results say "pairs", and a folder as it was written
        names["task"] = task_label(task)
    if model_folder(model):
        names["model"] = model_label(model)
    if isinstance(names["method"], str) and text(method.get("guide")):
        names["method"] += ", guided"
    names |= _study(asked)
    found: Plain = {key: text(value, 200) for key, value in names.items()}
    low = result.get("lower_is_better")
    found["lower_is_better"] = low if isinstance(low, bool) else found["metric"] not in HIGHER
    found["unit"] = text(result.get("unit"), 40)
    # runs before 2026-11 said metric_corrupt of the circuit without edges
    found |= numbers({"metric_empty": result.get("metric_corrupt"), **result}, RESULT_NUMBERS)
    places = {"model": model_folder(model), "task": task_file(task), **inner(result, "places")}
    found["places"] = {name: text(places[name]) for name in ("model", "task")}
    threshold = None if "methods" in asked else method.get("threshold")
    found["threshold"] = number(result.get("threshold", threshold))
    found["seed"] = number(result.get("seed", asked.get("seed")))
    seconds = inner(result, "seconds")
    found["seconds"] = number(seconds.get("search"))
    if not result:
        found["n_edges"] = number(last.get("n_kept"))
        found["metric_circuit"] = number(last.get("metric"))
        found["seconds"] = number(last.get("seconds"))
    found |= {
        "progress": None if result else _progress(last),
        "verdict": _verdict(result.get("holds")),
    }
    return found


def _progress(last: Plain) -> float | None:
    """The share of the edges that a search has decided on, by its newest line."""
    settled, left, kept = (number(last.get(key)) for key in ("n_settled", "n_edges", "n_kept"))
    if settled is None or left is None or kept is None or not 0 <= settled <= settled + left - kept:
        return None
    return settled / (settled + left - kept) if settled + left > kept else None


def _verdict(holds: object) -> str | None:
    """What the sentence on whether a circuit holds comes to: "does part of the task"."""
    said = text(holds, 300)
    return said.partition(":")[0].removeprefix("the circuit ")[:80] if said else None


def told_apart(lines: Sequence[Plain]) -> list[Plain]:
    """The lines; where one name is that of files in several folders, the folders are named too."""
    for field in ("task", "model"):
        places: dict[str, set[str]] = defaultdict(set)
        for line in lines:
            if line[field] and (place := line["places"][field]):
                places[line[field]].add(place)
        names = {name: _with_folders(name, some) for name, some in places.items() if len(some) > 1}
        lines = [
            {**line, field: names.get(line[field], {}).get(line["places"][field], line[field])}
            for line in lines
        ]
    return list(lines)


def _with_folders(name: str, places: set[str]) -> dict[str, str]:
    """The name after as many folders as tell the places apart."""
    folders = {place: PurePath(place).parent.parts for place in places}
    for depth in range(1, 1 + max(map(len, folders.values()))):
        found = {place: "/".join([*folders[place][-depth:], name]) for place in places}
        if len(set(found.values())) == len(places):
            return found
    return {place: f"{name} ({place})" for place in places}


def _question(asked: Mapping[str, Any], method: Mapping[str, Any], key: str) -> Any:
    """Metric or ablation of a run; before 2026-11 they were the method's, or a study's own word."""
    value = asked.get(key, method.get(key))
    return value.get("name") if isinstance(value, Mapping) else value


def _study(asked: Mapping[str, Any]) -> Plain:
    """Names for a comparison of methods, an analysis of components, a route; none for others."""
    task, methods = task_label(inner(asked, "task")), asked.get("methods")
    if isinstance(methods, list):  # `method` is only the default that each of them replaces
        shared = {name: _question(asked, {}, name) for name in ("metric", "ablation")}
        return {"method": f"{len(methods)} methods compared", **shared}
    if "from_state" in asked:
        return {"method": "route", "task": task or _given(asked)}
    if "versus" not in asked:
        return {}
    other = text(asked["versus"], 90)
    return {"method": "components", "task": f"{task} against {other}" if other else task}


def _given(asked: Mapping[str, Any]) -> str:
    """The prompt of a route that is none of a task's."""
    words = text(asked.get("text"), 60)
    return f"“{words}”" if words else "one prompt"


# ---- the circuit -------------------------------------------------------------------------------


def circuit(data: Plain) -> Plain | None:
    """Sizes of the grid, and the kept edges as [writer, reader, effect], largest |effect| first.

    `off_path` has the numbers of those on no path from `input` to `logits`. Of edges at spans of
    positions, `spans` has the names in order, and `steps` what paths take of them, as
    [number, "m0@io", "a23.h0<v>@end"].

    None where the file names no sizes. Edges into a shared key/value group are written to the file
    once for each query head; here they are one edge again, into "a5.kv1<k>".
    """
    cfg, own = inner(data, "cfg"), inner(data, "graph")
    layers = whole(cfg.get("n_layers"), MOST_LAYERS)
    heads = whole(cfg.get("n_heads"), MOST_HEADS)
    if not layers or not heads:
        return None
    groups = whole(own.get("n_kv_heads", heads), heads) or heads
    shared = own.get("kv") == "per_group" and heads % groups == 0
    per_group = heads // groups if shared else 0
    kept: dict[tuple[str, str], float] = {}
    skipped = 0
    for name, entry in inner(data, "edges").items():
        if inner(entry).get("in_graph") is not True:
            continue
        edge, score = _edge(name, layers, heads, per_group), number(inner(entry).get("score"))
        if edge is None or score is None:
            skipped += 1
            continue
        kept[edge] = score
    largest_first = sorted(kept.items(), key=lambda item: -abs(item[1]))[:MOST_EDGES]
    largest = [edge for edge, _ in largest_first]
    return {
        "layers": layers,
        "heads": heads,
        "groups": groups if shared else heads,
        "mlp": own.get("has_mlp", True) is not False,
        "score": text(inner(data, "about").get("score"), 200),
        "edges": [[*edge, score] for edge, score in largest_first],
        "skipped": skipped + max(len(kept) - MOST_EDGES, 0),
        **_paths(largest, per_group, heads if own.get("joint") is True else 0, _spans(own)),
    }


def _spans(own: Mapping[str, Any]) -> Spans:
    """Of positions, if the file has any that make sense; else all positions are one."""
    try:
        found = read_spans(own["spans"])
    except (InputError, KeyError, TypeError):
        return ALL
    return found if len(found) <= MOST_SPANS else ALL


def _paths(edges: Sequence[tuple[str, str]], per_group: int, together: int, spans: Spans) -> Plain:
    """Which edges are on no path; at spans also how paths go, unless that is too much to draw."""
    found = steps(edges, per_group, together, spans)
    on = {step.edge for step in found}
    off = {"off_path": [i for i in range(len(edges)) if i not in on]}
    if spans == ALL:
        return off
    drawn = found if len(found) <= MOST_EDGES else []
    return {**off, "spans": list(spans.names), "steps": [list(step) for step in drawn]}


def named(name: str, layers: int, heads: int) -> Name | None:
    """What a name says, if it says something within these sizes."""
    found = parse(name)
    return found if found and found.layer < layers and found.index < heads else None


def _edge(name: str, layers: int, heads: int, per_group: int) -> tuple[str, str] | None:
    """Writer and reader, if there are such; keys and values that a group shares go by the group."""
    start, _, end = name.partition("->")
    writer, reader = named(start, layers, heads), named(end, layers, heads)
    if writer is None or reader is None or not (writer.writes and reader.reads):
        return None
    if reader.kind == "kv":  # not in this format
        return None
    if per_group and reader.part in ("k", "v"):
        reader = replace(reader, kind="kv", index=reader.index // per_group)
    return str(writer), str(reader)


# ---- search, route ----------------------------------------------------------------------

SEARCH_NUMBERS = ("metric", "n_edges", "n_kept", "n_tests", "n_passes", "seconds")


def search(lines: list[Plain]) -> list[Plain]:
    """The search, a row a reader."""
    return [
        {name: text(row.get(name), 60) for name in ("reader", "kind", "reason")}
        | numbers(row, SEARCH_NUMBERS)
        for row in lines[:MOST_ROWS]
    ]


def decisions(lines: list[Plain]) -> Plain:
    """What the search tested, in its order: the edge or reader, its effect, whether it was kept.

    Of more than MOST_DECISIONS those that were kept stay, and then the largest |effect|.
    """
    found = [
        {
            "order": whole(row.get("order"), 10**9),
            "name": text(row.get("edge"), 60),
            "effect": number(row.get("effect")),
            "kept": row.get("kept") is True,
            "kind": text(row.get("kind"), 20),
        }
        for row in lines
    ]
    found = [row for row in found if row["order"] is not None and row["name"] is not None]
    most = sorted(found, key=lambda row: (not row["kept"], -abs(row["effect"] or 0)))
    shown = sorted(most[:MOST_DECISIONS], key=lambda row: row["order"])
    return {"rows": shown, "n": len(lines)}


def routes(lines: list[Plain]) -> list[Plain] | None:
    """Of a run's first prompts, or of a route's own file; None without any."""
    found = [route(line) for line in lines[:MOST_ROUTES]]
    return [one for one in found if one is not None] or None


def route(data: Plain) -> Plain | None:
    """Tokens, layers and the edges of an information flow route; None if it names no tokens."""
    tokens = [text(row.get("text"), 40) or "?" for row in rows(data.get("tokens"), 2000)]
    if not tokens:
        return None
    edges, skipped = [], 0
    given = rows(data.get("edges"), MOST_EDGES)
    for row in given:
        edge: Plain = {"kind": text(row.get("kind"), 20), "direct": row.get("direct") is True}
        edge |= {k: whole(row.get(k), MOST_LAYERS) for k in ("layer", "head")}
        edge |= {k: whole(row.get(k), len(tokens) - 1) for k in ("source", "target")}
        edge["flow"] = number(row.get("flow"))
        drawn = None not in (edge["source"], edge["target"], edge["layer"], edge["flow"])
        edges += [edge] if drawn else []
        skipped += not drawn
    start = inner(data, "start")
    target = [text(row.get("text"), 40) or "?" for row in rows(start.get("target"), 20)]
    return {
        "tokens": tokens,
        "layers": 1 + max((edge["layer"] for edge in edges), default=0),
        "edges": edges,
        "skipped": skipped,  # constants come from nowhere, the input has no layer
        "start": {"position": whole(start.get("position"), len(tokens) - 1), "target": target},
        "threshold": number(data.get("threshold")),
    }
