"""The run folder: what a run leaves on disk, and how it is read back.

    config.json    the resolved configuration, the overrides that led to it, its hash
    status.json    state (running, done, failed), process, host, times; the error if it failed
    metrics.jsonl  one line per reader of the search
    edges.jsonl    one line per tested edge; holds nothing that differs between equal runs
    circuit.json   the kept edges; scores.npz beside it has the scores of all
    result.json, circuit.png, circuit.svg, wandb/

Whole JSON files are replaced atomically, lines are handed to the operating system at once, so a
killed run keeps all that it had written. Knows no model and no tracker; the contents are plain
mappings. Problems with the folder itself are the user's to solve and come as InputError.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from acdc.errors import InputError
from discovery.runs.json_files import encode, read_json, read_lines, refused, write_all, write_bytes

HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 90.0  # without a heartbeat; then a run on another host is taken for killed


@dataclass(frozen=True)
class TestedEdge:
    """One row of the edge table."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    edge: str
    order: int  # 0 for the first edge that was tested, or that scores best
    effect: float
    kept: bool


class Terminated(SystemExit):
    """SIGTERM arrived; the exit code is the one shells expect (128 + 15)."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "terminated by SIGTERM"


@contextmanager
def termination_as_exit() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that `with` blocks close what they opened.

    Job managers send SIGTERM before they kill. A second one is ignored while the first is being
    handled. Python allows signal handlers in the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the configuration; the order of keys does not matter."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class RunFolder:
    """One run's folder while the run writes it; made by `create`, used as a context manager.

    While the block lasts, status.json is renewed every few seconds: a sign of life for other hosts.
    Leaving it records how the run ended: done, or failed with the exception, which goes on.
    """

    def __init__(self, folder: Path, status: Mapping[str, Any], config_hash: str) -> None:
        self.folder = folder
        self.config_hash = config_hash  # of everything that can change a result
        self._status = dict(status)
        self._place = _identity(folder)
        self._files: dict[str, int] = {}  # name -> descriptor of a file that is appended to
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    def create(
        cls, path: Path, config: Mapping[str, Any], overrides: Sequence[str], goes_on: bool = False
    ) -> RunFolder:
        """Claim the folder for a new run; InputError if it holds one already.

        With `goes_on`, a run of the same configuration that was killed or failed is taken up: its
        files stay. Other files may lie there. Of several processes that try at once, exactly one
        succeeds.
        """
        record = {"config": config, "overrides": list(overrides), "config_hash": ""}
        encode(record)  # complain about a value before anything is written
        record["config_hash"] = config_hash(
            {key: value for key, value in config.items() if key != "tracking"}
        )
        now = _now()
        status = {
            "state": "running",
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "host": socket.gethostname(),
            "started": now,
            "updated": now,
        }
        if goes_on:
            _let_go(path, record["config_hash"])
        _claim(path, status)
        run = cls(path, status, record["config_hash"])
        try:
            run.write("config.json", record)
        except BaseException as error:
            run._fail(error)
            raise
        return run

    def path(self, name: str) -> Path:
        """Where the file of this name lies."""
        return self.folder / name

    def write(self, name: str, value: Any) -> None:
        """Replace a JSON file of the folder, at once or not at all.

        InputError if the folder was moved away, as one taken for killed may be, or another put in
        its place: that is no longer this run's.
        """
        self.write_bytes(name, encode(value, indent=2) + b"\n")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file of the folder, as `write` does."""
        if _identity(self.folder) != self._place:
            raise InputError(f"{self.folder} is no longer the folder that this run began in.")
        write_bytes(self.path(name), data)

    def size(self, name: str) -> int:
        """Bytes of a file of the folder; 0 if there is none."""
        path = self.path(name)
        return path.stat().st_size if path.exists() else 0

    def truncate(self, name: str, size: int) -> None:
        """Cut a file that is appended to back to its first bytes; nothing if there is none."""
        if self.size(name):
            os.truncate(self.path(name), size)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """One line on one reader."""
        self._append("metrics.jsonl", [row])

    def append_edges(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One line on each tested edge; deterministic values only (no times)."""
        self._append("edges.jsonl", rows)

    def __enter__(self) -> RunFolder:
        self._heart.start()
        return self

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(InputError):  # a full disk is for the run itself to meet
                self._update()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._heart.join()  # the last word on the state is said here
        for descriptor in self._files.values():
            with suppress(OSError):  # the data was handed over when it was appended
                os.close(descriptor)
        self._files.clear()
        if error is None:
            self._update(state="done")
        else:
            self._fail(error)

    def _update(self, **changes: Any) -> None:
        self._status.update(changes, updated=_now())
        self.write("status.json", self._status)

    def _fail(self, error: BaseException) -> None:
        details = failure(error)
        try:
            self._update(state="failed", error=details)
        except InputError:  # a full disk must not hide what went wrong
            self._overwrite_status({**self._status, "error": {**details, "traceback": None}})

    def _overwrite_status(self, status: Mapping[str, Any]) -> None:
        """Say it in the block that status.json has already: no temporary file fits any more."""
        if _identity(self.folder) != self._place:
            return
        with suppress(OSError), open(self.path("status.json"), "r+b") as file:
            file.write(encode(status, indent=2) + b"\n")
            file.truncate()

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows as whole lines, or none of them."""
        data = b"".join(encode(row) + b"\n" for row in rows)
        path = self.path(name)
        try:
            if name not in self._files:
                self._files[name] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            descriptor = self._files[name]
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        except OSError as error:
            raise refused(path, error) from error


@dataclass(frozen=True)
class Run:
    """A run folder as found on disk; what is missing is None or empty."""

    folder: Path
    state: str  # running, done, failed, killed (said running, process gone) or unknown
    status: Mapping[str, Any]
    config: Mapping[str, Any] | None  # with the members config, overrides and config_hash
    metrics: tuple[Mapping[str, Any], ...]
    edges: tuple[Mapping[str, Any], ...]
    circuit: Mapping[str, Any] | None  # the kept edges; acdc.circuit.read_json has all scores
    result: Mapping[str, Any] | None


def read_run(path: Path, lines: bool = True) -> Run:
    """Read a run that ended, was killed, or is still being written.

    `lines=False` leaves out metrics and edges, which are long. Missing files and a last line that
    was cut off are normal; other damage is an InputError.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder, so it holds no run.")
    status = read_json(path / "status.json") or {}
    return Run(
        folder=path,
        state=state_of(status),
        status=status,
        config=read_json(path / "config.json"),
        metrics=read_lines(path / "metrics.jsonl") if lines else (),
        edges=read_lines(path / "edges.jsonl") if lines else (),
        circuit=read_json(path / "circuit.json"),
        result=read_json(path / "result.json"),
    )


def failure(error: BaseException) -> dict[str, str]:
    """An exception as it is recorded: type, message and whole traceback."""
    return {
        "type": type(error).__name__,
        "message": _message(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def record_refusal(path: Path, overrides: Sequence[str], error: Exception) -> None:
    """Leave a failed run for a job that was refused before it began; a run there is left alone."""
    with suppress(InputError, type(error)), RunFolder.create(path, {}, overrides):
        raise error


def goes_on(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder holds a run of this configuration that ended before it was done."""
    hashed = config_hash({key: value for key, value in config.items() if key != "tracking"})
    return _left_off(path, hashed)


def _left_off(folder: Path, hashed: str) -> bool:
    try:
        state = state_of(read_json(folder / "status.json") or {})
        record = read_json(folder / "config.json") or {}
    except InputError:
        return False
    return state in ("killed", "failed") and record.get("config_hash") == hashed


def _let_go(folder: Path, hashed: str) -> None:
    """Take the status of a run that left off out of the way; of several, one rename succeeds."""
    if _left_off(folder, hashed):
        with suppress(FileNotFoundError):
            os.rename(folder / "status.json", folder / "status.earlier.json")


def _claim(folder: Path, status: Mapping[str, Any]) -> None:
    """Write the first status.json; creating it is what decides a race."""
    path = folder / "status.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError as error:
        if folder.is_dir():
            raise InputError(_occupied(folder)) from None
        raise refused(folder, error) from error
    except OSError as error:
        raise refused(path, error) from error
    try:
        write_all(descriptor, encode(status, indent=2) + b"\n")
        os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise refused(path, error) from error
    finally:
        os.close(descriptor)


def _occupied(folder: Path) -> str:
    try:
        status = read_json(folder / "status.json") or {}
    except InputError:
        status = {}
    state, process, host = state_of(status), f"process {status.get('pid')}", status.get("host")
    here = host == socket.gethostname()
    if state == "running":
        where = "is still alive" if here else f"on host {host}, as far as can be seen from here"
        state = f"running, {process} {where}"
    elif state == "killed":
        gone = "is gone" if here else f"on host {host} is silent since {status.get('updated')}"
        state = f"killed: {process} {gone}"
    return (
        f"{folder} already holds a run ({state}). "
        "Choose another folder with hydra.run.dir=... or delete this one; a run that was killed"
        " goes on if the same is asked of it."
    )


def state_of(status: Mapping[str, Any]) -> str:
    """What status.json says, except that a running run was killed if its process is gone.

    On this host the process is looked up; on another, it is gone if it has been silent for long.
    """
    state = str(status.get("state", "unknown"))
    if state != "running":
        return state
    if status.get("host") == socket.gethostname():
        return state if _alive(status.get("pid"), status.get("born")) else "killed"
    return "killed" if _seconds_since(status.get("updated")) > SILENT_SECONDS else state


def _seconds_since(time: object) -> float:
    """0 for what is no time."""
    try:
        since = datetime.now(timezone.utc) - datetime.fromisoformat(str(time))
    except (ValueError, TypeError):  # no time, or one without a zone
        return 0.0
    return since.total_seconds()


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another that takes its name."""
    try:
        about = os.stat(folder)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _born(pid: int) -> str | None:
    """When the process began, in the kernel's ticks; None where there is no /proc."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else None


def _stat(pid: int) -> list[str]:
    """State, parent and so on (proc(5), from field 3 on); empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _alive(pid: object, born: object) -> bool:
    """Whether the process is there, and not a later one of its number."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    if born is not None and born != _born(pid):
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's process
    return _stat(pid)[:1] != ["Z"]  # a killed process stays as a zombie until its parent asks


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted from the keyboard"
    if type(error) is SystemExit:
        return f"exit with code {error.code}"
    return str(error)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
