"""Weights & Biases runs read back: logs of offline runs, and the runs of a project on the server.

An offline run directory holds a binary log, `run-<id>.wandb`, and below `files/` the media that the
log names. The log is a LevelDB-like one, all integers little-endian: a header of 7 bytes; then
blocks of 32 KiB, counted from the file's first byte, of chunks that never cross a block's end:
CRC-32 over kind and payload, length, kind, payload. A record is one chunk or several, and a
protobuf message that wandb ships. Neither is a promised API of wandb, so all that knows of them is
here, and a test reads back what the installed wandb writes.

A log may be growing, torn or hostile: reading ends quietly at the first chunk that is not whole,
and keeps what was before it. This module and discovery/runs/tracking.py are the only ones that
import wandb, and only when asked for a run.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from io import BufferedIOBase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from acdc.errors import InputError
from discovery.runs.tracking import check_credentials

HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
BLOCK = 32 * 2**10  # bytes
CHUNK = struct.Struct("<IHB")  # CRC-32, length of the payload, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds: a record, or its parts
LARGEST = 64 * 2**20  # bytes of a log or of a media file
MOST_VALUES = 10**6  # of one run's config, summary and history together
DEEPEST = 32  # keys of a nested value
MOST_RUNS = 1000  # of a project, the newest
TIMEOUT = 20  # seconds for one answer of the server
STATES = {"running": "running", "finished": "done", "failed": "failed", "crashed": "killed",
          "killed": "killed"}  # fmt: skip


def _no_media(path: str) -> bytes:
    raise InputError(f"{path} is not kept with this run.")


@dataclass(frozen=True)
class TrackedRun:
    """A run as W&B keeps it; floats with whole values come back as integers."""

    id: str
    name: str | None
    entity: str | None
    project: str | None
    group: str | None
    job_type: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any]  # nested; without wandb's own member `_wandb`
    summary: Mapping[str, Any]  # likewise
    history: tuple[Mapping[str, Any], ...]  # one row a step, with `_step`; or left out
    state: str  # done, failed, running, killed, unknown: as in status.json of a run folder
    exit_code: int | None  # None if it did not end, and for runs of a server
    started: str | None  # ISO 8601
    media: Callable[[str], bytes] = field(default=_no_media, compare=False, repr=False)

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of the table last logged under this key, none if there is no such table.

        InputError if its file cannot be read or holds no table.
        """
        entry = self.summary.get(key)
        if not isinstance(entry, Mapping) or entry.get("_type") != "table-file":
            return []
        path = entry.get("path")
        if not isinstance(path, str) or not _is_below(path):
            raise InputError(f"The table {key} names no file of its run.")
        text = self.media(path)
        try:
            found = json.loads(text)
            columns, rows = [str(name) for name in found["columns"]], found["data"]
            return [dict(zip(columns, row, strict=True)) for row in rows]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path} is not a table that can be read.") from error


def _is_below(path: str) -> bool:
    """Whether a path stays below the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


# --- offline


def read_offline(path: Path | str, history: bool = True) -> TrackedRun:
    """The run of a directory `offline-run-*`; `history=False` leaves the rows out.

    A log that ends early gives what it holds, one without any record an empty run; its state is
    then `unknown`, as it may still run. InputError if there is no log, or what lies there is none.
    """
    path = Path(path)
    log = find_log(path)
    if not log.is_file():  # opening a pipe would wait
        raise InputError(f"{log} is not a regular file.")
    try:
        with open(log, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise InputError(f"{log} has {size >> 20} MiB; {LARGEST >> 20} are the most.")
            return read_log(file, log, history, lambda name: _read_media(path / "files", name))
    except OSError as error:
        raise InputError(f"{log} cannot be read: {error.strerror or error}.") from error


def find_log(path: Path) -> Path:
    """The log of a run directory; InputError if it holds none."""
    logs = sorted(path.glob("run-*.wandb"))
    if not logs:
        raise InputError(
            f"{path} holds no W&B log (run-*.wandb); name a directory offline-run-* itself."
        )
    return logs[0]


def read_log(
    file: BufferedIOBase, log: Path, history: bool = True, media: Callable[[str], bytes] = _no_media
) -> TrackedRun:
    """The run of an open log, named run-<id>.wandb; see `read_offline`.

    `media` reads a file of the run by its path. InputError if the file is not a W&B log or holds
    more than MOST_VALUES values.
    """
    header = file.read(len(HEADER))
    if not HEADER.startswith(header):  # a shorter one was not yet written
        raise InputError(f"{log.name} is not a W&B log, or one of another version.")
    config, summary, rows = _Items(), _Items(), []
    start: Any = None
    exit_code, n_values = None, 0
    for record in _records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            start = record.run
            config.change(start.config)
            summary.change(start.summary)
        elif kind == "config":
            config.change(record.config)
        elif kind == "summary":
            summary.change(record.summary)
        elif kind == "history" and history:
            rows.append(_row(record.history))
            n_values += len(rows[-1])
        elif kind == "exit":
            exit_code = int(record.exit.exit_code)
        if n_values + len(config) + len(summary) > MOST_VALUES:
            raise InputError(f"{log.name} holds more than {MOST_VALUES:,} values.")
    state = "unknown" if exit_code is None else "failed" if exit_code else "done"
    return TrackedRun(
        id=getattr(start, "run_id", "") or log.stem.removeprefix("run-"),
        name=getattr(start, "display_name", "") or None,
        entity=getattr(start, "entity", "") or None,
        project=getattr(start, "project", "") or None,
        group=getattr(start, "run_group", "") or None,
        job_type=getattr(start, "job_type", "") or None,
        tags=tuple(getattr(start, "tags", ())),
        config=_without_own(config.nested()),
        summary=_without_own(summary.nested()),
        history=tuple(rows),
        state=state,
        exit_code=exit_code,
        started=_iso(start.start_time.seconds) if start is not None else None,
        media=media,
    )


def _read_media(folder: Path, name: str) -> bytes:
    """A regular file below the folder, wherever links lead; InputError if there is none."""
    real = (folder / name).resolve()
    if not _is_below(name) or not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise InputError(f"{name} is not kept with this run.")
    with open(real, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise InputError(f"{name} has more than {LARGEST >> 20} MiB.")
    return data


def _records(file: BufferedIOBase) -> Iterator[Any]:
    """The messages of a log behind its header, up to its end or the first damage."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # made when it is imported, so its names are not known
    for data in _payloads(file):
        try:
            yield messages.Record.FromString(data)
        except DecodeError:
            return


def _payloads(file: BufferedIOBase) -> Iterator[bytes]:
    """The records' bytes; ends at a chunk that is cut off, altered, or out of place."""
    left = BLOCK - len(HEADER)  # bytes of this block
    parts: list[bytes] = []  # of a record that has begun
    while True:
        if left < CHUNK.size:
            file.read(left)  # padding
            left = BLOCK
        head = file.read(CHUNK.size)
        if len(head) < CHUNK.size:
            return
        crc, length, kind = CHUNK.unpack(head)
        left -= CHUNK.size + length
        data = file.read(length) if left >= 0 else b""
        intact = len(data) == length and zlib.crc32(data, zlib.crc32(head[-1:])) == crc
        begins, ends = kind in (WHOLE, FIRST), kind in (WHOLE, LAST)
        if left < 0 or not intact or not WHOLE <= kind <= LAST or begins == bool(parts):
            return
        parts.append(data)
        if ends:
            yield b"".join(parts)
            parts = []


class _Items:
    """Values under nested keys, the last word on each; decoded only when all is read."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], str | None] = {}  # JSON; None: removed

    def __len__(self) -> int:
        return len(self._texts)

    def change(self, record: Any) -> None:
        """Fold in a record's updates and removals."""
        for items, gone in ((record.update, False), (record.remove, True)):
            for item in items:
                keys = _keys(item)
                self._texts.pop(keys, None)  # the newest goes last: it wins over an older parent
                self._texts[keys] = None if gone else item.value_json

    def nested(self) -> dict[str, Any]:
        return _nested(self._texts.items())


def _row(history: Any) -> dict[str, Any]:
    row = _nested((_keys(item), item.value_json) for item in history.item)
    return {"_step": int(history.step.num), **row}


def _keys(item: Any) -> tuple[str, ...]:
    return tuple(item.nested_key) or (item.key,)


def _nested(items: Iterable[tuple[tuple[str, ...], str | None]]) -> dict[str, Any]:
    """Objects within objects, a later word over an earlier one; what lies too deep is left out."""
    found: dict[str, Any] = {}
    for keys, text in items:
        if len(keys) > DEEPEST:
            continue
        inside = found
        for key in keys[:-1]:
            if not isinstance(inside.get(key), dict):
                inside[key] = {}
            inside = inside[key]
        if text is None:
            inside.pop(keys[-1], None)
        else:
            inside[keys[-1]] = _value(text)
    return found


def _value(text: str) -> Any:
    """What the JSON says; None if it cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_own(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "_wandb"}


def _iso(seconds: int) -> str | None:
    """A time since 1970 in words; None for 0, which stands for nothing, and for impossible ones."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat() if seconds else None
    except (OverflowError, ValueError, OSError):
        return None


# --- on the server


def project_runs(project: str, api: Any = None, most: int = MOST_RUNS) -> list[TrackedRun]:
    """The newest runs of "entity/project", newest first, without their history.

    `api` is a wandb.Api, made if None. InputError without an API key, or if the server refuses or
    does not answer.
    """
    api = api or open_project(project)
    with _asking(project):
        api.flush()  # it would repeat its last answer
        runs = api.runs(project, order="-created_at", lazy=False)
        return [_from_server(run, project) for run in islice(runs, most)]


def project_run(project: str, run_id: str, api: Any = None) -> TrackedRun:
    """One run of "entity/project", with its history; see `project_runs`."""
    api = api or open_project(project)
    with _asking(project):
        api.flush()
        run = api.run(f"{project}/{run_id}")
        rows = [dict(row) for row in islice(run.scan_history(use_cache=False), MOST_VALUES)]
        return _from_server(run, project, rows)


def check_project(project: str) -> None:
    """InputError if this cannot be asked for: not of the form "entity/project", or no API key."""
    parts = project.split("/")
    if len(parts) != 2 or not all(part.strip() == part != "" for part in parts):
        raise InputError(f"W&B project {project!r}: it must be of the form ENTITY/PROJECT.")
    check_credentials(f"The W&B project {project}")


def open_project(project: str) -> Any:
    """A wandb.Api to ask for this project; InputError as `check_project`, or from the server."""
    check_project(project)
    with _asking(project):
        import wandb

        return wandb.Api(timeout=TIMEOUT)


@contextmanager
def _asking(project: str) -> Iterator[None]:
    """Whatever asking the server raises is an InputError with its first line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of wandb, requests or the system: none of them promised
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"W&B does not give {project}: {reason[:300]}") from error


def _from_server(run: Any, project: str, rows: Iterable[Mapping[str, Any]] = ()) -> TrackedRun:
    entity, _, name = project.partition("/")

    def media(path: str) -> bytes:
        with _asking(project), tempfile.TemporaryDirectory() as folder:
            file = run.file(path)
            if file.size > LARGEST:
                raise InputError(f"{path} has more than {LARGEST >> 20} MiB.")
            file.download(root=folder, replace=True).close()
            return _read_media(Path(folder), path)

    return TrackedRun(
        id=str(run.id),
        name=run.name or None,
        entity=entity,
        project=name,
        group=run.group or None,
        job_type=getattr(run, "job_type", None) or None,
        tags=tuple(run.tags or ()),
        config=_without_own(run.config),
        summary=_without_own(run.summary_metrics),
        history=tuple(rows),
        state=STATES.get(run.state, "unknown"),
        exit_code=None,
        started=run.created_at or None,
        media=media,
    )
