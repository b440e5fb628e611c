"""Run folders on disk, read without trust: a file may be huge, torn, hostile or not there.

Nothing outside the given root, a resolved path, is opened, whatever links lie below it, and only
regular files. What cannot be read is an InputError with the reason; the pages show it and go on.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acdc.errors import InputError

Stamp = tuple[tuple[int, int] | None, ...]
LARGEST = 32 * 2**20  # bytes of one file
TAIL = 64 * 2**10  # bytes of a growing file's end, where only its last line is wanted
DEEPEST = 12  # folders below the root
MOST_RUNS = 5000
# a pipe must not make us wait, nor may a link take the place of what was just looked at
READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
# a folder with one of them is a run
MARKS = ("status.json", "circuit.json", "result.json", "compare.json", "components.json")
MIRRORED = (*MARKS, "sweep.json")  # beside one of them, `wandb` repeats what is there already
LOGGED = "offline-run-"  # so begins the name of a W&B run's directory


def find_runs(root: Path) -> list[str]:
    """Paths below the root, with "/" between names, of all folders that hold a run, sorted.

    Offline W&B runs are runs too, except those that mirror a run folder or a sweep. Links to
    folders are not followed; the root itself, if it is a run, is ".".
    """
    found = []
    for folder, below, files in os.walk(root, followlinks=False):
        parts = Path(folder).relative_to(root).parts
        name = os.path.basename(folder)
        marked = any(mark in files for mark in MARKS)
        logged = name.startswith(LOGGED) and not marked
        if marked or logged:
            found.append("/".join(parts) or ".")
        if logged or len(parts) >= DEEPEST:
            below.clear()
        elif name == "wandb":
            below[:] = [other for other in below if other.startswith(LOGGED)]
        elif any(mark in files for mark in MIRRORED):
            below[:] = [other for other in below if other != "wandb"]
        below[:] = sorted(filter(_is_shown, below))
        if len(found) >= MOST_RUNS:
            break
    return sorted(found)


def run_folder(root: Path, run: str) -> Path:
    """The resolved folder of a run named as by `find_runs`; InputError if outside or no run."""
    folder = any_folder(root, run)
    if folder and (_is_marked(folder) or is_logged(folder)):
        return folder
    raise InputError("There is no such run.")


def any_folder(root: Path, name: str) -> Path | None:
    """The resolved folder of this name, "." for the root; None if there is none inside it."""
    parts = name.split("/")
    plain = name == "." or all(part not in ("", ".", "..") for part in parts)
    real = _inside(root, root.joinpath(*parts)) if plain and "\0" not in name else None
    return Path(real) if real else None


def is_logged(folder: Path) -> bool:
    """Whether a folder is an offline W&B run and no run folder."""
    return folder.name.startswith(LOGGED) and folder.is_dir() and not _is_marked(folder)


def _is_marked(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def read_json(root: Path, path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or an empty one."""
    text = _read(root, path)
    return _decode(text, path.name) if text and text.strip() else {}


def read_lines(root: Path, path: Path) -> list[dict[str, Any]]:
    """One object a line; a last line without its newline is still being written and left out."""
    text = _read(root, path) or b""
    lines = text.split(b"\n")[:-1]
    return [_decode(line, f"{path.name}, line {n}") for n, line in enumerate(lines, 1)]


def read_last_line(root: Path, path: Path) -> dict[str, Any]:
    """The last whole line, or nothing; reads the end of the file only."""
    lines = (_read(root, path, tail=TAIL) or b"").split(b"\n")
    return _decode(lines[-2], f"{path.name}, last line") if len(lines) > 1 else {}


def stamp(folder: Path, names: Iterable[str]) -> Stamp:
    """What changes whenever one of these files does, or a file comes or goes."""
    found = []
    for path in (str(folder), *(os.path.join(folder, name) for name in names)):
        try:
            about = os.stat(path)
            found.append((about.st_mtime_ns, about.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


def read_bytes(root: Path, path: Path) -> bytes:
    """A file that must be there, wherever below the root links on the way to it lead."""
    real = _inside(root, path)
    if real is None:
        raise InputError(f"{path.name} is missing, or a link that leads outside.")
    return _read(root, Path(real)) or b""


def exists(root: Path, path: Path) -> bool:
    """Whether a regular file inside the root has this path in a run's folder."""
    return path.is_file() and (not path.is_symlink() or _inside(root, path) is not None)


def _is_shown(name: str) -> bool:
    """Not hidden, and text that can stand in an address."""
    return name[0] != "." and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _inside(root: Path, path: Path) -> str | None:
    """Where the path really leads, if that is below the root."""
    try:
        real = os.path.realpath(path, strict=True)
    except (OSError, ValueError):  # missing, a circle of links, a strange name
        return None
    return real if real == str(root) or real.startswith(os.path.join(root, "")) else None


def _read(root: Path, path: Path, tail: int | None = None) -> bytes | None:
    """The file's bytes, or those at its end; None if there is none."""
    if not os.path.lexists(path):
        return None
    # the folder is known to be inside, so only a link of the file itself can lead elsewhere
    real = _inside(root, path) if path.is_symlink() else str(path)
    if real is None:
        raise InputError(f"{path.name} is a link that leads outside, so it is not read.")
    try:
        descriptor = os.open(real, READ_ONLY)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise InputError(f"{path.name} is not a regular file, so it is not read.")
            if tail is not None:
                file.seek(max(about.st_size - tail, 0))
                return file.read(tail)
            if about.st_size > LARGEST:
                size = f"{about.st_size / 2**20:.0f} MiB"
                raise InputError(f"{path.name} has {size}; {LARGEST >> 20} are the most we read.")
            return file.read(LARGEST)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _decode(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object; NaN and infinities, which Python reads, are left to whoever uses them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{name} is not JSON that can be read: {why[:200]}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} is not a JSON object.")
    return value
