"""JSON files: replaced whole or not at all, read with one clear sentence where they are damaged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from acdc.errors import InputError


def write_json(path: Path, value: Any) -> None:
    """Replace the file by `value` as JSON, at once or not at all."""
    write_bytes(path, encode(value, indent=2) + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file, at once or not at all; InputError if the disk or the folder refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        temporary.unlink()  # of a process of this number that was killed
    try:
        with open(temporary, "xb") as file:  # never through a link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def refused(path: Path, error: OSError) -> InputError:
    """What a file that cannot be written is for the user."""
    return InputError(f"Cannot write {path}: {error.strerror or error}.")


def write_all(descriptor: int, data: bytes) -> None:
    """Hand all of it to the operating system; OSError if it refuses."""
    while data:  # one turn, unless the disk fills up just here
        data = data[os.write(descriptor, data) :]


def encode(value: Any, indent: int | None = None) -> bytes:
    """JSON as UTF-8, ValueError for NaN and infinities; a lone surrogate becomes a JSON escape."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)
    except ValueError as error:
        key = _not_finite(value)
        raise ValueError(f"{key} is not a finite number." if key else str(error)) from error
    return text.encode("utf-8", "backslashreplace")


def _not_finite(value: Any, key: str = "") -> str | None:
    """The key path of the first NaN or infinity."""
    if isinstance(value, float):
        return f"{key or 'the value'} = {value}" if not math.isfinite(value) else None
    if isinstance(value, Mapping):
        pairs = ((f"{key}.{k}" if key else str(k), v) for k, v in value.items())
    elif isinstance(value, list | tuple):
        pairs = ((f"{key}[{i}]", v) for i, v in enumerate(value))
    else:
        return None
    return next(filter(None, (_not_finite(v, k) for k, v in pairs)), None)


def read_json(path: Path) -> Mapping[str, Any] | None:
    """The object in the file; None if there is no file, or an empty one that was just created."""
    text = path.read_bytes() if path.exists() else b""
    return _decode(text, str(path)) if text.strip() else None


def read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """One object a line; a last line without its newline is torn, and left out."""
    if not path.exists():
        return ()
    lines = path.read_bytes().split(b"\n")[:-1]  # behind the last newline: nothing, or a torn line
    return tuple(_decode(line, f"{path}, line {n}") for n, line in enumerate(lines, 1))


def _decode(text: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object.")
    return value
