"""A W&B run as what the pages show of a run folder: the same values, from the same shapes.

The tracker of this project puts the result into the run's summary, a row for each reader into its
history, and the kept edges into the table `edges`. What another program tracked is shown as far as
it uses these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from acdc.errors import InputError
from acdc.names import Name, parse
from discovery.dashboard import contents
from discovery.dashboard.contents import Plain, inner, number, pretty, text, whole
from discovery.dashboard.run_fields import run_fields
from discovery.runs.wandb_log import TrackedRun

RESULT = ("n_edges_total", "metric_circuit", "faithfulness")  # in the summary of a finished search
NAMES = ("model", "task", "method", "metric", "ablation")
SEARCH = ("reader", "n_kept")  # in the history of a search, and its last values in the summary
TABLE = "edges"
TRACKED = ("name", "group", "job_type")


def unreadable(name: str, reason: str) -> Plain:
    """The line on what could not be read."""
    line: Plain = {"id": name, "state": "unreadable", "error": reason, "started": None, "views": []}
    return line | contents.summary({}, {}, {}) | {"tracked": dict.fromkeys(TRACKED)}


def views(run: TrackedRun, circuit: bool) -> list[str]:
    """The views that a run has besides its record, as far as its summary tells."""
    searched = any(key in run.summary for key in SEARCH)
    return ["circuit"] * circuit + ["search"] * searched


def summary(name: str, run: TrackedRun, views: Sequence[str]) -> Plain:
    """The line on a run, under this name; `views` are those besides its record."""
    failed = run.state == "failed" and run.exit_code is not None
    found: Plain = {
        "id": name,
        "state": run.state,
        "error": f"It ended with exit code {run.exit_code}." if failed else None,
        "started": text(run.started, 40),
        "views": list(views),
        "tracked": {name: text(getattr(run, name), 200) for name in TRACKED},
    }
    # of the history the summary keeps the last values, so `metric` is the name or a number
    result = {k: v for k, v in run.summary.items() if k != "metric" or isinstance(v, str)}
    passes, each = number(result.get("search_in_forwards")), number(result.get("forward_seconds"))
    result["seconds"] = {"search": None if passes is None or each is None else passes * each}
    fields = run_fields({"config": run.config}, result)
    if not any(key in result for key in RESULT):
        result = {}
    last = {**run.summary, "seconds": run.summary.get("_runtime")}
    line = contents.summary({"config": run.config}, result, last)
    for key in NAMES:
        line[key] = line[key] or text(run.config.get(key), 200)
    return found | line | fields


def details(run: TrackedRun, line: Plain) -> Plain:
    """All that the views show of a run whose line is `line`; `problems` says what is missing."""
    problems: list[str] = []
    found: Plain = {
        "summary": line,
        "circuit": _or_problem(lambda: circuit(run), problems),
        "search": search(run.history),
        "record": {
            "run": pretty(_about(run)),
            "config": pretty(run.config),
            "summary": pretty(run.summary),
        },
    }
    return found | {"problems": problems}


def _or_problem(shape: Callable[[], Plain | None], problems: list[str]) -> Plain | None:
    try:
        return shape()
    except InputError as error:
        problems.append(str(error))
        return None


def _about(run: TrackedRun) -> Plain:
    """What a run is, without what it holds."""
    held = ("config", "summary", "history", "media")
    return {f.name: getattr(run, f.name) for f in fields(run) if f.name not in held}


def search(history: Iterable[Mapping[str, Any]]) -> list[Plain]:
    """The rows of a search; where they have no seconds, W&B's since its run began."""
    rows = (row for row in history if any(key in row for key in SEARCH))
    return contents.search([{"seconds": row.get("_runtime"), **row} for row in rows])


def circuit(run: TrackedRun) -> Plain | None:
    """The kept edges of the table; None if there is none. InputError if it cannot be read.

    The grid has the sizes that the summary or the config name; where they do not, it is the
    smallest that holds all edges of the table.
    """
    rows = [row for row in run.table(TABLE) if {"edge", "effect", "kept"} <= {*row}]
    rows = rows[: contents.MOST_ROWS]
    if not rows:
        return None
    names = [text(row["edge"], 60) or "?" for row in rows]
    said = [name for edge in names for name in map(parse, edge.split("->")) if name]
    sizes = _sizes(run, said)
    layers, heads, groups = sizes["n_layers"], sizes["n_heads"], sizes["n_kv_heads"]
    shared = any(name.kind == "kv" for name in said)
    edges = {
        _with_heads(name, heads // groups): {"score": row["effect"], "in_graph": row["kept"]}
        for name, row in zip(names, rows, strict=True)
    }
    own = {"n_kv_heads": groups, "has_mlp": sizes["has_mlp"], "kv": "per_group" if shared else None}
    return contents.circuit(
        {"cfg": {"n_layers": layers, "n_heads": heads}, "graph": own, "edges": edges}
    )


def _sizes(run: TrackedRun, names: Sequence[Name]) -> Plain:
    """n_layers, n_heads, n_kv_heads and has_mlp, as said or as seen."""
    layers = 1 + max((name.layer for name in names), default=0)
    heads = 1 + max((name.index for name in names if name.kind == "head"), default=0)
    groups = 1 + max((name.index for name in names if name.kind == "kv"), default=-1)
    mlp = any(name.kind == "mlp" for name in names)
    groups = _said(run, "n_kv_heads") or groups
    each = max(groups, 1)
    heads = _said(run, "n_heads") or -(-heads // each) * each
    said = run.summary.get("has_mlp")
    return {
        "n_layers": _said(run, "n_layers") or layers,
        "n_heads": heads,
        "n_kv_heads": groups if groups and heads % groups == 0 else heads,
        "has_mlp": said if isinstance(said, bool) else mlp,
    }


def _said(run: TrackedRun, name: str) -> int | None:
    """A size that the summary or the config names."""
    places = (run.summary, run.config, inner(run.config, "model"))
    found = (whole(place.get(name), contents.MOST_HEADS) for place in places)
    return next(filter(None, found), None)


def _with_heads(edge: str, per_group: int) -> str:
    """An edge into a shared key/value group as its first head's, as circuit.json has it."""
    writer, _, reader = edge.partition("->")
    name = parse(reader)
    if name is None or name.kind != "kv":
        return edge
    return f"{writer}->{replace(name, kind='head', index=name.index * per_group)}"
