"""The user's own clean/corrupt pairs: a JSONL file, one object a line.

    {"clean": "...", "corrupt": "...", "answers": [" Mary"], "wrong": [" John"]}
    {"clean_ids": [5, 9, 2], "corrupt_ids": [5, 7, 2], "answers": [4], "wrong": [3]}
    {"clean": "..."}

The last form, for who needs no corrupt prompts; a file has them in all lines or in none.
Every line of the file is checked, also those that are not used, and whatever is wrong is told with
file, line number and value: a pair that does not line up would be patched at the wrong positions
without any error. Knows no model and no metric, only what the metric needs of a line.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.tokens import bos_id, check_count, encode, require_single_token, spell

KEYS = ("clean", "corrupt", "clean_ids", "corrupt_ids", "answers", "wrong", "answer_position")


@dataclass(frozen=True)
class _Reader:
    """What is needed to understand a line."""

    path: Path
    tokenizer: PreTrainedTokenizerBase | None
    d_vocab: int
    prepend_bos: bool
    needs: Mapping[str, bool]  # "answers", "wrong" -> whether the metric needs it
    corrupt_for: str | None  # who needs corrupt prompts

    def where(self, number: int) -> str:
        return f"{self.path}, line {number}"


@dataclass(frozen=True)
class _Line:
    """One line, understood; BOS is in the ids and counted in the position."""

    number: int  # in the file, from 1, blank lines counted
    clean: list[int]
    corrupt: list[int] | None
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    position: int  # whose next-token logits are read


def load(
    path: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    d_vocab: int,
    n: int | None,
    seed: int,
    prepend_bos: bool,
    length: int | None = None,
    needs_answers: bool,
    needs_wrong: bool,
    corrupt_for: str | None = "task=pairs",
) -> Prompts:
    """The lines of the file as prompts [n, pos], in file order; n lines by seed, or all (None).

    `length` keeps only lines of that many tokens, a prepended BOS counted. A line's
    answer_position counts its own tokens, from 0 or backwards from -1, without BOS. Mark: "end".
    `corrupt_for` is named where corrupt prompts are missing; None: nobody needs them, and without
    them `corrupt` equals `clean`.
    Raises InputError, one sentence with file and line number, for anything that cannot be used.
    """
    if n is not None:
        check_count(n)
    if prepend_bos:
        bos_id(tokenizer)  # refuses before the file is read
    needs = {"answers": needs_answers, "wrong": needs_wrong}
    reader = _Reader(Path(path), tokenizer, d_vocab, prepend_bos, needs, corrupt_for)
    lines = [_understand(reader, number, item) for number, item in _objects(reader)]
    if not lines:
        raise InputError(f"{path}: the file has no lines; one JSON object a line is needed")
    _check_all_or_none_corrupt(reader, lines)
    kept = _one_length(reader, lines, length)
    _check_one_position(reader, kept)
    notes = {"lines": len(lines), "lines_dropped_by_length": len(lines) - len(kept)}
    return _collect(_sample(reader, kept, n, seed), notes)


def _objects(reader: _Reader) -> Iterator[tuple[int, dict[str, object]]]:
    """(line number, object) for each line that is not blank."""
    try:
        text = reader.path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{reader.path}: there is no such file (task.path)") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{reader.path}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{reader.path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _json_object(reader.where(number), line)


def _json_object(where: str, line: str) -> dict[str, object]:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, column {error.colno}: broken JSON: {error.msg}") from None
    if not isinstance(item, dict):
        raise InputError(f"{where}: must be a JSON object, got {_kind(item)}")
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    return item


def _understand(reader: _Reader, number: int, item: dict[str, object]) -> _Line:
    where = reader.where(number)
    clean, corrupt = _prompt_ids(reader, where, item)
    position = _position(where, item, len(clean))
    answers, wrong = (_targets(reader, where, item, name) for name in ("answers", "wrong"))
    both = [token for token in answers if token in wrong]
    if both:
        raise InputError(f"{where}: token {both[0]} is both in answers and in wrong")
    bos = [bos_id(reader.tokenizer)] if reader.prepend_bos else []
    corrupt = None if corrupt is None else bos + corrupt
    return _Line(number, bos + clean, corrupt, answers, wrong, position + len(bos))


def _prompt_ids(
    reader: _Reader, where: str, item: dict[str, object]
) -> tuple[list[int], list[int] | None]:
    """(clean, corrupt) ids of one length, without BOS; None for a line without corrupt."""
    as_text = [key for key in ("clean", "corrupt") if key in item]
    as_ids = [key for key in ("clean_ids", "corrupt_ids") if key in item]
    if as_text and as_ids:
        raise InputError(
            f"{where}: has both text ({as_text[0]}) and ids ({as_ids[0]}); give one of them"
        )
    wanted = ("clean_ids", "corrupt_ids") if as_ids else ("clean", "corrupt")
    read = _ids_field if as_ids else _text_field
    for key in wanted:
        if key not in item and (key == wanted[0] or reader.corrupt_for is not None):
            raise InputError(f"{where}: {_missing(reader, key, wanted, bool(as_text or as_ids))}")
    clean = read(reader, where, wanted[0], item[wanted[0]])
    if wanted[1] not in item:
        return clean, None
    corrupt = read(reader, where, wanted[1], item[wanted[1]])
    if len(clean) != len(corrupt):
        raise InputError(
            f"{where}: clean has {len(clean)} tokens, corrupt {len(corrupt)}, but they are"
            f" compared position by position{_spelled(reader, clean, corrupt, bool(as_text))}"
        )
    return clean, corrupt


def _missing(reader: _Reader, key: str, wanted: tuple[str, str], other_there: bool) -> str:
    if key == wanted[0]:
        size = 2 if reader.corrupt_for is not None else 1
        other = "" if other_there else f" (or {' and '.join(('clean_ids', 'corrupt_ids')[:size])})"
        return f"field {key!r} is missing; {' and '.join(wanted[:size])}{other} must be there"
    return (
        f"field {key!r} is missing, and {reader.corrupt_for} needs corrupt prompts;"
        " only method=ifr does without"
    )


def _spelled(reader: _Reader, clean: list[int], corrupt: list[int], is_text: bool) -> str:
    if not is_text or reader.tokenizer is None:
        return ""
    texts = spell(reader.tokenizer, clean), spell(reader.tokenizer, corrupt)
    return f"; clean: {texts[0]}; corrupt: {texts[1]}"


def _text_field(reader: _Reader, where: str, key: str, value: object) -> list[int]:
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a string, got {_kind(value)}")
    if reader.tokenizer is None:
        raise InputError(
            f"{where}: {key} is text, but this model has no tokenizer; give {key}_ids instead"
        )
    ids = encode(reader.tokenizer, value)
    if not ids:
        raise InputError(f"{where}: {key} is empty")
    return [_token_id(reader, where, key, token) for token in ids]


def _ids_field(reader: _Reader, where: str, key: str, value: object) -> list[int]:
    return [_token_id(reader, where, key, token) for token in _items(where, key, value)]


def _items(where: str, key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} must be a list, got {_kind(value)}")
    if not value:
        raise InputError(f"{where}: {key} is empty")
    return value


def _token_id(reader: _Reader, where: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} must hold whole numbers, got {_kind(value)}")
    if not 0 <= value < reader.d_vocab:
        raise InputError(
            f"{where}: {key} holds token {value}, outside the model's vocabulary"
            f" 0..{reader.d_vocab - 1}"
        )
    return value


def _targets(reader: _Reader, where: str, item: dict[str, object], key: str) -> tuple[int, ...]:
    """Ids of `answers` or `wrong`; empty if the field is absent and not needed."""
    if key not in item:
        if reader.needs[key]:
            raise InputError(f"{where}: field {key!r} is missing, and the chosen metric needs it")
        return ()
    ids = tuple(_target(reader, where, key, value) for value in _items(where, key, item[key]))
    twice = [token for token, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{where}: {key} holds token {twice[0]} more than once")
    return ids


def _target(reader: _Reader, where: str, key: str, value: object) -> int:
    if not isinstance(value, str):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{where}: {key} must hold strings or token ids, got {_kind(value)}")
        return _token_id(reader, where, key, value)
    if reader.tokenizer is None:
        raise InputError(
            f"{where}: {key} holds the text {value!r}, but this model has no tokenizer; give ids"
        )
    token = require_single_token(reader.tokenizer, value, f"{where}: {key} holds {value!r}")
    return _token_id(reader, where, key, token)


def _position(where: str, item: dict[str, object], tokens: int) -> int:
    """Index of the answer position among the line's own tokens, from 0."""
    value = item.get("answer_position", -1)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: answer_position must be a whole number, got {_kind(value)}")
    if not -tokens <= value < tokens:
        raise InputError(
            f"{where}: answer_position {value} is outside the prompt's {tokens} tokens"
        )
    return value % tokens


def _check_all_or_none_corrupt(reader: _Reader, lines: list[_Line]) -> None:
    first = lines[0]
    for line in lines:
        if (line.corrupt is None) != (first.corrupt is None):
            has, lacks = (line, first) if first.corrupt is None else (first, line)
            raise InputError(
                f"{reader.where(lacks.number)}: has no corrupt prompt, but line {has.number} has"
                " one; all lines need one, or none"
            )


def _one_length(reader: _Reader, lines: list[_Line], length: int | None) -> list[_Line]:
    """The lines of `length` tokens; without it all lines, which must then be of one length."""
    counts = Counter(len(line.clean) for line in lines)
    listing = ", ".join(f"{count} of {size} tokens" for size, count in sorted(counts.items()))
    listing += "; BOS counted" if reader.prepend_bos else ""
    if length is None:
        _refuse_mixed(reader, lines, counts, listing)
        return lines
    kept = [line for line in lines if len(line.clean) == length]
    if not kept:
        raise InputError(
            f"{reader.path}: no line has task.length={length} tokens (lines: {listing})"
        )
    return kept


def _refuse_mixed(reader: _Reader, lines: list[_Line], counts: Counter[int], listing: str) -> None:
    if len(counts) == 1:
        return
    first = len(lines[0].clean)
    other = next(line for line in lines if len(line.clean) != first)
    common = min(counts, key=lambda size: (-counts[size], size))
    raise InputError(
        f"{reader.where(other.number)}: has {len(other.clean)} tokens, but line {lines[0].number}"
        f" has {first}, and all prompts need one length (lines: {listing});"
        f" task.length={common} uses only the lines of {common} tokens"
    )


def _check_one_position(reader: _Reader, lines: list[_Line]) -> None:
    first = lines[0]
    for line in lines:
        if line.position != first.position:
            raise InputError(
                f"{reader.where(line.number)}: its answer position is token {line.position}, but in"
                f" line {first.number} it is token {first.position}; all lines need the same"
            )


def _sample(reader: _Reader, lines: list[_Line], n: int | None, seed: int) -> list[_Line]:
    if n is None:
        return lines
    if n > len(lines):
        raise InputError(f"{reader.path}: task.n={n}, but only {len(lines)} lines can be used")
    return [lines[i] for i in sorted(random.Random(seed).sample(range(len(lines)), n))]


def _collect(lines: list[_Line], notes: Mapping[str, int | str]) -> Prompts:
    end = lines[0].position
    return Prompts(
        clean=torch.tensor([line.clean for line in lines]),
        corrupt=torch.tensor([line.corrupt or line.clean for line in lines]),
        answers=tuple(line.answers for line in lines),
        wrong=tuple(line.wrong for line in lines),
        answer_position=end,
        marks={"end": (end,) * len(lines)},
        notes=notes,
    )


def _kind(value: object) -> str:
    """A JSON value's kind and the value itself, shortened."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    name = "null" if value is None else kinds.get(type(value), "object")
    shown = json.dumps(value, ensure_ascii=False)
    return name if value is None else f"{name} {shown if len(shown) <= 40 else shown[:37] + '...'}"
