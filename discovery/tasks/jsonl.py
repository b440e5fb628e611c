"""A file of one JSON object a line, strictly: every faulty line is told, and all of them at once.

What Python's reader lets pass in silence (a key twice, half a character) or ends with a traceback
(numbers of thousands of digits, deep nesting) is a fault like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from acdc.errors import InputError

DIGITS = 18  # of a whole number, sign included; no token id has more
SHOWN = 20  # faulty lines told by name

Made = TypeVar("Made")


@dataclass(frozen=True)
class Lines:
    """A file's lines, as a source of prompts."""

    path: Path

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def where(self, number: int) -> str:
        """A line, as messages begin."""
        return line_name(self.path, number)

    def read(self, make: Callable[[int, dict[str, object]], Made]) -> list[Made]:
        """See `read_lines`."""
        return read_lines(self.path, make)


def line_name(path: Path, number: int) -> str:
    """A line, as messages begin."""
    return f"{path}, line {number}"


def read_lines(path: Path, make: Callable[[int, dict[str, object]], Made]) -> list[Made]:
    """What `make` makes of each line's number (from 1, blank lines counted) and object.

    InputError for a file that cannot be read or is empty, and for all lines that are faulty by
    themselves or refused by `make`.
    """
    made = collect(
        lambda n=number, line=line: make(n, json_object(line_name(path, n), line))
        for number, line in _numbered(path)
    )
    if not made:
        raise InputError(f"{path}: the file has no lines; one JSON object a line is needed")
    return made


def collect(makers: Iterable[Callable[[], Made]]) -> list[Made]:
    """What each makes, in order; InputError for all that are refused."""
    made, faults = list[Made](), list[str]()
    for make in makers:
        try:
            made.append(make())
        except InputError as error:
            faults.append(str(error))
    refuse(faults)
    return made


def refuse(faults: Sequence[str]) -> None:
    """Raise InputError with all the faults, one a line, if there are any; of many the first."""
    if faults:
        rest = len(faults) - SHOWN
        more = [f"... and {rest} more lines"] if rest > 0 else []
        raise InputError("\n".join([*faults[:SHOWN], *more]))


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) for each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file (task.path)") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def json_object(place: str, line: str) -> dict[str, object]:
    """The object on a line; InputError, which begins with `place`, for anything else."""
    try:
        item = json.loads(line, object_pairs_hook=_once, parse_int=_whole)
        half = _half_character(item)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}, column {error.colno}: broken JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{place}: brackets are nested too deeply") from None
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    if not isinstance(item, dict):
        raise InputError(f"{place}: must be a JSON object, got {kind(item)}")
    if half:
        raise InputError(f"{place}: {half!r} is half a character (a lone surrogate), which no text"
                         " can hold")  # fmt: skip
    return item


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys all differ."""
    item: dict[str, object] = {}
    for key, value in pairs:
        if key in item:
            raise InputError(f"field {key!r} is there twice")
        item[key] = value
    return item


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise InputError(f"a number of {len(digits)} digits ({digits[:6]}...) is no token id")
    return int(digits)


def _half_character(item: object) -> str:
    """The first lone surrogate in any text of the item."""
    text = json.dumps(item, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def kind(value: object) -> str:
    """A JSON value's kind and the value itself, shortened."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    name = "null" if value is None else kinds.get(type(value), "object")
    shown = json.dumps(value, ensure_ascii=False)
    return name if value is None else f"{name} {shown if len(shown) <= 40 else shown[:37] + '...'}"
