"""Where the pages' runs come from: the folders below a root, or a W&B project on its server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from acdc.errors import InputError
from discovery.dashboard import files, runs, tracked
from discovery.dashboard.contents import Plain
from discovery.runs.wandb_log import MOST_RUNS, TrackedRun, open_project, project_run, project_runs

SECONDS = 60.0  # from a server's answer to the next question
PATIENCE = 1.0  # seconds that a list waits for an answer; a later one is in the next list
MOST_DETAILS = 20  # runs of a project that are kept in full

_RUN_ID = re.compile(r"[\w.-]{1,128}")


@runtime_checkable
class Source(Protocol):
    most: int  # lines that it gives at most

    def summaries(self) -> list[Plain]:
        """A line on each run; its `id` is the name that `details` takes."""
        ...

    def holds(self, run: str) -> bool:
        """Whether a run of this name, if there is one, is of this source."""
        ...

    def details(self, run: str, private: bool = True) -> Plain:
        """The run's line and all that its views show; InputError if there is no such run.

        Without `private` nothing of the machine and the process is in it.
        """
        ...

    def circuit(self, run: str) -> Plain:
        """The run's line, its `circuit` and `problems`; InputError if there is no such run."""
        ...

    def sweep(self, folder: str) -> Plain:
        """`sweep`: the points of a folder of runs, None where none are summed up."""
        ...

    def page(self, run: str, name: str) -> bytes:
        """A page of the run's own, one of its details' `pages`; InputError if there is none."""
        ...

    def write_notes(self, run: str, given: object) -> Plain:
        """Replace the run's notes; InputError where there can be none, or not these."""
        ...


class Folder:
    """Run folders and offline W&B runs below a root; names are paths from there."""

    most = files.MOST_RUNS

    def __init__(self, root: Path) -> None:
        self._root = root

    def summaries(self) -> list[Plain]:
        return runs.summaries(self._root)

    def holds(self, run: str) -> bool:
        return True

    def details(self, run: str, private: bool = True) -> Plain:
        return runs.details(self._root, run, private)

    def circuit(self, run: str) -> Plain:
        return runs.circuit(self._root, run)

    def sweep(self, folder: str) -> Plain:
        return runs.sweep(self._root, folder)

    def page(self, run: str, name: str) -> bytes:
        return runs.page(self._root, run, name)

    def write_notes(self, run: str, given: object) -> Plain:
        return runs.write_notes(self._root, run, given)


class Project:
    """The newest runs of a W&B project, asked for at most once a minute; `wandb:E/P/ID` names one.

    `api` is a wandb.Api, made if None. A server that is slow does not hold up the other runs. If it
    refuses, the runs it gave last stay, and a further line says why.
    """

    most = MOST_RUNS

    def __init__(
        self, project: str, api: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._project, self._api, self._clock = project, api, clock
        self._name = f"wandb:{project}"
        self._lines: list[Plain] = []
        self._failure = [tracked.unreadable(self._name, "W&B has not answered yet.")]
        self._next = clock()
        self._details: dict[str, tuple[float, Plain]] = {}
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None

    def summaries(self) -> list[Plain]:
        with self._lock:
            asking = self._asking
            if asking is None and self._clock() >= self._next:
                asking = self._asking = threading.Thread(target=self._refresh, daemon=True)
                asking.start()
        if asking is not None:
            asking.join(PATIENCE)
        return self._lines + self._failure

    def holds(self, run: str) -> bool:
        return run == self._name or run.startswith(f"{self._name}/")

    def details(self, run: str, private: bool = True) -> Plain:
        now = self._clock()
        kept = self._details.get(run)
        if kept is None or now >= kept[0] + SECONDS:
            run_id = run.removeprefix(f"{self._name}/")
            if run_id == run or not _RUN_ID.fullmatch(run_id):
                raise InputError("There is no such run.")
            read = project_run(self._project, run_id, self._opened())
            kept = now, tracked.details(read, self._line(read))
            self._details = {**dict(list(self._details.items())[1 - MOST_DETAILS :]), run: kept}
        return kept[1]

    def circuit(self, run: str) -> Plain:
        found = self.details(run)
        return {key: found.get(key) for key in ("summary", "circuit", "problems")}

    def sweep(self, folder: str) -> Plain:
        return {"sweep": None}

    def page(self, run: str, name: str) -> bytes:
        raise InputError("The pages of a W&B run are on its server.")

    def write_notes(self, run: str, given: object) -> Plain:
        raise InputError(runs.NO_NOTES)

    def _refresh(self) -> None:
        try:
            found = project_runs(self._project, self._opened(), self.most)
            self._lines, self._failure = [self._line(run) for run in found], []
        except InputError as error:
            self._failure = [tracked.unreadable(self._name, str(error))]
        finally:
            self._next = self._clock() + SECONDS
            self._asking = None

    def _opened(self) -> Any:
        self._api = self._api or open_project(self._project)
        return self._api

    def _line(self, run: TrackedRun) -> Plain:
        drawn = isinstance(run.summary.get(tracked.TABLE), dict)  # its file would cost a request
        return tracked.summary(f"{self._name}/{run.id}", run, tracked.views(run, drawn))
