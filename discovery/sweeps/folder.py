"""A sweep on disk: a folder of run folders, what is done in it, what is to be done again.

    NAME/            the run folders, one a job
    .attempts/       earlier attempts of jobs that were done again
    sweep.json, sweep.md, pareto.png, pareto.svg, overlap.png

The run folders are the record; the rest is made from them and can be made again at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from acdc.errors import InputError
from discovery.runs.folder import Run, failure, read_run
from discovery.runs.json_files import write_bytes, write_json
from discovery.runs.tracking import Chart, Outcome, start_tracker
from discovery.settings.run import Settings, read_settings, upgraded
from discovery.sweeps.points import (
    Member,
    Point,
    done_members,
    number_rows,
    overlap,
    points,
    report,
    short_names,
    summary,
)

ATTEMPTS = ".attempts"
FIGURES = ("pareto.png", "pareto.svg", "overlap.png")
VALIDATION, NOT_VALIDATED = "validation.json", "validation_error.json"


def holds_result(folder: Path) -> bool:
    """Whether the folder holds a finished run, of whatever settings."""
    if not (folder / "status.json").exists():
        return False
    run = read_run(folder, lines=False)
    return run.state == "done" and run.result is not None


def is_done(folder: Path, settings: Settings) -> bool:
    """Whether the folder holds the finished run of exactly these settings (tracking aside)."""
    if not holds_result(folder):
        return False
    run = read_run(folder, lines=False)
    if run.config is None:
        return False
    try:
        asked = read_settings(run.config["config"])  # also as earlier versions recorded them
    except InputError:
        return False
    same = {"tracking": settings.tracking, "memory_gib": settings.memory_gib}
    return asked.model_copy(update=same) == settings


def set_aside(folder: Path) -> Path | None:
    """Move a run that ended into the sweep's .attempts/; returns where to, None if there is none.

    A run that is alive stays where it is, so that a new one there is refused.
    """
    if not (folder / "status.json").exists() or read_run(folder, lines=False).state == "running":
        return None
    attempts = folder.parent / ATTEMPTS
    attempts.mkdir(exist_ok=True)
    for number in count(1):
        place = attempts / f"{folder.name}.{number}"
        try:
            place.mkdir()  # decides a race; an empty folder may be replaced by the rename
        except FileExistsError:
            continue
        os.rename(folder, place)
        return place
    raise AssertionError("there is always a next number")


def read_sweep(folder: Path) -> list[Member]:
    """The searches in the folder, by name; InputError if it holds none.

    What other commands left there (a route, a comparison) is passed over.
    """
    every = [
        read_run(path.parent, lines=False)
        for path in sorted(folder.glob("*/status.json"))
        if not path.parent.name.startswith(".")
    ]
    found = [_member(run) for run in every if _is_search(run)]
    if not found:
        raise InputError(f"{folder} holds no runs: name the folder of a sweep.")
    return found


def is_explained(folder: Path) -> bool:
    """Whether the run in the folder has an explanation."""
    return (folder / "explanation.json").exists()


def is_validated(folder: Path) -> bool:
    """Whether a run that asks for its validation (evaluation=full) has it."""
    return (folder / VALIDATION).exists()


def record_validation(folder: Path, error: Exception | None) -> None:
    """Leave the reason why a finished run has no validation; None takes it away."""
    path = folder / NOT_VALIDATED
    if error is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, failure(error))


def _is_search(run: Run) -> bool:
    """Also of a job that was refused before its settings were known."""
    asked = (run.config or {}).get("config", {})
    return not asked or "evaluation" in asked


def _member(run: Run) -> Member:
    error, edges = run.status.get("error"), (run.circuit or {}).get("edges", {})
    config, state = upgraded((run.config or {}).get("config", {})), run.state
    done = state == "done"
    if done and config["evaluation"]["kind"] == "full" and not is_validated(run.folder):
        path, state = run.folder / NOT_VALIDATED, "not validated"
        error = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return Member(
        name=run.folder.name,
        state=state,
        config=config,
        result=run.result if done else None,
        edges=frozenset(name for name, edge in edges.items() if edge["in_graph"]),
        error=f"{error['type']}: {error['message']}" if error else None,
    )


def aggregate(folder: Path) -> list[Member]:
    """Write the sweep's summary, table and figures; returns its runs."""
    members = read_sweep(folder)
    done = done_members(members)
    write_json(folder / "sweep.json", {"sweep": folder.name, **summary(members)})
    write_bytes(folder / "sweep.md", report(members, folder.name).encode())
    if done:
        from discovery.sweeps.drawing import draw_front, draw_overlap  # a second, where not needed

        draw_front(folder, points(members), f"{folder.name}: {_about(done)}")
        draw_overlap(folder, short_names([m.name for m in done]), overlap(done))
    else:
        for name in FIGURES:
            (folder / name).unlink(missing_ok=True)
    return members


def _about(done: Sequence[Member]) -> str:
    """Models and tasks, in words."""
    results = [m.result or {} for m in done]
    models, tasks = (", ".join(dict.fromkeys(r[k] for r in results)) for k in ("model", "task"))
    return f"{tasks} in {models}"


def track(folder: Path, members: Sequence[Member]) -> None:
    """Mirror the summary as one run of the sweep's W&B group, if its runs were tracked."""
    done = [m for m in members if m.result is not None]
    if not done:
        return
    tracking: Mapping[str, Any] = done[-1].config["tracking"]
    kinds = ("model", "task", "method")
    words = {f"{kind}:{(m.result or {})[kind]}" for m in done for kind in kinds}
    with start_tracker(
        tracking["mode"], folder=folder, project=tracking["project"],
        config={"sweep": folder.name, "runs": [m.name for m in members]}, name=folder.name,
        group=folder.name, job_type="sweep", tags=sorted(w[:64] for w in words),
    ) as tracker:  # fmt: skip
        found = points(members)
        tracker.finish(Outcome(
            {"n_runs": len(members), "n_done": len(done)},
            tables={"points": number_rows(found)},
            charts=_charts(found),
            pictures={name: folder / f"{name}.png" for name in ("pareto", "overlap")},
            files=[folder / "sweep.json"],
        ))  # fmt: skip


def _charts(found: Sequence[Point]) -> dict[str, Chart]:
    """Edges against faithfulness and each metric, a line a series."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in found:
        for name, value in (("faithfulness", point.faithfulness), (point.metric, point.value)):
            if value is not None:
                line = lines.setdefault(name, {}).setdefault(point.series, [])
                line.append((point.edges.mean, value.mean))
    return {f"edges against {name}": Chart("edges", name, own) for name, own in lines.items()}
