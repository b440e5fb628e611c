"""Offline W&B runs below a root: directories `offline-run-*` with a log, read without trust.

A line is kept for as long as its log has the same size and time, so asking again costs little.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

from acdc.errors import InputError
from discovery.dashboard import files, tracked
from discovery.dashboard.contents import Plain
from discovery.runs.wandb_log import TrackedRun, find_log, read_log


def summary(root: Path, run: str, folder: Path) -> Plain:
    """The line on a run; one that cannot be read says why."""
    try:
        log = find_log(folder)
    except InputError as error:
        return tracked.unreadable(run, str(error))
    size = changed = 0
    with suppress(OSError):  # a link to nothing; reading will say so
        about = os.stat(log)
        size, changed = about.st_size, about.st_mtime_ns
    return dict(_line(root, run, folder, log, size, changed))


def details(root: Path, run: str, folder: Path) -> Plain:
    """All that the views show; a run that cannot be read shows the reason."""
    try:
        read = _read(root, folder, find_log(folder), history=True)
    except InputError as error:
        return {"summary": tracked.unreadable(run, str(error)), "record": {}, "problems": []}
    return tracked.details(read, summary(root, run, folder))


@lru_cache(maxsize=files.MOST_RUNS)
def _line(root: Path, run: str, folder: Path, log: Path, size: int, changed: int) -> Plain:
    """`size` and `changed` tell one state of the log from the next."""
    try:
        read = _read(root, folder, log, history=False)
    except InputError as error:
        return tracked.unreadable(run, str(error))
    with suppress(InputError):  # the run's page gives the reason
        return tracked.summary(run, read, tracked.views(read, tracked.circuit(read) is not None))
    return tracked.summary(run, read, tracked.views(read, False))


def _read(root: Path, folder: Path, log: Path, history: bool) -> TrackedRun:
    media = partial(_media, root, folder)
    return read_log(BytesIO(files.read_bytes(root, log)), log, history, media)


def _media(root: Path, folder: Path, name: str) -> bytes:
    return files.read_bytes(root, folder / "files" / name)
