"""What a tracker is told of a run: a name, tags, a flat summary, the table of its heads.

Flat, because trackers sort by single values; numbers that do not exist are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discovery.choices.labels import model_folder, task_file
from discovery.settings.run import Settings

LONGEST_TAG = 64  # W&B's limit
WRITTEN = 3  # tokens of a head that the table names


def labels(settings: Settings) -> list[str]:
    """What tells a run from others: model, task, metric, ablation, method, its size, the seed."""
    method = settings.method
    names = [settings.model.label, settings.task.label]
    names += [settings.metric.name, settings.ablation.name, method.name]
    words = [*names, method.size, f"s{settings.seed}"]
    return [word.rpartition(":")[2] for word in words if word]


def run_name(settings: Settings, job: str = "") -> str:
    """The labels as one word, after what else is done with the run ("validate")."""
    return f"{job} {'-'.join(labels(settings))}".strip()


def tags(settings: Settings) -> list[str]:
    """What runs are filtered by, each word with its kind: "task:ioi".

    One's own files and model folders with the folder that they lie in, so that two of one name stay
    apart.
    """
    places = {"model": model_folder(settings.model.model_dump()),
              "task": task_file(settings.task.model_dump())}  # fmt: skip
    words = {
        kind: _with_folder(getattr(settings, kind).label, place) for kind, place in places.items()
    }
    words |= {"method": settings.method.name, "metric": settings.metric.name,
              "ablation": settings.ablation.name}  # fmt: skip
    return [_cut(f"{kind}:{word}") for kind, word in words.items()]


def _with_folder(label: str, place: str | None) -> str:
    return label if place is None else f"{Path(place).resolve().parent.name}/{label}"


def _cut(tag: str) -> str:
    """As long as a tag may be: its kind and the end of the word, which tells most."""
    return tag if len(tag) <= LONGEST_TAG else f"{tag[:10]}…{tag[11 - LONGEST_TAG :]}"


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """result.json as single values: accuracies and seconds too, which it holds in objects.

    Accuracies are of the test prompts, where there are any, else of those of the search.
    """
    flat = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
    splits = result["splits"]
    scores = (splits.get("test") or splits["search"])["scores"] or {}
    for run in ("model", "circuit", "empty"):
        if "accuracy" in scores.get(run, {}):
            flat[f"{run}_accuracy"] = scores[run]["accuracy"]
    seconds = result["seconds"]
    flat |= {f"seconds_{part}": value for part, value in seconds.items()}
    flat["seconds_total"] = round(sum(seconds.values()), 3)
    return flat | ({"places": dict(result["places"])} if result["places"] else {})


def head_rows(heads: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a head of heads.json, the same columns in each: roles, where it looks, its scores."""
    entries: Mapping[str, Any] = heads["heads"]
    known = heads["about"]["scores"]
    scores = [name for name in known if any(name in e["scores"] for e in entries.values())]
    return [{"head": name, **_head_row(entry, scores)} for name, entry in entries.items()]


def _head_row(entry: Mapping[str, Any], scores: list[str]) -> dict[str, Any]:
    looks: Mapping[str, float] = entry["attention"]
    most = max(looks, key=lambda place: looks[place], default=None)
    found = {name: entry["scores"].get(name, {}).get("value") for name in scores}
    return {
        "candidate roles": ", ".join(entry["candidates"]),
        "looks at": most,
        "attention": None if most is None else looks[most],
        "writes for": _writes_for(entry),
        **found,
    }


def _writes_for(entry: Mapping[str, Any]) -> str | None:
    """The tokens that it raises most where the first prompt is answered."""
    if not entry["writes"] or not entry["writes"][0]:
        return None
    return " ".join(repr(token) for token, _ in entry["writes"][0][-1]["for"][:WRITTEN])
