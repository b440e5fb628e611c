"""The user's own clean/corrupt pairs: a JSONL file, one object a line.

    {"clean": "...", "corrupt": "...", "answers": [" Mary"], "wrong": [" John"]}
    {"clean_ids": [5, 9, 2], "corrupt_ids": [5, 7, 2], "answers": [4], "wrong": [3]}
    {"clean": "...", "split": "test"}

The last form, for who needs no corrupt prompts; a file has them in all lines or in none. Equally
`split`, which says whether a line is to search on, to tune on, or to test on; without it lines are
divided by seed.
Every line of the file is checked, also those that are not used, and whatever is wrong is told with
file, line number and value, all faulty lines at once: a pair that does not line up would be patched
at the wrong positions without any error. Knows no model and no metric, only what the metric needs
of a line.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.choices import NoneLeft, Part
from discovery.tasks.jsonl import kind, line_name, read_lines, refuse
from discovery.tasks.tokens import (
    bos_id,
    check_count,
    encode,
    require_single_token,
    spell,
    with_bos,
)

PARTS: tuple[Part, ...] = ("search", "tune", "test")
KEYS = (
    "clean", "corrupt", "clean_ids", "corrupt_ids", "answers", "wrong", "answer_position", "split",
)  # fmt: skip
FEW = 20  # lines below which all are searched on, unless told
TUNE = 0.4  # of the lines that are held out; the rest is to test on


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
        return line_name(self.path, number)


@dataclass(frozen=True)
class _Line:
    """One line, understood; BOS is in the ids and counted in the position."""

    number: int  # in the file, from 1, blank lines counted
    clean: list[int]
    corrupt: list[int] | None
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    position: int  # whose next-token logits are read
    blank: bool  # whether the text that is read up to there ends in a blank
    split: Part | None


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
    part: Part | None = None,
) -> Prompts:
    """The lines of the file as prompts [n, pos], in file order; n lines by seed, or all (None).

    `part` asks for those to search, tune or test on: as the lines themselves say, else n by seed to
    search on (None: half, or all of fewer than 20) and two fifths of the others to tune on.
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
    lines = read_lines(reader.path, partial(_understand, reader))
    _check_all_or_none_corrupt(reader, lines)
    _check_all_or_none_split(reader, lines)
    kept = _one_length(reader, lines, length)
    _check_one_position(reader, kept)
    notes = {"lines": len(lines), "lines_dropped_by_length": len(lines) - len(kept)}
    used = _of_part(reader, kept, part, n, seed)
    return _collect(used, {**notes, **_blank_ends(used)})


def _understand(reader: _Reader, number: int, item: dict[str, object]) -> _Line:
    where = reader.where(number)
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    clean, corrupt = _prompt_ids(reader, where, item)
    position = _position(where, item, len(clean))
    answers, wrong = (_targets(reader, where, item, name) for name in ("answers", "wrong"))
    both = [token for token in answers if token in wrong]
    if both:
        raise InputError(f"{where}: token {both[0]} is both in answers and in wrong")
    blank = position == len(clean) - 1 and any(
        str(item.get(key, ""))[-1:].isspace() for key in ("clean", "corrupt")
    )
    whole = _prefixed(reader, clean)
    corrupt = None if corrupt is None else _prefixed(reader, corrupt)
    if corrupt is not None and len(corrupt) != len(whole):
        raise InputError(f"{where}: BOS begins one of clean and corrupt only")
    position += len(whole) - len(clean)
    return _Line(number, whole, corrupt, answers, wrong, position, blank, _split(where, item))


def _split(where: str, item: dict[str, object]) -> Part | None:
    if "split" not in item:
        return None
    for part in PARTS:
        if item["split"] == part:
            return part
    raise InputError(f"{where}: split is {item['split']!r}; allowed are {', '.join(PARTS)}")


def _prefixed(reader: _Reader, ids: list[int]) -> list[int]:
    return with_bos(ids, bos_id(reader.tokenizer)) if reader.prepend_bos else ids


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
        " ablation=other does without"
    )


def _spelled(reader: _Reader, clean: list[int], corrupt: list[int], is_text: bool) -> str:
    if not is_text or reader.tokenizer is None:
        return ""
    texts = spell(reader.tokenizer, clean), spell(reader.tokenizer, corrupt)
    return f"; clean: {texts[0]}; corrupt: {texts[1]}"


def _text_field(reader: _Reader, where: str, key: str, value: object) -> list[int]:
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a string, got {kind(value)}")
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
        raise InputError(f"{where}: {key} must be a list, got {kind(value)}")
    if not value:
        raise InputError(f"{where}: {key} is empty")
    return value


def _token_id(reader: _Reader, where: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} must hold whole numbers, got {kind(value)}")
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
            raise InputError(f"{where}: {key} must hold strings or token ids, got {kind(value)}")
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
        raise InputError(f"{where}: answer_position must be a whole number, got {kind(value)}")
    if not -tokens <= value < tokens:
        raise InputError(
            f"{where}: answer_position {value} is outside the prompt's {tokens} tokens"
        )
    return value % tokens


def _check_all_or_none_corrupt(reader: _Reader, lines: list[_Line]) -> None:
    having = [line.number for line in lines if line.corrupt is not None]
    lacking = [line.number for line in lines if line.corrupt is None]
    if having:
        refuse(
            [
                f"{reader.where(number)}: has no corrupt prompt, but line {having[0]} has one; all"
                " lines need one, or none"
                for number in lacking
            ]
        )


def _check_all_or_none_split(reader: _Reader, lines: list[_Line]) -> None:
    having = [line.number for line in lines if line.split is not None]
    if having:
        refuse(
            [
                f"{reader.where(line.number)}: has no split, but line {having[0]} has one; all"
                " lines need one, or none"
                for line in lines
                if line.split is None
            ]
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
    refuse(
        [
            f"{reader.where(line.number)}: its answer position is token {line.position}, but in"
            f" line {first.number} it is token {first.position}; all lines need the same"
            for line in lines
            if line.position != first.position
        ]
    )


def _blank_ends(lines: list[_Line]) -> dict[str, str]:
    """A warning of the commonest mistake: the blank belongs to the answer."""
    ends = [line.number for line in lines if line.blank]
    if not ends:
        return {}
    some = "1 prompt ends" if len(ends) == 1 else f"{len(ends)} prompts end"
    return {
        "warning": f"{some} in a blank (line {ends[0]}"
        + (" the first)" if len(ends) > 1 else ")")
        + ", where models continue badly: the blank belongs to the token that follows"
    }


def _of_part(
    reader: _Reader, lines: list[_Line], part: Part | None, n: int | None, seed: int
) -> list[_Line]:
    """The lines of a part, in file order; NoneLeft if it has none."""
    marked = lines[0].split is not None
    if part is None:
        return _sample(reader, lines, n, seed)
    if marked:
        own = [line for line in lines if line.split == part]
        own = _sample(reader, own, n, seed) if part == "search" and own else own
    else:
        size = n or (len(lines) // 2 if len(lines) >= FEW else len(lines))
        search = _sample(reader, lines, size, seed)
        rest = [line for line in lines if line not in search]
        tune = _sample(reader, rest, int(TUNE * len(rest)), seed)
        test = [line for line in rest if line not in tune]
        own = {"search": search, "tune": tune, "test": test}[part]
    if not own:
        raise NoneLeft(f"{reader.path}: no line is left to {part} on")
    return own


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
