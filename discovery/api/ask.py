"""From the words of a call to the settings of a run: the same fields as in conf/, checked alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acdc.errors import InputError
from acdc.metrics import Metric
from discovery.api.tasks import Task
from discovery.choices import registry
from discovery.choices.fields import Fields
from discovery.choices.given import give
from discovery.methods.method import Method
from discovery.settings.run import Settings, read_settings


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
