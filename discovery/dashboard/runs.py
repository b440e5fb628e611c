"""What the pages ask for: a line on every run below a root, and everything on one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from acdc.errors import InputError
from discovery.dashboard import contents, files, logged, notes, studies
from discovery.dashboard.contents import Plain, inner, pretty, text
from discovery.dashboard.head_contents import heads
from discovery.dashboard.run_fields import run_fields
from discovery.dashboard.validation_contents import validation
from discovery.runs.folder import state_of

VIEWS = {  # file -> the view that shows it
    "circuit.json": "circuit",
    "metrics.jsonl": "search",
    "validation.json": "validation",
    "heads.json": "heads",
    "route.json": "route",
    "routes.jsonl": "route",  # of the run's own prompts
    "compare.json": "methods",
    "components.json": "components",
}
# what a run of this view is, where its config does not say
STUDIES = {"route": "route", "methods": "methods compared", "components": "components"}
PAGES = ("explanation.html", "report.html")  # of explain and validate
# what the line on a run is made of
LISTED = ("status.json", "config.json", "result.json", "metrics.jsonl", notes.FILE)
MOST_CIRCUITS = 100  # that are compared at once, and kept
LONGEST = 20_000  # characters of a traceback
NO_NOTES = "The notes on a W&B run are on its server."
PRIVATE = ("pid", "host")  # of status.json, and the traceback of its error


def summaries(root: Path) -> list[Plain]:
    """A line on each run; one that cannot be read is there too, with the reason."""
    root, found = root.resolve(), []
    for run in files.find_runs(root):
        with suppress(InputError):  # deleted since it was found
            found.append(_summary(root, run))
    return found


def _summary(root: Path, run: str) -> Plain:
    """A line on one run: what was asked, what came out, its state, and the error if it failed."""
    folder = files.run_folder(root, run)
    if files.is_logged(folder):
        return logged.summary(root, run, folder)
    line, status = _line(root, run, folder, files.stamp(folder, LISTED))
    if status is None:
        return dict(line)
    # of a run that is going on it depends on the time
    state = state_of(status) if status else "done" if line["finished"] else "unknown"
    told = {key: value for key, value in line.items() if key != "finished"}
    return told | {"state": text(state, 20), "started": text(status.get("started"), 40)}


@lru_cache(maxsize=files.MOST_RUNS)
def _line(
    root: Path, run: str, folder: Path, stamp: files.Stamp
) -> tuple[Plain, Mapping[str, Any] | None]:
    """The line without its state, and status.json, None if a file cannot be read.

    `stamp` tells one state of the files from the next.
    """
    found: Plain = {"id": run, "state": "unreadable", "error": None, "started": None}
    views = [v for name, v in VIEWS.items() if files.exists(root, folder / name)]
    found["views"] = list(dict.fromkeys(views))
    try:
        status = files.read_json(root, folder / "status.json")
        config = files.read_json(root, folder / "config.json")
        result = files.read_json(root, folder / "result.json")
        growing = not result and "search" in found["views"]
        last = files.read_last_line(root, folder / "metrics.jsonl") if growing else {}
    except InputError as error:
        return {**found, **contents.summary({}, {}, {}), "error": str(error)}, None
    try:
        found |= notes.read_notes(root, folder)
    except InputError as error:  # of the run itself all is there
        found |= {**notes.NOTHING, "error": str(error)}
    found |= {**run_fields(config, result), "finished": bool(result)}
    error = inner(status, "error")
    if error:
        found["error"] = f"{text(error.get('type'))}: {text(error.get('message'))}"
    found |= contents.summary(config, result, last)
    found["method"] = found["method"] or next(filter(None, map(STUDIES.get, found["views"])), None)
    return found, status


def details(root: Path, run: str, private: bool = True) -> Plain:
    """The run's summary and all that its views show; InputError if there is no such run.

    A file that cannot be read leaves its view empty, and `problems` says why. Without `private` the
    record leaves out which machine and process it was, and where its files lay.
    """
    root = root.resolve()
    folder = files.run_folder(root, run)
    if files.is_logged(folder):
        return logged.details(root, run, folder)
    problems: list[str] = []

    def view(read: Callable[[Path, Path], Any], name: str, shape: Callable[[Any], Any]) -> Any:
        try:
            return shape(read(root, folder / name))
        except InputError as error:
            problems.append(str(error))
            return None

    found: Plain = {
        "summary": _summary(root, run),
        "circuit": view(files.read_json, "circuit.json", contents.circuit),
        "search": view(files.read_lines, "metrics.jsonl", contents.search),
        "validation": view(files.read_json, "validation.json", validation),
        "heads": view(files.read_json, "heads.json", heads),
        "routes": view(files.read_json, "route.json", lambda one: contents.routes([one]))
        or view(files.read_lines, "routes.jsonl", contents.routes),
        "methods": view(files.read_json, "compare.json", studies.methods),
        "components": view(files.read_json, "components.json", studies.components),
        "record": {
            "traceback": view(files.read_json, "status.json", _traceback) if private else None,
            **{
                name: view(files.read_json, f"{name}.json", _told if private else _shared)
                for name in ("config", "result", "status")
            },
        },
    }
    if found["search"]:  # the scores of other methods fill edges.jsonl too, and are no decisions
        found["decisions"] = view(files.read_lines, "edges.jsonl", contents.decisions)
    pages = [name for name in PAGES if private and files.exists(root, folder / name)]
    return found | {"problems": list(dict.fromkeys(problems)), "pages": pages}


def circuit(root: Path, run: str) -> Plain:
    """The run's summary and its circuit alone, None if it has none; InputError for no such run."""
    root = root.resolve()
    folder = files.run_folder(root, run)
    found: Plain = {"summary": _summary(root, run), "circuit": None, "problems": []}
    if files.is_logged(folder):
        whole = logged.details(root, run, folder)
        return found | {key: whole.get(key) for key in ("circuit", "problems")}
    try:
        found["circuit"] = _circuit(root, folder, files.stamp(folder, ("circuit.json",)))
    except InputError as error:
        found["problems"].append(str(error))
    return found


@lru_cache(maxsize=MOST_CIRCUITS)
def _circuit(root: Path, folder: Path, stamp: files.Stamp) -> Plain | None:
    """`stamp` tells one state of the file from the next."""
    return contents.circuit(files.read_json(root, folder / "circuit.json"))


def sweep(root: Path, folder: str) -> Plain:
    """Points of a folder's sweep.json, None without one; InputError if it cannot be read."""
    root = root.resolve()
    place = files.any_folder(root, folder)
    return {"sweep": studies.sweep(files.read_json(root, place / "sweep.json")) if place else None}


def page(root: Path, run: str, name: str) -> bytes:
    """One of a run's PAGES, as it lies there; InputError if there is none."""
    root = root.resolve()
    if name not in PAGES:
        raise InputError(f"page: {name[:40]!r} is none; allowed are {', '.join(PAGES)}")
    return files.read_bytes(root, files.run_folder(root, run) / name)


def write_notes(root: Path, run: str, given: object) -> Plain:
    """Replace a run's notes; InputError if there is no such run, or for notes of another form."""
    root = root.resolve()
    folder = files.run_folder(root, run)
    if files.is_logged(folder):
        raise InputError(NO_NOTES)
    return notes.write_notes(root, folder, given)


def _traceback(status: Plain) -> str | None:
    """Of a run that failed; a long one without its start, since its end says most."""
    found = inner(status, "error").get("traceback")
    if not isinstance(found, str) or not found.strip():
        return None
    return found if len(found) <= LONGEST else "…" + found[1 - LONGEST :]


def _told(value: Plain) -> str | None:
    """As `pretty`, without the traceback, which has a place of its own."""
    error = inner(value, "error")
    kept = {"error": {k: v for k, v in error.items() if k != "traceback"}} if error else {}
    return pretty({**value, **kept})


def _shared(value: Plain) -> str | None:
    """The same without what tells of the machine."""
    return _told({key: part for key, part in value.items() if key not in PRIVATE})
