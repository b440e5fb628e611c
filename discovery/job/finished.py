"""A run that ended, as something to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acdc.errors import InputError
from discovery.runs.folder import Run, read_run
from discovery.settings.run import Settings, read_settings


@dataclass(frozen=True)
class Finished:
    """Its settings, with the size and the number of prompts that it came to, and its files."""

    settings: Settings
    run: Run


def read_finished(folder: Path, device: str | None = None, threads: int | None = None) -> Finished:
    """As it was configured, unless it is to go on on another `device`, with other `threads`.

    InputError for a run that is not finished, or whose circuit has no edges.
    """
    run = read_run(folder)
    if run.state != "done" or run.config is None or run.circuit is None or run.result is None:
        raise InputError(
            f"run={folder}: its state is {run.state!r}; only a finished run has a circuit"
        )
    other = {k: v for k, v in (("device", device), ("threads", threads)) if v is not None}
    settings = read_settings({**run.config["config"], **other})
    if settings.aim is not None:
        method = settings.method.of_size(run.result)
        settings = settings.model_copy(update={"method": method})
    if settings.grow is not None:
        searched = run.result["splits"]["search"]["n"]
        task = settings.task.model_copy(update={"n": searched})
        settings = settings.model_copy(update={"task": task, "grow": None})
    if not run.result.get("n_edges"):
        raise InputError(
            f"run={folder}: its circuit has no edges, so there is nothing to ask of it"
        )
    return Finished(settings, run)
