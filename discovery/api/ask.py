"""From the words of a call to the settings of a run: the same fields as in conf/, checked alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from acdc.errors import InputError
from acdc.metrics import Metric
from discovery.choices import registry
from discovery.choices.fields import Fields, sentences
from discovery.choices.given import give
from discovery.methods.method import Method
from discovery.runs.json_files import encode, write_bytes
from discovery.settings.run import Settings, chosen, read_settings

if TYPE_CHECKING:
    from discovery.api.tasks import Task


def method(name: str, **fields: Any) -> Method:
    """A method and what is asked of it, such as method("eap", backward="gim"), to compare it."""
    return choose("method", name=name, **fields)


def choose(group: str, **fields: Any) -> Any:
    """What a group's name stands for, with its fields; InputError names a field that is wrong."""
    try:
        return chosen(group, fields)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error, group))) from None


def ask(
    task: Task, method: str | Method, fields: Mapping[str, Any], metric: Any, ablation: Any,
    **own: Any,
) -> Settings:  # fmt: skip
    """The settings of a run; InputError names everything that is wrong."""
    base = task.model.settings
    config = {
        "model": base.model.model_dump(mode="json"),
        "device": base.device,
        "threads": base.threads,
        "seed": task.seed,
        "task": task.choice.model_dump(mode="json"),
        "method": _group("method", method, fields),
        "metric": {"name": _metric(metric)},
        "ablation": _group("ablation", ablation, {}),
        **own,
    }
    return read_settings(config)


def _group(group: str, given: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Fields):
        if fields:
            raise InputError(f"{group}: {', '.join(fields)} are the {group}'s own to say")
        return given.model_dump(mode="json")
    return {registry.KEY.get(group, "name"): given, **fields}


def _metric(given: Any) -> Any:
    """The name of a metric: itself, or that of an object."""
    if not isinstance(given, Metric):
        return given
    for name in registry.KNOWN["metric"]:
        if registry.load("metric", name) is given:
            return name
    return give(given, given.name)


def stored(kind: str, name: str, suffix: str, data: bytes) -> Path:
    """A file that holds just this, in the user's cache: what was given in Python has a path.

    Equal content has an equal path, so that runs say what they were made of.
    """
    import hashlib

    from discovery.models.smollm2 import default_cache

    digest = hashlib.sha256(data).hexdigest()[:12]
    path = default_cache() / kind / digest / f"{name}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    return path


def lines(rows: Any) -> bytes:
    """Rows as JSONL; InputError for what JSON cannot hold."""
    try:
        return b"".join(encode(row) + b"\n" for row in rows)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"pairs: rows must be dicts of texts, numbers and lists: {error}"
        ) from None
